"""How long work reports on itself: the caller passes in what draws the bar."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Wraps an iterable: yields its items and shows how far it is; `total` None means unknown."""

    def __call__(self, items: Iterable[T], what: str, total: int | None) -> Iterable[T]: ...


def silent(items: Iterable[T], what: str, total: int | None) -> Iterable[T]:  # noqa: ARG001
    """A Progress that shows nothing."""
    return items
