"""Warm-up, samples, percentiles and intervals, on a clock that the test turns."""

import gc
from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from benchmarks.measure import PERCENTS, Latency, needed, percentile_ms, sample, summarize, warm_up


class FakeClock:
    """Nanoseconds that pass only when work is done."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns

    def work(self, durations_ns: Iterable[int]) -> Iterator[None]:
        for duration in durations_ns:
            self.now_ns += duration
            yield


def test_warming_up_goes_on_until_two_windows_agree() -> None:
    clock = FakeClock()
    steps = clock.work([1000] * 5 + [500] * 5 + [200] * 5 + [202] * 500)
    warm = warm_up(lambda: next(steps), clock=clock, window=5, tolerance=0.05, most=100)
    assert (warm.calls, warm.steady) == (20, True)


def test_warming_up_a_call_that_never_settles_ends_and_says_so() -> None:
    clock = FakeClock()
    steps = clock.work(2**i for i in range(1000))
    warm = warm_up(lambda: next(steps), clock=clock, window=4, tolerance=0.05, most=30)
    assert (warm.calls, warm.steady) == (28, False)


def test_each_step_has_its_own_series_and_the_total_covers_all() -> None:
    clock = FakeClock()

    def takes(duration_ns: int):  # type: ignore[no-untyped-def]
        def step(value: str) -> str:
            clock.now_ns += duration_ns
            return value + "!"

        return step

    seen = []
    steps = {"tokenize": takes(3), "infer": takes(40), "last": lambda value: seen.append(value)}
    series = sample(steps, ["a", "b"], n=3, clock=clock)
    assert series == {"tokenize": [3] * 3, "infer": [40] * 3, "last": [0] * 3, "end_to_end": [43] * 3}
    assert seen == ["a!!", "b!!", "a!!"]


def test_garbage_collection_is_off_while_sampling_and_on_again_after_an_error() -> None:
    states = []

    def step(value: int) -> None:
        states.append(gc.isenabled())
        if value == 1:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sample({"step": step}, [0, 1], n=2)
    assert states == [False, False]
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("percent", "n", "reported"),
    [(95, 199, False), (95, 200, True), (99, 999, False), (99, 1000, True), (50, 20, True)],
)
def test_a_percentile_needs_ten_samples_beyond_it(percent: int, n: int, reported: bool) -> None:
    assert (percentile_ms([1_000_000] * n, percent=percent) is not None) is reported


@pytest.mark.parametrize("percent", PERCENTS)
def test_what_a_percentile_needs_is_the_least_that_reports_it(percent: int) -> None:
    assert percentile_ms([1_000_000] * needed(percent), percent=percent) == 1.0
    assert percentile_ms([1_000_000] * (needed(percent) - 1), percent=percent) is None


def test_percentiles_are_in_milliseconds_over_all_processes() -> None:
    latency = summarize([[i * 1_000_000 for i in range(1, 101)], [i * 1_000_000 for i in range(101, 201)]])
    assert latency.p50_ms == pytest.approx(100.5)
    assert latency.p95_ms == pytest.approx(190.05)
    assert (latency.n, latency.processes) == (200, 2)


def test_the_interval_is_as_wide_as_processes_differ_however_many_samples_each_has() -> None:
    rng = np.random.default_rng(0)
    processes = [list((center + rng.normal(0, 0.01, 1000)) * 1e6) for center in (1.0, 1.1, 1.2, 1.3, 1.4)]
    latency = summarize(processes)
    assert latency.p50_low_ms is not None
    assert latency.p50_high_ms is not None
    assert latency.p50_high_ms - latency.p50_low_ms > 0.15


def test_one_process_gives_figures_without_an_interval() -> None:
    assert summarize([[2_000_000] * 200]) == Latency(2.0, None, None, 2.0, None, None, n=200, processes=1)


def test_too_few_samples_give_no_p95_and_no_interval_of_it() -> None:
    latency = summarize([[2_000_000] * 50, [2_000_000] * 50])
    assert (latency.p50_low_ms, latency.p50_ms, latency.p50_high_ms) == (2.0, 2.0, 2.0)
    assert (latency.p95_low_ms, latency.p95_ms, latency.p95_high_ms) == (None, None, None)


def test_a_thousand_samples_give_a_p99_with_its_interval() -> None:
    latency = summarize([[i * 1_000_000 for i in range(1, 501)], [i * 1_000_000 for i in range(501, 1001)]])
    assert latency.p99_ms == pytest.approx(990.01)
    assert latency.p99_low_ms == pytest.approx(495.01)
    assert latency.p99_high_ms == pytest.approx(995.01)
    assert summarize([[2_000_000] * 999]).p99_ms is None


def test_an_input_is_asked_about_again_when_there_are_fewer_than_samples() -> None:
    seen: list[str] = []
    sample({"step": seen.append}, ["a", "b"], n=5)
    assert seen == ["a", "b", "a", "b", "a"]
    assert sample({"step": seen.append}, [], n=0) == {"step": [], "end_to_end": []}
