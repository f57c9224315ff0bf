"""A figure beside what it is to reach."""

from collections.abc import Sequence
from typing import Literal

import msgspec

Kept = Literal["yes", "NO", "not known"]


class Figure(msgspec.Struct, frozen=True):
    """`value` is None where it was not found; `bound` is the `least` it may be, or the `most`."""

    name: str
    value: float | None
    bound: float
    side: Literal["least", "most"]
    unit: str

    @classmethod
    def least(cls, name: str, value: float | None, bound: float, unit: str = "") -> "Figure":
        return cls(name, value, bound, "least", unit)

    @classmethod
    def most(cls, name: str, value: float | None, bound: float, unit: str = "") -> "Figure":
        return cls(name, value, bound, "most", unit)

    @property
    def kept(self) -> Kept:
        if self.value is None:
            return "not known"
        return "yes" if (self.value >= self.bound if self.side == "least" else self.value <= self.bound) else "NO"

    def row(self) -> tuple[str, ...]:
        """For people."""
        value = "-" if self.value is None else f"{self.value:.4g} {self.unit}".strip()
        sign = ">=" if self.side == "least" else "<="
        return self.name, value, f"{sign} {self.bound:g} {self.unit}".strip(), self.kept


def told(figures: Sequence[Figure]) -> dict[str, dict[str, object]]:
    """For machines, by name."""
    return {each.name: {**msgspec.to_builtins(each), "kept": each.kept} for each in figures}


def percentile(values: Sequence[float], percent: int) -> float | None:
    """A value that occurred (nearest rank); None of nothing."""
    ordered = sorted(values)
    return ordered[-(-len(ordered) * percent // 100) - 1] if ordered else None
