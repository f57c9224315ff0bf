"""A figure beside what it is to reach."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from benchmarks.openloop.trace import Trace

Kept = Literal["yes", "NO", "not known"]


class Figure(msgspec.Struct, frozen=True, omit_defaults=True):
    """`value` is None where it was not found; `bound` is the `least` it may be, or the `most`. A `verdict` says whether
    it is kept where the value alone does not; `note` is what else one must know of the value."""

    name: str
    value: float | None
    bound: float
    side: Literal["least", "most"]
    unit: str
    verdict: Kept | None = None
    note: str = ""

    @classmethod
    def least(cls, name: str, value: float | None, bound: float, unit: str = "") -> "Figure":
        return cls(name, value, bound, "least", unit)

    @classmethod
    def most(
        cls, name: str, value: float | None, bound: float, unit: str = "", *, verdict: Kept | None = None
    ) -> "Figure":
        return cls(name, value, bound, "most", unit, verdict)

    @classmethod
    def lost(cls, during: str, requests: int | None) -> "Figure":
        """Of `lost_of`: there may be none."""
        return cls.most(f"{during}, requests lost", requests, 0)

    @property
    def kept(self) -> Kept:
        if self.verdict is not None:
            return self.verdict
        if self.value is None:
            return "not known"
        return "yes" if (self.value >= self.bound if self.side == "least" else self.value <= self.bound) else "NO"

    def row(self) -> tuple[str, ...]:
        """For people."""
        value = "-" if self.value is None else f"{self.value:.4g} {self.unit}".strip()
        sign = ">=" if self.side == "least" else "<="
        name = f"{self.name} ({self.note})" if self.note else self.name
        return name, value, f"{sign} {self.bound:g} {self.unit}".strip(), self.kept


def told(figures: Sequence[Figure]) -> dict[str, dict[str, object]]:
    """For machines, by name."""
    return {each.name: {**msgspec.to_builtins(each), "kept": each.kept} for each in figures}


def lost_of(trace: Trace) -> int:
    """Requests without an answer, or with one that is neither good nor a refusal; those of the warm-up too."""
    return msgspec.structs.replace(trace, warm_s=0.0).rate().failed


def percentile(values: Sequence[float], percent: int) -> float | None:
    """A value that occurred (nearest rank); None of nothing."""
    ordered = sorted(values)
    return ordered[-(-len(ordered) * percent // 100) - 1] if ordered else None
