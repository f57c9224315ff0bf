"""What our server adds to its own phases, and what it does when nothing is asked.

An answer's Server-Timing names what the request spent waiting, in the tokenizer and in the graph, and the whole; what
is left of the whole is reading, checking, wording, and the way between threads. The client's view also has the kernel,
the parsing of HTTP and the loop's own delay in it.
"""

import math
import re
import time
from typing import Final

import msgspec

from benchmarks.openloop.client import ClientJob
from benchmarks.openloop.scenarios import connections_for, trace_http
from benchmarks.openloop.schedule import requests_for
from benchmarks.openloop.trace import Trace
from benchmarks.serving.contest import Contest
from benchmarks.serving.contestants import OURS
from benchmarks.serving.figures import Figure, lost_of, percentile
from benchmarks.serving.processes import cpu_s

PHASES: Final = ("queue", "tokenize", "infer")
P50_MS: Final = 0.3
P99_MS: Final = 1.0
IDLE: Final = 0.01  # of a core
ANSWERED: Final = 0.99  # of what was offered: less, and it is the overhead of those that the server chose
_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = r'"(?:[^"\\]|\\.)*"?'
_METRIC: Final = re.compile(rf'(?:{_QUOTED}|[^,"])+')  # up to a comma that is in no quotes
_NAME: Final = re.compile(rf"\s*({_WORD})\s*(?=;|$)")
_PARAMETER: Final = re.compile(rf";\s*({_WORD})\s*=\s*({_WORD}|{_QUOTED})")


class Overhead(msgspec.Struct, frozen=True):
    """Milliseconds over the requests of one run at `rps`; None where answers told no such time. Of `offered` requests
    after the warm-up `requests` were answered well with all their times; `lost` are those of the whole run."""

    rps: float
    offered: int
    requests: int
    lost: int
    p50_ms: float | None
    p99_ms: float | None
    client_p50_ms: float | None
    client_p99_ms: float | None
    phases_p50_ms: dict[str, float]
    void: str

    def figures(self) -> tuple[Figure, ...]:
        return (
            Figure.most("overhead, p50", self.p50_ms if self._tells(50) else None, P50_MS, "ms"),
            Figure.most("overhead, p99", self.p99_ms if self._tells(99) else None, P99_MS, "ms"),
            Figure.lost("overhead", None if self.void else self.lost),
        )

    def _tells(self, percent: int) -> bool:
        """Whether there are enough answers for it, and of nearly all that was offered."""
        enough = max(requests_for(percent), ANSWERED * self.offered)
        return not self.void and self.requests >= enough


class Idle(msgspec.Struct, frozen=True):
    """Share of a core that the server takes while nobody asks."""

    seconds: float
    share: float

    def figures(self) -> tuple[Figure, ...]:
        return (Figure.most("idle CPU", self.share, IDLE, "of a core"),)


def parse_timing(header: str) -> dict[str, float]:
    """Name -> milliseconds, of a Server-Timing header's metrics whose `dur` is a number; others are left out, for a
    stranger's header may say anything."""
    found = {}
    for metric in _METRIC.findall(header):
        if (name := _NAME.match(metric)) and (ms := _duration_ms(metric)) is not None:
            found[name[1]] = ms
    return found


def _duration_ms(metric: str) -> float | None:
    """Of the first `dur`, as a token or in quotes."""
    told = (value for name, value in _PARAMETER.findall(metric) if name.lower() == "dur")
    try:
        ms = float(next(told, "").strip('"'))
    except ValueError:
        return None
    return ms if math.isfinite(ms) else None


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
        sum(due >= begun_ns for due in trace.due_ns),
        len(whole),
        lost_of(trace),
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
