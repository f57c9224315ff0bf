"""Arrivals: Poisson, fixed by the seed, and as many as a percentile needs."""

import numpy as np
import pytest

from benchmarks.openloop.schedule import poisson_ns, requests_for, seconds_for
from serving.errors import BadRequest


def test_arrivals_ascend_and_lie_within_the_time() -> None:
    due_ns = poisson_ns(300, seconds=2.5, seed=1)
    assert due_ns.dtype == np.int64
    assert (np.diff(due_ns) >= 0).all()
    assert due_ns[0] >= 0
    assert due_ns[-1] < 2.5e9


def test_gaps_are_exponential_with_the_mean_of_the_rate() -> None:
    gaps_s = np.diff(poisson_ns(500, seconds=400, seed=7)) / 1e9
    assert gaps_s.mean() == pytest.approx(1 / 500, rel=0.01)
    assert gaps_s.std() == pytest.approx(1 / 500, rel=0.02)
    assert np.mean(gaps_s > 2 / 500) == pytest.approx(np.exp(-2), rel=0.03)
    assert np.corrcoef(gaps_s[:-1], gaps_s[1:])[0, 1] == pytest.approx(0, abs=0.01)


def test_counts_per_second_vary_as_those_of_a_poisson_process() -> None:
    counts = np.bincount(poisson_ns(50, seconds=2000, seed=3) // 10**9, minlength=2000)
    assert counts.mean() == pytest.approx(50, rel=0.02)
    assert counts.var() == pytest.approx(50, rel=0.1)


def test_a_seed_fixes_the_schedule_and_a_rate_only_scales_it() -> None:
    once, again, other = (poisson_ns(100, seconds=10, seed=seed) for seed in (5, 5, 6))
    assert (once == again).all()
    assert once[:50].tolist() != other[:50].tolist()
    np.testing.assert_allclose(poisson_ns(200, seconds=5, seed=5), once / 2, atol=1)


@pytest.mark.parametrize(("percent", "wanted"), [(50, 20), (90, 100), (95, 200), (99, 1000)])
def test_a_percentile_needs_ten_requests_beyond_it(percent: int, wanted: int) -> None:
    assert requests_for(percent) == wanted


def test_a_slow_rate_is_held_until_there_are_enough_requests() -> None:
    assert seconds_for(2000, percent=99, seconds=5) == 5
    long_s = seconds_for(20, percent=99, seconds=5)
    assert 50 < long_s < 60
    assert min(len(poisson_ns(20, seconds=long_s, seed=seed)) for seed in range(200)) >= 1000


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (-3, 1), (float("inf"), 1), (float("nan"), 1), (5, 0)])
def test_no_rate_and_no_time_are_refused(rate: float, seconds: float) -> None:
    with pytest.raises(BadRequest) as caught:
        poisson_ns(rate, seconds=seconds, seed=0)
    assert str(caught.value) == f"{rate:g} requests/s for {seconds:g} s cannot be offered: give numbers above 0"
