"""Ratios of percentiles with intervals over paired processes."""

import numpy as np
import pytest

from benchmarks.ratios import Ratio, ratio
from serving.errors import BadRequest


def drifting(scale: float, *, seed: int, n: int = 100) -> list[list[int]]:
    """Processes that the machine slows by up to a half from one repeat to the next, whatever they compute."""
    rng = np.random.default_rng(seed)
    return [(scale * drift * rng.normal(1e6, 1e4, n)).astype(int).tolist() for drift in (1.0, 1.1, 1.2, 1.35, 1.5)]


def test_what_slowed_both_sides_of_a_repeat_is_not_in_the_ratio() -> None:
    found = ratio(drifting(1.05, seed=1), drifting(1.0, seed=2), percent=50)
    assert found.low is not None
    assert found.high is not None
    assert found.value == pytest.approx(1.05, rel=0.01)
    assert 1.03 < found.low < 1.05 < found.high < 1.07


def test_unpaired_it_is() -> None:
    found = ratio(drifting(1.05, seed=1), drifting(1.0, seed=2), percent=50, paired=False)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.9
    assert found.high > 1.2


def test_a_variant_is_once_itself() -> None:
    same = drifting(1.0, seed=1)
    assert ratio(same, same, percent=95) == Ratio(1.0, 1.0, 1.0)


def test_one_process_gives_a_ratio_without_an_interval() -> None:
    assert ratio([[3_000_000] * 20], [[2_000_000] * 20], percent=50) == Ratio(1.5, None, None)


def test_processes_that_do_not_pair_are_refused() -> None:
    with pytest.raises(BadRequest, match=r"^a ratio pairs processes by repeat: 2 and 1 were measured$"):
        ratio([[1] * 20] * 2, [[1] * 20], percent=50)
    assert ratio([[1] * 20] * 2, [[1] * 40], percent=50, paired=False).value == 1.0


def test_too_few_samples_are_refused_with_how_many_it_takes() -> None:
    with pytest.raises(BadRequest, match=r"^p99 needs 1000 samples, and there are 500: measure more$"):
        ratio([[1] * 500], [[1] * 500], percent=99)
