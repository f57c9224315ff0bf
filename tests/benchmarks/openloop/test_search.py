"""The search, on servers that are functions."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.openloop.results import Rate
from benchmarks.openloop.search import CLOSE_ENOUGH, MOST_DOUBLINGS, highest_rate, keeps
from serving.errors import BadRequest


def point(rps: float, *, p99_ms: float | None = 1.0, void: str = "") -> Rate:
    return Rate(rps, 5.0, 1000, 1000, 0, 0, 1.0, 1.0, p99_ms, late_p50_ms=0.01, late_p99_ms=0.1, void=void)


def server(capacity_rps: float) -> Callable[[float], Rate]:
    return lambda rps: point(rps, p99_ms=5.0 if rps <= capacity_rps else 500.0)


ASKED: Any = {"bound_ms": 20, "start_rps": 100, "steps": 8}


def asked(probe: Callable[[float], Rate], **changes: float) -> list[float]:
    return [each.offered_rps for each in highest_rate(probe, **{**ASKED, **changes}).points]


def test_the_rate_is_doubled_until_it_breaks_and_then_bisected() -> None:
    root = math.sqrt(400 * 800)
    assert asked(server(700), steps=2) == pytest.approx([100, 200, 400, 800, root, math.sqrt(root * 800)])


def test_a_start_that_is_too_fast_is_halved() -> None:
    assert asked(server(30), steps=1) == pytest.approx([100, 50, 25, math.sqrt(25 * 50)])


@pytest.mark.parametrize("capacity_rps", [37.0, 100.0, 101.0, 777.7, 12_345.0])
def test_the_best_rate_is_one_that_was_measured_and_close_below_the_capacity(capacity_rps: float) -> None:
    found = highest_rate(server(capacity_rps), bound_ms=20, start_rps=100, steps=30)
    assert found.best_rps is not None
    assert found.broken_rps is not None
    assert found.best_rps <= capacity_rps < found.broken_rps <= found.best_rps * CLOSE_ENOUGH
    assert found.kept_rps == found.best_rps
    best = max(each.offered_rps for each in found.points if keeps(each, bound_ms=20, percent=99))
    assert found.best_rps == best
    assert len(found.points) < 16


def test_a_server_that_never_keeps_the_bound_has_no_best_rate() -> None:
    found = highest_rate(server(0), bound_ms=20, start_rps=100, steps=4, scenario="engine")
    assert (found.best_rps, found.scenario, found.bound_ms, found.percent) == (None, "engine", 20, 99)
    assert [each.offered_rps for each in found.points] == [100 / 2**halved for halved in range(1 + MOST_DOUBLINGS)]
    assert (found.kept_rps, found.broken_rps) == (None, 100 / 2**MOST_DOUBLINGS)


def test_a_server_that_always_keeps_the_bound_has_a_best_rate_and_none_that_broke_it() -> None:
    found = highest_rate(server(math.inf), bound_ms=20, start_rps=1, steps=4)
    assert (found.best_rps, found.broken_rps) == (2**MOST_DOUBLINGS, None)


@pytest.mark.parametrize("start_rps", [1, 100, 60_000])
def test_only_bisections_count_as_steps_however_far_the_start_is(start_rps: float) -> None:
    found = highest_rate(server(4000), bound_ms=20, start_rps=start_rps, steps=6)
    assert found.best_rps is not None
    assert found.broken_rps is not None
    assert found.best_rps <= 4000 < found.broken_rps <= found.best_rps * CLOSE_ENOUGH


def test_too_few_steps_leave_wide_what_is_known() -> None:
    found = highest_rate(server(700), bound_ms=20, start_rps=100, steps=1)
    assert (found.best_rps, found.broken_rps) == (pytest.approx(math.sqrt(400 * 800)), 800)


def test_a_percentile_that_is_exactly_the_bound_keeps_it_and_one_without_answers_does_not() -> None:
    assert keeps(point(1, p99_ms=20.0), bound_ms=20, percent=99)
    assert not keeps(point(1, p99_ms=20.1), bound_ms=20, percent=99)
    assert not keeps(point(1, p99_ms=None), bound_ms=20, percent=99)
    assert keeps(point(1, p99_ms=None), bound_ms=20, percent=90)


def test_a_void_point_is_asked_again_twice_and_the_search_goes_on() -> None:
    answers = iter(["", "lagged", "lagged", ""])

    def probe(rps: float) -> Rate:
        return point(rps, p99_ms=5.0 if rps < 400 else 500.0, void=next(answers, ""))

    found = highest_rate(probe, bound_ms=20, start_rps=100, steps=1)
    assert [(each.offered_rps, each.void) for each in found.points[:5]] == [
        (100, ""),
        (200, "lagged"),
        (200, "lagged"),
        (200, ""),
        (400, ""),
    ]
    assert (found.broken_rps, found.is_whole) == (400, True), "what was known after all leaves nothing open"


def test_below_a_rate_that_stays_void_the_peak_is_found_all_the_same() -> None:
    found = highest_rate(
        lambda rps: point(rps, p99_ms=5.0 if rps <= 470 else 500.0, void="lagged" if rps >= 700 else ""), **ASKED
    )
    assert [each.offered_rps for each in found.points[:6]] == [100, 200, 400, 800, 800, 800]
    assert found.best_rps is not None
    assert found.broken_rps is not None
    assert found.best_rps <= 470 < found.broken_rps <= found.best_rps * CLOSE_ENOUGH
    assert (found.is_whole, found.at_most_rps) == (True, found.best_rps)


def test_a_peak_of_which_all_above_stays_void_is_at_least_what_was_kept() -> None:
    found = highest_rate(lambda rps: point(rps, void="lagged" if rps > 150 else ""), **ASKED)
    assert found.best_rps is not None
    assert 150 / CLOSE_ENOUGH <= found.best_rps <= 150
    assert (found.broken_rps, found.is_whole, found.at_most_rps) == (None, False, math.inf)


def test_a_peak_with_a_void_gap_above_it_is_not_whole() -> None:
    found = highest_rate(
        lambda rps: point(rps, p99_ms=5.0 if rps < 700 else 500.0, void="lagged" if 410 < rps < 790 else ""), **ASKED
    )
    assert found.best_rps is not None
    assert found.best_rps <= 410
    assert (found.broken_rps, found.is_whole, found.at_most_rps) == (800, False, 800)


def test_what_broke_the_bound_is_known_where_the_way_down_from_it_is_void() -> None:
    found = highest_rate(lambda rps: point(rps, p99_ms=99.0, void="lagged" if rps < 60 else ""), **ASKED)
    assert [each.offered_rps for each in found.points] == [100, 50, 50, 50]
    assert (found.best_rps, found.broken_rps) == (None, 100)


def test_void_from_the_start_there_is_nothing_to_tell() -> None:
    found = highest_rate(lambda rps: point(rps, void="lagged"), bound_ms=20, start_rps=100, steps=9)
    assert (found.best_rps, found.broken_rps, len(found.points)) == (None, None, 3)


def test_a_percentile_that_points_lack_is_refused_with_the_list() -> None:
    with pytest.raises(BadRequest, match=r"^a rate cannot be bounded by p95: its points have p50, p90, p99$"):
        highest_rate(server(1), bound_ms=20, percent=95, start_rps=100, steps=9)


@pytest.mark.parametrize("name", ["bound_ms", "start_rps", "steps"])
@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_nothing_to_search_is_refused(name: str, value: float) -> None:
    with pytest.raises(BadRequest) as caught:
        asked(server(1), **{name: value})
    assert str(caught.value) == f"{name} is {value:g}: give a number above 0"
