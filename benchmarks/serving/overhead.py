"""What our server adds to its own phases, and what it does when nothing is asked.

An answer's Server-Timing names what the request spent waiting, in the tokenizer and in the graph, and the whole; what
is left of the whole is reading, checking, wording, and the way between threads. The client's view also has the kernel,
the parsing of HTTP and the loop's own delay in it.
"""

import re
import time
from typing import Final

import msgspec

from benchmarks.openloop.client import ClientJob
from benchmarks.openloop.scenarios import connections_for, trace_http
from benchmarks.openloop.trace import Trace
from benchmarks.serving.contest import Contest
from benchmarks.serving.contestants import OURS
from benchmarks.serving.figures import Figure, percentile
from benchmarks.serving.processes import cpu_s

PHASES: Final = ("queue", "tokenize", "infer")
P50_MS: Final = 0.3
P99_MS: Final = 1.0
IDLE: Final = 0.01  # of a core
_PART = re.compile(r"([a-z0-9_-]+)\s*;\s*dur=([0-9.]+)", re.IGNORECASE)


class Overhead(msgspec.Struct, frozen=True):
    """Milliseconds over the requests of one run at `rps`; None where answers told no such time."""

    rps: float
    requests: int
    p50_ms: float | None
    p99_ms: float | None
    client_p50_ms: float | None
    client_p99_ms: float | None
    phases_p50_ms: dict[str, float]
    void: str

    def figures(self) -> tuple[Figure, ...]:
        p50_ms, p99_ms = (None, None) if self.void else (self.p50_ms, self.p99_ms)
        return (
            Figure.most("overhead, p50", p50_ms, P50_MS, "ms"),
            Figure.most("overhead, p99", p99_ms, P99_MS, "ms"),
        )


class Idle(msgspec.Struct, frozen=True):
    """Share of a core that the server takes while nobody asks."""

    seconds: float
    share: float

    def figures(self) -> tuple[Figure, ...]:
        return (Figure.most("idle CPU", self.share, IDLE, "of a core"),)


def parse_timing(header: str) -> dict[str, float]:
    """Name -> milliseconds, of a Server-Timing header's entries that have a duration."""
    return {name: float(duration) for name, duration in _PART.findall(header)}


def measure_overhead(contest: Contest, *, rps: float, seconds: float, bound_ms: float) -> Overhead:
    """One run of ours at that rate."""
    connections = connections_for(rps, bound_ms=bound_ms)
    with contest.server(OURS) as server:
        job = ClientJob(OURS, server.url, contest.bodies(OURS), rps, seconds, connections=connections, timed=True)
        return overhead_of(trace_http(msgspec.structs.replace(job, cores=contest.generator), server=server))


def overhead_of(trace: Trace) -> Overhead:
    """Of the answers after the warm-up that tell all their times."""
    begun_ns = round(trace.warm_s * 1e9)
    good = [i for i, due in enumerate(trace.due_ns) if due >= begun_ns and trace.status[i] // 100 == 2]
    times = {i: parse_timing(trace.timing[i]) for i in good}
    whole = {i: each for i, each in times.items() if {*PHASES, "total"} <= each.keys()}
    phases = {i: sum(each[name] for name in PHASES) for i, each in whole.items()}
    beside = [each["total"] - phases[i] for i, each in whole.items()]
    client = [(trace.done_ns[i] - trace.sent_ns[i]) / 1e6 - phases[i] for i in whole]
    names = dict.fromkeys(name for each in whole.values() for name in each)
    middle = {name: percentile([each[name] for each in whole.values() if name in each], 50) for name in names}
    return Overhead(
        trace.offered_rps,
        len(whole),
        percentile(beside, 50),
        percentile(beside, 99),
        percentile(client, 50),
        percentile(client, 99),
        phases_p50_ms={name: round(value, 4) for name, value in middle.items() if value is not None},
        void=trace.rate().void,
    )


def measure_idle(contest: Contest, *, seconds: float) -> Idle:
    """Of ours, from a second after its first answer on."""
    with contest.server(OURS) as server:
        time.sleep(1)
        before, begun = cpu_s(server.pid), time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - begun
        server.require_alive()
        return Idle(took, (cpu_s(server.pid) - before) / took)
