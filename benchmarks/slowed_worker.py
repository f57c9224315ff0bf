"""A worker that slows one variant down, to see whether the lab finds it: `session.run_session(worker=...)`.

The variant called SLOWED waits, busily, inside the timed call: SHARE of the time that the request has taken so far.
Everything else is as `benchmarks.worker` does it.
"""

import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from benchmarks.child import await_turn, child_main
from benchmarks.child import tell as told
from benchmarks.targets import Runner
from benchmarks.worker import (
    Job,
    LatencyJob,
    LatencyResult,
    QualityResult,
    measure_latency,
    measure_quality,
)

SLOWED: Final = "slowed"
SHARE: Final = 0.05


class Slowed:
    """A runner as it is, but that each request lasts SHARE longer."""

    def __init__(self, runner: Runner) -> None:
        self._runner, self._begun_ns = runner, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def encode(self, item: Any) -> Any:
        self._begun_ns = time.perf_counter_ns()
        return self._runner.encode(item)

    def infer(self, tokens: Any) -> Any:
        answer = self._runner.infer(tokens)
        now_ns = time.perf_counter_ns()
        until_ns = now_ns + SHARE * (now_ns - self._begun_ns)
        while time.perf_counter_ns() < until_ns:
            """Busy, as slower code would be: a thread that slept would wake on a cold core."""
        return answer


def measure(job: Job) -> LatencyResult | QualityResult:
    if not isinstance(job, LatencyJob):
        return measure_quality(job, tell=told)
    timed = partial(measure_latency, job, tell=told, turn=await_turn)
    return timed(opened=Slowed) if job.variant == SLOWED else timed()


def main(arguments: Sequence[str]) -> int:
    return child_main(arguments, Job, measure)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
