"""A plan: how long each rate is held, and which rates it does not wait for."""

import pytest

from benchmarks.openloop.plan import Plan
from benchmarks.openloop.results import Rate
from serving.errors import BadRequest


def good(rps: float, seconds: float) -> Rate:
    return Rate(rps, seconds, 1000, 1000, 0, 0, 1.0, 1.0, 1.0, late_p50_ms=0.0, late_p99_ms=0.0)


def bad(rps: float, seconds: float) -> Rate:
    return Rate(rps, seconds, 1000, 1000, 0, 0, 99.0, 99.0, 99.0, late_p50_ms=0.0, late_p99_ms=0.0)


def test_each_rate_is_held_long_enough_for_its_percentile() -> None:
    plan = Plan(bound_ms=20, start_rps=100, steps=3, seconds=4.0)
    seconds = [point.seconds for point in plan.search(good, scenario="http").points]
    assert seconds[:3] == pytest.approx([11.265, 5.632, 4.0], abs=0.001)


def test_a_rate_that_would_take_too_long_ends_the_search_with_the_reason() -> None:
    found = Plan(bound_ms=20, start_rps=30, steps=9, most_s=60).search(bad, scenario="engine")
    assert [(point.offered_rps, bool(point.void)) for point in found.points] == [(30, False), *3 * [(15, True)]]
    assert found.points[-1].void == (
        "p99 at 15 requests/s takes 75 s to measure, more than the 60 s allowed: begin at a higher rate, bound a lower "
        "percentile, or allow more"
    )
    assert (found.best_rps, found.broken_rps, found.scenario) == (None, 30, "engine")


@pytest.mark.parametrize("capacity_rps", [60.0, 700.0, 4000.0, 20_000.0])
def test_the_default_plan_finds_any_capacity_within_two_percent(capacity_rps: float) -> None:
    plan = Plan(bound_ms=20.0)
    found = plan.search(lambda rps, seconds: (good if rps <= capacity_rps else bad)(rps, seconds), scenario="engine")
    assert plan.start_rps == 50
    assert found.best_rps is not None
    assert found.broken_rps is not None
    assert found.best_rps <= capacity_rps < found.broken_rps <= 1.02 * found.best_rps


def test_a_first_rate_that_would_take_too_long_is_refused_before_anything_starts() -> None:
    with pytest.raises(BadRequest, match=r"^p99 at 5 requests/s takes 225 s to measure, more than the 60 s allowed: "):
        Plan(bound_ms=20, start_rps=5).require()
    Plan(bound_ms=20, start_rps=5, percent=90).require()


def test_a_percentile_that_points_lack_is_refused_by_the_search() -> None:
    with pytest.raises(BadRequest, match=r"p95"):
        Plan(bound_ms=20, percent=95).search(good, scenario="http")
