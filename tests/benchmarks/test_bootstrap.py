"""Intervals that draw whole processes again."""

import numpy as np
import pytest

from benchmarks import bootstrap


@pytest.mark.parametrize("percent", [0, 37, 50, 95, 99, 100])
def test_a_resample_s_percentile_is_that_of_its_processes_put_together(percent: int) -> None:
    rng = np.random.default_rng(0)
    processes = [rng.integers(0, 50, n).tolist() for n in (7, 1, 12, 4)]  # of unequal length, with equal samples
    weights_RP = np.array([[1, 1, 1, 1], [4, 0, 0, 0], [0, 4, 0, 0], [0, 1, 2, 1], [2, 0, 0, 2]])
    pooled = [np.concatenate([processes[i] for i in np.repeat(np.arange(4), row)]) for row in weights_RP]
    found_R = bootstrap.percentiles(processes, weights_RP, percent=percent)
    np.testing.assert_allclose(found_R, [np.percentile(each, percent) for each in pooled])


def test_a_resample_draws_as_many_processes_as_there_are() -> None:
    weights_RP = bootstrap.draw(5, seed=1)
    assert weights_RP.shape == (bootstrap.RESAMPLES, 5)
    assert set(weights_RP.sum(axis=1)) == {5}
    np.testing.assert_array_equal(weights_RP, bootstrap.draw(5, seed=1))
    assert weights_RP.mean(axis=0) == pytest.approx(np.ones(5), abs=0.05)


def test_the_interval_of_five_processes_holds_the_truth_about_as_often_as_it_says() -> None:
    """The plain percentile interval would in 83 of 100 cases."""
    rng = np.random.default_rng(0)
    weights_RP = bootstrap.draw(5)
    held = 0
    for _ in range(400):
        found_R = weights_RP @ rng.normal(size=5) / 5
        low, high = bootstrap.ends(found_R, processes=5)
        held += low <= 0 <= high
    assert held / 400 == pytest.approx(0.94, abs=0.03)


def test_many_processes_widen_it_no_more() -> None:
    values_R = np.arange(10_001.0)
    plain = np.quantile(values_R, (0.025, 0.975))
    assert bootstrap.ends(values_R, processes=1000) == pytest.approx(plain, rel=0.02)
    assert bootstrap.ends(values_R, processes=2) == pytest.approx((0.0, 10_000.0))


def test_the_median_of_one_value_a_process_has_an_interval_too() -> None:
    low, high = bootstrap.median_interval([100.0, 110.0, 120.0, 130.0, 140.0])
    assert low is not None
    assert high is not None
    assert 100.0 <= low <= 105.0
    assert 135.0 <= high <= 140.0
    assert bootstrap.median_interval([100.0]) == (None, None)
