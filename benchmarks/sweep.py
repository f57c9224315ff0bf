"""Which way of running a bundle answers the most requests within a bound on latency: the search, apart from measuring.

Settings are sessions x threads of each x executors x batch policy. Round one measures every split of the cores, round
two the other executors and batch policies of the best, round three the best once more: of many noisy figures the
highest is luck in part, so a finalist counts with the less of two.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from benchmarks.openloop.plan import Plan
from benchmarks.openloop.results import Rate, ServerResult
from serving.errors import BadRequest, Failure, Transient
from serving.instances import Varies
from serving.tuning import EXECUTORS_PER_SESSION, BatchPolicy, Earned, Point, Setting, Together, most_earned

Measure = Callable[[Setting], ServerResult]  # may raise Varies: this setting would change answers
Tell = Callable[[Earned], None]
LeftOut = Callable[[Setting, Failure], None]

FINALISTS: Final = 3


def sweep(
    cores: int,
    measure: Measure,
    *,
    items_per_request: int = 1,
    tell: Tell = lambda _: None,
    left_out: LeftOut = lambda _setting, _why: None,
) -> tuple[Earned, ...]:
    """What each setting earned; finalists are measured twice. Left out are those that would change answers, and those
    whose process died, which are told: one that takes more memory than there is says nothing against the others.

    Raises:
        Transient: every point of round one was void; the other rounds would only take longer to say so.
        Failure: no setting is left; why the last one is not.
    """
    found = _Rounds(measure, tell, left_out)
    found.measure_all(splits(cores))
    points = [point for each in found.earned.values() for point in each.points]
    if all(point.void for point in points):
        raise Transient(f"nothing can be measured here: {points[-1].void}; leave the machine alone and run it again")
    best = _best(found.earned)
    others = [other for setting in best for other in variations(setting, items_per_request=items_per_request)]
    found.measure_all(others)
    found.measure_all(list(reversed(_best(found.earned))))
    return tuple(found.earned.values())


@dataclass
class _Rounds:
    """Measures settings, one round after the other; keeps what each earned in all of them."""

    measure: Measure
    tell: Tell
    left_out: LeftOut
    earned: dict[Setting, Earned] = field(default_factory=dict)

    def measure_all(self, settings: Sequence[Setting]) -> None:
        died = None
        for setting in settings:
            try:
                self.earned[setting] = _more(self.earned.get(setting), setting, self.measure(setting))
            except Varies:
                continue
            except Failure as why:
                if type(why) is not Failure:  # a request, a bundle or a machine that fails every setting
                    raise
                died = why
                self.earned.pop(setting, None)
                self.left_out(setting, why)
            else:
                self.tell(self.earned[setting])
        if died is not None and not self.earned:
            raise died


def splits(cores: int) -> tuple[Setting, ...]:
    """Sessions and threads in powers of two, and all that are left: what fills the cores, and what leaves some to
    tokenization and HTTP. Each with one item in its sessions, and where there is but one session one beside it."""
    found = [
        (sessions, threads)
        for sessions in _powers(cores)
        for threads in sorted({*_powers(cores // sessions), cores // sessions})
    ]
    return tuple(
        Setting(sessions=sessions, threads=threads, executors=min(2, cores) if sessions == 1 else sessions)
        for sessions, threads in found
    )


def variations(setting: Setting, *, items_per_request: int) -> tuple[Setting, ...]:
    """The same split with the other numbers of executors; and, of requests that hold several items, with items
    together."""
    executors = {setting.sessions, EXECUTORS_PER_SESSION * setting.sessions} - {setting.executors}
    sizes = {min(size, items_per_request) for size in (4, 16)} if items_per_request > 1 else set()
    policies: list[BatchPolicy] = [Together(size) for size in sorted(sizes)]
    return (
        *(msgspec.structs.replace(setting, executors=count) for count in sorted(executors)),
        *(msgspec.structs.replace(setting, batch=policy) for policy in policies),
    )


def winner(earned: Sequence[Earned], *, plan: Plan) -> Earned:
    """The finalist that earned most (`serving.tuning.most_earned`).

    Raises:
        Transient: none did, and points were void, so it may not be the bundle's fault.
        BadRequest: none kept the bound each time it was measured.
    """
    best = most_earned(earned)
    if best:
        return best
    points = [point for each in earned for point in each.points]
    if voids := [point.void for point in points if point.void]:
        raise Transient(
            f"no setting kept p{plan.percent} <= {plan.bound_ms:g} ms each time it was measured, and {len(voids)} of "
            f"{len(points)} points are void ({voids[-1]}); leave the machine alone and run it again"
        )
    lowest = min(point.offered_rps for point in points)
    raise BadRequest(
        f"no setting kept p{plan.percent} <= {plan.bound_ms:g} ms each time it was measured, down to {lowest:.4g} "
        "requests/s; allow a longer bound or serve a faster variant"
    )


def _best(earned: dict[Setting, Earned]) -> list[Setting]:
    return sorted(earned, key=lambda setting: -earned[setting].rps)[:FINALISTS]


def _more(before: Earned | None, setting: Setting, result: ServerResult) -> Earned:
    rates, points = (before.best_rps, before.points) if before else ((), ())
    return Earned(setting, (*rates, result.best_rps), (*points, *map(_point, result.points)))


def _point(rate: Rate) -> Point:
    return Point(
        offered_rps=rate.offered_rps,
        answered=rate.answered,
        unanswered=rate.refused + rate.failed,
        p50_ms=rate.p50_ms,
        p90_ms=rate.p90_ms,
        p99_ms=rate.p99_ms,
        void=rate.void,
    )


def _powers(most: int) -> list[int]:
    return [2**power for power in range(most.bit_length())]
