"""The pure core of a measurement: warm-up, samples, percentiles, intervals. The clock is passed in.

A latency here is the time one caller waits for one request (closed loop, batch 1). A percentile with fewer than ten
samples beyond its rank is not reported, and intervals resample whole *processes*: samples of one process share its
memory layout and its neighbours, so they are not independent.
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

Clock = Callable[[], int]
Step = Callable[[Any], Any]

TOTAL: Final = "end_to_end"
BEYOND: Final = 10  # samples that must lie beyond a percentile for it to be reported
RESAMPLES: Final = 2000


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
    with _no_garbage_collection():
        for value in islice(cycle(inputs), n):
            _one_request(steps, value, series=series, clock=clock)
    return series


def percentile_ms(samples_ns: Sequence[int] | npt.NDArray[Any], *, percent: int) -> float | None:
    """The percentile in milliseconds; None unless at least ten samples lie beyond it."""
    if len(samples_ns) * (100 - percent) < 100 * BEYOND:
        return None
    return float(np.percentile(np.asarray(samples_ns), percent)) / 1e6


def summarize(samples_by_process_ns: Sequence[Sequence[int]], *, seed: int = 0) -> Latency:
    """p50 and p95 of all samples together, with intervals that resample the processes."""
    processes = [np.asarray(samples, dtype=np.float64) for samples in samples_by_process_ns]
    pooled = np.concatenate(processes)
    p50, p95 = (percentile_ms(pooled, percent=percent) for percent in (50, 95))
    p50_low, p50_high = _interval_ms(processes, percent=50, seed=seed) if p50 is not None else (None, None)
    p95_low, p95_high = _interval_ms(processes, percent=95, seed=seed) if p95 is not None else (None, None)
    return Latency(p50, p50_low, p50_high, p95, p95_low, p95_high, n=len(pooled), processes=len(processes))


def _interval_ms(
    processes: Sequence[npt.NDArray[np.float64]], *, percent: int, seed: int
) -> tuple[float, float] | tuple[None, None]:
    """The 95 % bootstrap interval of a percentile; the unit that is drawn again is the process."""
    if len(processes) < 2:
        return None, None
    draws = np.random.default_rng(seed).integers(len(processes), size=(RESAMPLES, len(processes)))
    # The order of a draw does not matter, so few distinct ones exist: each percentile is computed once.
    distinct, which = np.unique(np.sort(draws, axis=1), axis=0, return_inverse=True)
    values = np.array([np.percentile(np.concatenate([processes[i] for i in row]), percent) for row in distinct])
    low, high = np.percentile(values[which.ravel()], (2.5, 97.5))
    return float(low) / 1e6, float(high) / 1e6


def _durations_ns(call: Callable[[], object], *, times: int, clock: Clock) -> list[int]:
    durations = []
    for _ in range(times):
        start = clock()
        call()
        durations.append(clock() - start)
    return durations


def _one_request(steps: Mapping[str, Step], value: Any, *, series: dict[str, list[int]], clock: Clock) -> None:
    start = before = clock()
    for name, step in steps.items():
        value = step(value)
        now = clock()
        series[name].append(now - before)
        before = now
    series[TOTAL].append(before - start)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
