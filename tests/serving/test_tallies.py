import threading

import pytest
from fakes import Clock

from serving.tallies import LATEST, Rate, Tally, percentile


def test_a_tally_counts_answers_failures_and_what_nobody_could_answer() -> None:
    tally = Tally(clock=Clock())
    tally.add([1.0, 2.0, 2000.0], errors=1, refused=2)
    told = tally.told()
    assert (told.rate, told.refused) == (Rate(requests=4, errors=1), 2)
    assert (told.p50_ms, told.p99_ms, told.sum_ms) == (2.0, 2000.0, 2003.0)
    assert told.buckets == (0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1)


def test_what_is_recent_grows_old() -> None:
    clock = Clock()
    tally = Tally(clock=clock)
    tally.add([], errors=3)
    clock.advance(20.0)
    tally.add([1.0])
    assert tally.recent(30) == Rate(4, 3)
    clock.advance(10.0)
    assert tally.recent(30) == Rate(1, 0)
    assert tally.rate == Rate(4, 3)


def test_percentiles_are_of_the_latest_answers() -> None:
    tally = Tally(clock=Clock())
    tally.add([1000.0] * LATEST)
    tally.add([1.0] * LATEST)
    assert tally.told().p99_ms == 1.0


def test_nothing_has_no_percentile_and_no_share() -> None:
    told = Tally().told()
    assert (told.p50_ms, told.rate.share) == (None, 0.0)


@pytest.mark.parametrize(("percent", "expected"), [(50, 2.0), (51, 3.0), (99, 4.0), (1, 1.0)])
def test_a_percentile_is_one_of_the_values(percent: int, expected: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], percent) == expected


def test_nothing_is_lost_between_threads() -> None:
    tally = Tally()

    def count() -> None:
        for _ in range(5000):
            tally.add([1.0], errors=1)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tally.rate == Rate(40_000, 20_000)


def test_percentiles_are_made_while_others_may_add() -> None:
    tally = Tally()

    class Compared(float):
        def __lt__(self, other: float) -> bool:
            assert not tally._lock.locked()
            return float(self) < float(other)

    tally.add([Compared(2.0), Compared(1.0)])
    assert tally.told().p50_ms == 1.0


def test_times_are_those_of_all_that_is_told() -> None:
    tally = Tally()
    tally.add([1.0, 30.0])
    told = tally.told()
    assert tally.times() == (told.buckets, told.sum_ms) == (told.buckets, 31.0)
