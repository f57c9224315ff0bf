"""Which items share a call: those of like lengths, as long as that pays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol


class Packing(Protocol):
    """Says when items share a call; serving.costs.Costs is one. `most` items do at the utmost."""

    @property
    def most(self) -> int: ...

    def pays(self, items: int, length: int, *, more: int, of_length: int) -> bool:
        """Whether `more` items of `of_length` tokens join a call of `items` that are padded to `length`."""


@dataclass(frozen=True)
class Fixed:
    """As many as fit, whatever padding costs."""

    most: int

    def pays(self, items: int, length: int, *, more: int, of_length: int) -> bool:  # noqa: ARG002 as Packing asks
        """While there is room."""
        return items + more <= self.most


ALONE: Final = Fixed(1)


def packed(lengths: Sequence[int], *, packing: Packing) -> Iterator[list[int]]:
    """The places of items that have so many tokens, a list for each call: those of like lengths, which pad each other
    least. An item joins only where that costs less than a call of its own, so all calls cost no more than each alone.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    group = order[:1]
    for place in order[1:]:
        if packing.pays(len(group), lengths[group[-1]], more=1, of_length=lengths[place]):
            group.append(place)
        else:
            yield group
            group = [place]
    if group:
        yield group
