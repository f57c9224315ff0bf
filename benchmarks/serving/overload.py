"""What becomes of our server when more is asked than it can do: twice its peak, ten times, and then half again.

goodput     answers a second that came within twice the bound, counted from when each was due
lost        requests without an answer, or with one that is neither good nor a refusal (503, 429); of all that were
            offered, those of the warm-up and of the time after the flood too
back        seconds from the end of the flood until a second begins in which 99 % are answered within the bound
"""

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from benchmarks.openloop.client import ClientJob, Stretch
from benchmarks.openloop.plan import Plan
from benchmarks.openloop.results import ServerResult
from benchmarks.openloop.scenarios import load_url, trace_http
from benchmarks.openloop.trace import NEVER, REFUSALS, Trace
from benchmarks.serving.contest import Contest
from benchmarks.serving.contestants import OURS
from benchmarks.serving.figures import Figure, lost_of, percentile
from serving.errors import Transient

TWICE, FLOOD, AFTER = 2.0, 10.0, 0.5  # times the peak
PATIENCE: Final = 2.0  # times the bound: what an answer may take that is worth something
GOODPUT: Final = 0.9
REJECTED_MS: Final = 5.0
BACK_S: Final = 5.0
CONNECTIONS: Final = 512
HEADINGS: Final = (
    *("overload", "sent", "accepted", "rejected", "lost", "good/s"),
    *("accepted p99 ms", "rejected p50 ms", "rejected p99 ms"),
)
_STEP_S: Final = 0.1
_WELL: Final = 0.99


class Window(msgspec.Struct, frozen=True):
    """What became of the requests that were due in a stretch of time; accepted are those with a good answer."""

    seconds: float
    sent: int
    accepted: int
    rejected: int
    lost: int
    good_rps: float
    accepted_p99_ms: float | None
    rejected_p50_ms: float | None
    rejected_p99_ms: float | None


class Overload(msgspec.Struct, frozen=True):
    """`peak_rps` is what the same server keeps of the same requests within the bound."""

    bound_ms: float
    peak: ServerResult
    twice: Window
    flood: Window
    back_s: float | None
    lost: int
    void: str

    def figures(self) -> tuple[Figure, ...]:
        peak_rps, flood, known = self._peak_rps(), self.flood, not self.void
        goodput = self.twice.good_rps / peak_rps if peak_rps and known else None
        accepted_ms, rejected_ms = (flood.accepted_p99_ms, flood.rejected_p99_ms) if known else (None, None)
        return (
            Figure.least("goodput at twice the peak, of the peak", goodput, GOODPUT, "x"),
            Figure.most("accepted p99 at ten times", accepted_ms, PATIENCE * self.bound_ms, "ms"),
            Figure.most("rejected p99 at ten times", rejected_ms, REJECTED_MS, "ms"),
            Figure.most("back to normal", self._back_s() if known else None, BACK_S, "s"),
            Figure.lost("overload", self.lost if known else None),
        )

    def _peak_rps(self) -> float | None:
        """None where the search did not see what is too high: the peak may be anywhere above what it kept."""
        return self.peak.best_rps if self.peak.is_whole else None

    def _back_s(self) -> float:
        """Never is late."""
        return math.inf if self.back_s is None else self.back_s


def measure_overload(contest: Contest, *, plan: Plan, flood_s: float) -> Overload:
    """Ours alone: the peak, then twice as much for as long as a rate is held, then the flood and what follows it.

    Raises:
        Transient: no peak was found.
    """
    bodies = contest.bodies(OURS)
    with contest.server(OURS) as server:
        peak = load_url(server.url, bodies, variant=OURS, plan=plan, cores=contest.generator, server=server)
        rps = peak.best_rps
        if rps is None:
            raise Transient(f"no rate keeps p{plan.percent} <= {plan.bound_ms:g} ms here; allow more, or try again")
        job = ClientJob(OURS, server.url, bodies, TWICE * rps, plan.seconds, warm_s=1.0, connections=CONNECTIONS)
        job = msgspec.structs.replace(job, cores=contest.generator)
        twice = trace_http(job, server=server)
        then = (Stretch(AFTER * rps, max(2 * BACK_S, 2.0)),)
        job = msgspec.structs.replace(job, rps=FLOOD * rps, seconds=flood_s, then=then)
        flood = trace_http(job, server=server)
    ends = 1.0 + flood_s
    return Overload(
        plan.bound_ms,
        peak,
        window(twice, from_s=1.0, to_s=1.0 + plan.seconds, bound_ms=plan.bound_ms),
        window(flood, from_s=1.0, to_s=ends, bound_ms=plan.bound_ms),
        back_to_normal_s(flood, end_s=ends, bound_ms=plan.bound_ms),
        lost=lost_of(twice) + lost_of(flood),
        void=twice.rate().void or flood.rate().void,
    )


def window(trace: Trace, *, from_s: float, to_s: float, bound_ms: float) -> Window:
    """Of the requests that were due then."""
    due_s = np.asarray(trace.due_ns) / 1e9
    inside = (due_s >= from_s) & (due_s < to_s)
    status, done = np.asarray(trace.status)[inside], np.asarray(trace.done_ns)[inside]
    took_ms = (done - np.asarray(trace.due_ns)[inside]) / 1e6
    good, refused = (status // 100 == 2) & (done != NEVER), np.isin(status, REFUSALS)
    accepted_ms, rejected_ms = took_ms[good].tolist(), took_ms[refused].tolist()
    return Window(
        seconds=to_s - from_s,
        sent=int(inside.sum()),
        accepted=int(good.sum()),
        rejected=int(refused.sum()),
        lost=int((~good & ~refused).sum()),
        good_rps=sum(ms <= PATIENCE * bound_ms for ms in accepted_ms) / (to_s - from_s),
        accepted_p99_ms=percentile(accepted_ms, 99),
        rejected_p50_ms=percentile(rejected_ms, 50),
        rejected_p99_ms=percentile(rejected_ms, 99),
    )


def back_to_normal_s(trace: Trace, *, end_s: float, bound_ms: float) -> float | None:
    """None where it never was."""
    due_s = np.asarray(trace.due_ns) / 1e9
    took_ms = np.where(np.asarray(trace.done_ns) == NEVER, np.inf, np.asarray(trace.done_ns) - trace.due_ns) / 1e6
    well = (np.asarray(trace.status) // 100 == 2) & (took_ms <= bound_ms)
    for begin_s in np.arange(end_s, float(due_s.max(initial=0.0)) - 1, _STEP_S):
        inside = (due_s >= begin_s) & (due_s < begin_s + 1)
        if inside.any() and well[inside].mean() >= _WELL:
            return round(float(begin_s) - end_s, 1)
    return None


def rows(found: Overload) -> Sequence[tuple[str, ...]]:
    """For people."""
    return [(name, *_cells(each)) for name, each in (("twice", found.twice), ("ten times", found.flood))]


def _cells(one: Window) -> tuple[str, ...]:
    times = (one.accepted_p99_ms, one.rejected_p50_ms, one.rejected_p99_ms)
    counts = (one.sent, one.accepted, one.rejected, one.lost)
    return (*map(str, counts), f"{one.good_rps:.0f}", *("-" if ms is None else f"{ms:.2f}" for ms in times))
