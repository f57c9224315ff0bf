from itertools import pairwise

from serving.shedding import CoDel

TARGET_S, INTERVAL_S = 0.005, 0.1


def refusals(codel: CoDel, wait_s: float, *, begin_s: float, seconds: float, every_s: float = 0.001) -> list[float]:
    """When requests that come at even distances, and would all wait that long, are refused."""
    times = [begin_s + n * every_s for n in range(round(seconds / every_s))]
    return [round(now, 4) for now in times if codel.refuses(wait_s, now_s=now)]


def test_a_burst_shorter_than_the_interval_is_let_in() -> None:
    codel = CoDel(target_s=TARGET_S, interval_s=INTERVAL_S)
    assert refusals(codel, 0.05, begin_s=0.0, seconds=0.099) == []


def test_a_wait_below_the_target_ends_the_burst() -> None:
    codel = CoDel(target_s=TARGET_S, interval_s=INTERVAL_S)
    assert refusals(codel, 0.05, begin_s=0.0, seconds=0.09) == []
    assert refusals(codel, 0.004, begin_s=0.09, seconds=0.01) == []
    assert refusals(codel, 0.05, begin_s=0.1, seconds=0.099) == []


def test_a_queue_that_stands_is_refused_ever_more_often() -> None:
    codel = CoDel(target_s=TARGET_S, interval_s=INTERVAL_S)
    found = refusals(codel, 0.02, begin_s=0.0, seconds=1.0)
    assert found[0] == 0.1
    gaps = [later - earlier for earlier, later in pairwise(found)]
    assert all(gap <= before + 0.0011 for before, gap in pairwise(gaps)), gaps
    assert gaps[0] > 2 * gaps[-1]


def test_it_stops_as_soon_as_the_wait_is_short_again() -> None:
    codel = CoDel(target_s=TARGET_S, interval_s=INTERVAL_S)
    assert refusals(codel, 0.02, begin_s=0.0, seconds=0.5)
    assert refusals(codel, 0.001, begin_s=0.5, seconds=0.5) == []


def test_soon_after_it_goes_on_about_as_often_as_it_did() -> None:
    codel = CoDel(target_s=TARGET_S, interval_s=INTERVAL_S)
    first = refusals(codel, 0.02, begin_s=0.0, seconds=2.0)
    refusals(codel, 0.001, begin_s=2.0, seconds=0.2)
    again = refusals(codel, 0.02, begin_s=2.2, seconds=0.4)
    fresh = refusals(CoDel(target_s=TARGET_S, interval_s=INTERVAL_S), 0.02, begin_s=0.0, seconds=0.4)
    assert len(again) > 2 * len(fresh)
    assert len(first) > len(again)
