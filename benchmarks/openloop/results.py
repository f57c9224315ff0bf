"""What the server scenario finds: points, each one offered rate, and the highest rate that kept the bound."""

from typing import Literal

import msgspec

Scenario = Literal["http", "engine"]


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One offered rate, held for `seconds`; every request of that time counts, and none of the warm-up before it.

    sent: requests whose time came; each is `answered`, `refused` (503: no room) or `failed` (another status, a broken
        connection, no connection free, no answer in time).
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

    `points` are in the order they were measured, void ones among them.
    """

    scenario: Scenario
    bound_ms: float
    percent: int
    best_rps: float | None
    points: tuple[Rate, ...]
