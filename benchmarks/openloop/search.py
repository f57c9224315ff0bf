"""The highest rate that keeps a bound: doubling until it breaks, then bisection. Pure: what a rate does is asked."""

import math
from collections.abc import Callable
from typing import Final

from benchmarks.openloop.results import Rate, Scenario, ServerResult
from serving.errors import BadRequest

PERCENTS: Final = (50, 90, 99)  # the percentiles a Rate has
CLOSE_ENOUGH: Final = 1.02  # the search ends when what broke the bound is so little above what kept it
TRIES: Final = 3  # at a rate whose points are void: what holds a generator up for a moment ends no search
MOST_DOUBLINGS: Final = 16  # or halvings, from the start on: a factor of 65,536 says that something else is wrong


def highest_rate(
    probe: Callable[[float], Rate],
    *,
    bound_ms: float,
    percent: int = 99,
    start_rps: float,
    steps: int,
    scenario: Scenario = "http",
) -> ServerResult:
    """Ask `probe` about rates from `start_rps` on: doubled while the bound is kept (halved while it is not), up to
    MOST_DOUBLINGS times; then, up to `steps` times, the geometric mean of the best that kept it and the worst that did
    not. Six steps bring these within CLOSE_ENOUGH of each other.

    A rate whose point is void is asked about up to TRIES times. Is it void every time, nothing is known of it, and what
    lies between it and the best that kept the bound is searched; without such a rate the search ends. A rate breaks the
    bound when its percentile exceeds it, or falls among requests that got no good answer.

    Raises:
        BadRequest: a percentile that points do not have, or nothing to search.
    """
    require_search(bound_ms=bound_ms, percent=percent, start_rps=start_rps, steps=steps)
    points: list[Rate] = []
    kept, broken, above = 0.0, math.inf, math.inf  # `above`: searched is below it, for it broke the bound or is void
    left = {False: 1 + MOST_DOUBLINGS, True: steps}  # by whether there is something to bisect
    while above > kept * CLOSE_ENOUGH and left[bisects := 0 < kept < above < math.inf]:
        left[bisects] -= 1
        point = _ask(probe, _next_rps(kept, above, start_rps=start_rps), points=points)
        if point.void and not kept:
            break
        if not point.void and keeps(point, bound_ms=bound_ms, percent=percent):
            kept = point.offered_rps
        else:
            above = point.offered_rps
            broken = broken if point.void else above
    broken_rps = broken if broken < math.inf else None
    return ServerResult(scenario, bound_ms, percent, kept or None, tuple(points), broken_rps)


def keeps(point: Rate, *, bound_ms: float, percent: int) -> bool:
    """Whether the point's percentile is within the bound."""
    found_ms = {50: point.p50_ms, 90: point.p90_ms, 99: point.p99_ms}[percent]
    return found_ms is not None and found_ms <= bound_ms


def _ask(probe: Callable[[float], Rate], rps: float, *, points: list[Rate]) -> Rate:
    for _ in range(TRIES):
        points.append(probe(rps))
        if not points[-1].void:
            break
    return points[-1]


def _next_rps(kept: float, above: float, *, start_rps: float) -> float:
    if not kept:
        return start_rps if above == math.inf else above / 2
    return 2 * kept if above == math.inf else math.sqrt(kept * above)


def require_search(*, bound_ms: float, percent: int, start_rps: float, steps: int) -> None:
    """Raises BadRequest: a percentile that points do not have, or nothing to search."""
    if percent not in PERCENTS:
        known = ", ".join(f"p{each}" for each in PERCENTS)
        raise BadRequest(f"a rate cannot be bounded by p{percent}: its points have {known}")
    for name, value in (("bound_ms", bound_ms), ("start_rps", start_rps), ("steps", steps)):
        if not 0 < value < math.inf:
            raise BadRequest(f"{name} is {value:g}: give a number above 0")
