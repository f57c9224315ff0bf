"""The shape of a series, on samples whose shape is known."""

import numpy as np
import pytest

from benchmarks.series import autocorrelation, modes, phases


def test_independent_samples_are_not_correlated_and_a_slow_wave_is() -> None:
    noise = np.random.default_rng(0).normal(100, 1, 1000)
    assert abs(autocorrelation(noise)) < 4 / np.sqrt(1000)
    assert autocorrelation(100 + np.sin(np.arange(1000) / 50)) > 0.99


def test_samples_that_take_turns_are_correlated_negatively() -> None:
    assert autocorrelation([1, 2] * 50) == pytest.approx(-0.99)


def test_one_hiccup_does_not_hide_a_wave() -> None:
    wave = list(100 + np.sin(np.arange(200) / 10))
    wave[50] = 10_000
    assert autocorrelation(wave) > 0.9


def test_samples_that_never_vary_are_neither_correlated_nor_in_two() -> None:
    assert autocorrelation([7] * 100) == 0.0
    assert modes([7] * 100).separation == 0.0
    assert phases([7] * 100) == 1.0


def test_phases_compare_a_slow_stretch_with_a_fast_one() -> None:
    assert phases([10] * 40 + [12] * 40 + [10] * 20) == pytest.approx(1.2)
    assert phases([10] * 50 + [99] * 20 + [10] * 30) == 1.0  # less than a quarter is no phase


def test_two_speeds_are_told_with_the_share_of_the_rarer_and_how_far_apart_they_are() -> None:
    rng = np.random.default_rng(0)
    two = modes(np.concatenate([rng.normal(100, 1, 700), rng.normal(120, 1, 300)]))
    assert (two.fast, two.slow) == (pytest.approx(100, abs=0.2), pytest.approx(120, abs=0.2))
    assert two.smaller_share == pytest.approx(0.3)
    assert 15 < two.separation < 25  # a little more than 20: outliers were pulled in


def test_two_speeds_without_any_width_are_a_hundred_widths_apart() -> None:
    two = modes([10] * 60 + [20] * 40)
    assert (two.fast, two.slow, two.smaller_share, two.separation) == (10, 20, 0.4, pytest.approx(100))
