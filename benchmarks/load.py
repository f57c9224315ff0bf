"""Load on any server that speaks HTTP, for its users: one rate, or the highest one within a bound; the open-loop
generator's schedules and times, and what the server says of its own phases."""

import time
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

from benchmarks.machine import Machine, read
from benchmarks.openloop.client import ClientJob, require_answer
from benchmarks.openloop.plan import Plan
from benchmarks.openloop.results import Rate, ServerResult
from benchmarks.openloop.scenarios import Tell, connections_for, load_url, trace_http
from benchmarks.openloop.trace import Trace
from benchmarks.serving.figures import percentile
from benchmarks.serving.overhead import parse_timing
from serving.errors import Transient

TYPICAL_MS: Final = 100.0  # as long as answers may take for the default connections to suffice
WARM_S: Final = 0.5


class Target(msgspec.Struct, frozen=True):
    """Where requests go, what they hold in turn, and what comes with each; secrets are in `headers`, which no report
    shows."""

    url: str
    bodies: tuple[str, ...]
    headers: tuple[tuple[str, str], ...] = ()
    connections: int | None = None
    seed: int = 0


class Phase(msgspec.Struct, frozen=True):
    """One entry of the answers' Server-Timing."""

    name: str
    n: int
    p50_ms: float
    p99_ms: float


class Loaded(msgspec.Struct, frozen=True):
    """What was found. `points` are the offered rates in order. Of a search: `best_rps` as in
    benchmarks.openloop.results; of one rate: `latencies_ms`, a number a request in the order in which they were due
    (None: no good answer), and the server's own phases."""

    url: str
    kind: Literal["rate", "peak"]
    started: str
    took_s: float
    bodies: int
    points: tuple[Rate, ...]
    machine: Machine
    bound_ms: float | None = None
    percent: int = 99
    best_rps: float | None = None
    broken_rps: float | None = None
    latencies_ms: tuple[float | None, ...] = ()
    phases: tuple[Phase, ...] = ()

    @property
    def void(self) -> str:
        """Why this is no finding; "" where it is one."""
        return self.points[-1].void  # a search ends with a void point where it could not go on

    def told(self) -> str:
        """The finding in a line."""
        if self.kind == "peak":
            return self._peak_told()
        point = self.points[0]
        times = " / ".join("-" if ms is None else f"{ms:.2f}" for ms in (point.p50_ms, point.p90_ms, point.p99_ms))
        return (
            f"{point.offered_rps:g} requests/s for {point.seconds:g} s: {point.answered:,} of {point.sent:,} answered, "
            f"{point.refused:,} refused, {point.failed:,} failed; p50 / p90 / p99 {times} ms"
        )

    def _peak_told(self) -> str:
        bound = f"p{self.percent} <= {self.bound_ms:g} ms"
        if self.best_rps is None:
            lowest = min(each.offered_rps for each in self.points)
            return f"no rate kept {bound}, down to {lowest:.4g} requests/s"
        above = f"{self.broken_rps:,.4g} broke it" if self.broken_rps else "none was seen to break it"
        return f"{self.best_rps:,.4g} requests/s kept {bound}, {above}"


def load_rate(target: Target, *, rps: float, seconds: float) -> Loaded:
    """Offer one rate.

    Raises:
        BadRequest: the rate, the url, or what the server answers first.
        Transient: no server there, or it answered nothing well.
    """
    begun, started = time.monotonic(), _now()
    job = ClientJob(
        variant="the server",
        url=target.url,
        bodies=target.bodies,
        rps=rps,
        seconds=seconds,
        warm_s=WARM_S,
        seed=target.seed,
        connections=target.connections or connections_for(rps, bound_ms=TYPICAL_MS),
        headers=target.headers,
        timed=True,
    )
    require_answer(job)
    trace = trace_http(job)
    point = trace.rate()
    if point.sent and not point.answered and not point.void:
        raise Transient(
            f"{target.url} gave no good answer to {point.sent:,} requests ({point.refused:,} refused, {point.failed:,} "
            "failed); offer fewer a second, or look at its log"
        )
    return Loaded(
        target.url,
        "rate",
        started,
        time.monotonic() - begun,
        len(target.bodies),
        (point,),
        read(),
        latencies_ms=tuple(None if ms == float("inf") else float(ms) for ms in trace.latencies_ms().tolist()),
        phases=phases_of(trace),
    )


def find_peak(target: Target, *, plan: Plan, tell: Tell = lambda _: None) -> Loaded:
    """Search for the highest rate within the bound.

    Raises:
        BadRequest: the plan, the url, or what the server answers first.
        Transient: no server there.
    """
    plan.require()
    require_answer(
        ClientJob("the server", target.url, target.bodies, plan.start_rps, plan.seconds, headers=target.headers)
    )
    begun, started = time.monotonic(), _now()
    found: ServerResult = load_url(
        target.url,
        target.bodies,
        variant="the server",
        plan=plan,
        tell=tell,
        headers=target.headers,
        connections=target.connections,
    )
    return Loaded(
        target.url,
        "peak",
        started,
        time.monotonic() - begun,
        len(target.bodies),
        found.points,
        read(),
        bound_ms=found.bound_ms,
        percent=found.percent,
        best_rps=found.best_rps,
        broken_rps=found.broken_rps,
    )


def phases_of(trace: Trace) -> tuple[Phase, ...]:
    """Of the good answers after the warm-up, by what they name, in the order in which it first came."""
    begun_ns = round(trace.warm_s * 1e9)
    series: dict[str, list[float]] = {}
    for due_ns, status, header in zip(trace.due_ns, trace.status, trace.timing, strict=False):
        if due_ns >= begun_ns and status // 100 == 2:
            for name, ms in parse_timing(header).items():
                series.setdefault(name, []).append(ms)
    return tuple(
        Phase(name, len(values), percentile(values, 50) or 0.0, percentile(values, 99) or 0.0)
        for name, values in series.items()
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
