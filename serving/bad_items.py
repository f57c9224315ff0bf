"""An item that a model cannot read, named by its place among those that its client sent."""

from typing import Self

from serving.errors import BadRequest


class BadItem(BadRequest):
    """Item `index` of a request: `why` is what is wrong with it."""

    def __init__(self, index: int, why: str) -> None:
        super().__init__(f"item {index} {why}")
        self.index, self.why = index, why

    def behind(self, count: int) -> Self:
        """The same of a request in which `count` items come before those that it was found among."""
        return type(self)(self.index + count, self.why)
