"""The pure core of a measurement: warm-up, samples, percentiles, intervals. The clock is passed in.

A latency here is the time one caller waits for one request (closed loop, batch 1). A percentile with fewer than ten
samples beyond its rank is not reported, and intervals resample whole *processes* (bootstrap.py).
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from statistics import median
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks import bootstrap

Clock = Callable[[], int]
Step = Callable[[Any], Any]

TOTAL: Final = "end_to_end"
BEYOND: Final = 10  # samples that must lie beyond a percentile for it to be reported
PERCENTS: Final = (50, 95, 99)


class WarmUp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long it took until two windows agreed; `steady` is False when `most` calls were spent first."""

    calls: int
    steady: bool


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One series' figures in milliseconds with 95 % intervals over processes.

    A percentile is None where n is too small for it; an interval is None with fewer than two processes.
    """

    p50_ms: float | None
    p50_low_ms: float | None
    p50_high_ms: float | None
    p95_ms: float | None
    p95_low_ms: float | None
    p95_high_ms: float | None
    n: int
    processes: int
    p99_ms: float | None = None
    p99_low_ms: float | None = None
    p99_high_ms: float | None = None


def needed(percent: int) -> int:
    """How many samples it takes to report this percentile."""
    return -(-100 * BEYOND // (100 - percent))


def warm_up(
    call: Callable[[], object], *, clock: Clock, window: int = 10, tolerance: float = 0.05, most: int = 500
) -> WarmUp:
    """Call until the medians of two consecutive windows differ by at most `tolerance`, or `most` calls are spent."""
    earlier = None
    for calls in range(window, most + 1, window):
        latest = median(_durations_ns(call, times=window, clock=clock))
        if earlier is not None and abs(latest - earlier) <= tolerance * earlier:
            return WarmUp(calls=calls, steady=True)
        earlier = latest
    return WarmUp(calls=most // window * window, steady=False)


def sample(
    steps: Mapping[str, Step], inputs: Sequence[Any], *, n: int, clock: Clock = time.perf_counter_ns
) -> dict[str, list[int]]:
    """`n` requests, each through all steps in turn: nanoseconds per step and, as `end_to_end`, for the whole request.

    A step gets what the one before it returned, the first one an input; inputs are taken in turn, again from the start
    when they run out. Garbage collection is off meanwhile.
    """
    series: dict[str, list[int]] = {name: [] for name in (*steps, TOTAL)}
    recorded = tuple((step, series[name].append) for name, step in steps.items())
    record_total = series[TOTAL].append
    with no_garbage_collection():
        for value in islice(cycle(inputs), n):
            start = before = clock()
            for step, record in recorded:
                value = step(value)
                now = clock()
                record(now - before)
                before = now
            record_total(before - start)
    return series


def percentile_ms(samples_ns: Sequence[int] | npt.NDArray[Any], *, percent: int) -> float | None:
    """The percentile in milliseconds; None unless at least ten samples lie beyond it."""
    if len(samples_ns) * (100 - percent) < 100 * BEYOND:
        return None
    return float(np.percentile(np.asarray(samples_ns), percent)) / 1e6


def summarize(samples_by_process_ns: Sequence[Sequence[int]], *, seed: int = 0) -> Latency:
    """p50, p95 and p99 of all samples together, with intervals that resample the processes."""
    processes = [np.asarray(samples, dtype=np.float64) for samples in samples_by_process_ns]
    p50, p95, p99 = (_with_ends(processes, percent=percent, seed=seed) for percent in PERCENTS)
    return Latency(*p50, *p95, sum(map(len, processes)), len(processes), *p99)


def _with_ends(
    processes: Sequence[npt.NDArray[np.float64]], *, percent: int, seed: int
) -> tuple[float | None, float | None, float | None]:
    """The percentile in milliseconds, then the ends of its interval."""
    value = percentile_ms(np.concatenate(processes), percent=percent)
    if value is None or len(processes) < 2:
        return value, None, None
    low, high = bootstrap.ends(bootstrap.resampled(processes, percent=percent, seed=seed), processes=len(processes))
    return value, low / 1e6, high / 1e6


def _durations_ns(call: Callable[[], object], *, times: int, clock: Clock) -> list[int]:
    durations = []
    for _ in range(times):
        start = clock()
        call()
        durations.append(clock() - start)
    return durations


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Once around many calls of `sample`, or by itself around each."""
    if not gc.isenabled():
        yield
        return
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
