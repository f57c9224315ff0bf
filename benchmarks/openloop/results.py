"""What the server scenario finds: points, each one offered rate, and the highest rate that kept the bound."""

import math
from typing import Literal

import msgspec

Scenario = Literal["http", "engine"]


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One offered rate, held for `seconds`; every request of that time counts, and none of the warm-up before it.

    sent: requests whose time came; each is `answered`, `refused` (503 or 429: no room) or `failed` (another status, a
        broken connection, no connection free, no answer in time).
    p50_ms, p90_ms, p99_ms: latency from the time the request was *scheduled* for. One without an answer counts as
        slower than any, so shedding load never makes a percentile better. None where n is too small, and where the
        percentile falls among requests without an answer.
    late_p50_ms, late_p99_ms: the generator's own lateness, sent less scheduled.
    void: why this point says nothing about the server; "" where it does.
    """

    offered_rps: float
    seconds: float
    sent: int
    answered: int
    refused: int
    failed: int
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    late_p50_ms: float
    late_p99_ms: float
    void: str = ""


class ServerResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The highest rate of `points` whose percentile `percent` kept `bound_ms`; None where none was found to.

    `points` are in the order they were measured, void ones among them. What the server can do lies between `kept_rps`
    and `broken_rps`, the lowest rate of `points` that broke the bound: None where the search ended before one did.
    """

    scenario: Scenario
    bound_ms: float
    percent: int
    best_rps: float | None
    points: tuple[Rate, ...]
    broken_rps: float | None = None

    @property
    def kept_rps(self) -> float | None:
        """What `best_rps` tells, as the lower end of what is known."""
        return self.best_rps

    @property
    def is_whole(self) -> bool:
        """Whether `best_rps` is the peak: a rate above it broke the bound, and no rate between the two stayed void.
        Where it is not, the peak is at least `best_rps`, and a figure that needs it from above is not known."""
        kept, broken = self.best_rps, self.broken_rps
        if kept is None or broken is None:
            return False
        return not any(point.void and kept < point.offered_rps < broken for point in self.points)

    @property
    def at_most_rps(self) -> float:
        """The peak is no higher; infinite where nothing is known above `best_rps`."""
        if self.best_rps is not None and self.is_whole:
            return self.best_rps
        return math.inf if self.broken_rps is None else self.broken_rps


def both(one: ServerResult, other: ServerResult) -> ServerResult:
    """Two searches of the same thing: what is known is what neither contradicts, so that what slowed the machine during
    one of them leaves the figure open instead of deciding it."""
    kept = [each.kept_rps for each in (one, other) if each.kept_rps is not None]
    broken = [each.broken_rps for each in (one, other) if each.broken_rps is not None]
    return msgspec.structs.replace(
        one,
        best_rps=min(kept) if len(kept) == 2 else None,
        broken_rps=max(broken) if len(broken) == 2 else None,
        points=(*one.points, *other.points),
    )
