import threading

import pytest
from fakes import Clock

from serving.tallies import LATEST, Cut, End, Part, Rate, Tally, percentile


def test_a_tally_counts_answers_failures_and_what_nobody_could_answer() -> None:
    tally = Tally(clock=Clock())
    tally.add([1.0, 2.0, 2000.0], errors=1, refused=2)
    told = tally.told()
    assert (told.rate, told.refused) == (Rate(requests=4, errors=1), 2)
    assert (told.p50_ms, told.p99_ms, told.sum_ms) == (2.0, 2000.0, 2003.0)
    assert told.buckets == (0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1)


def cut(parts: int) -> list[Part]:
    """A request in so many slices."""
    request = Cut(parts)
    return [Part(["item"], request=request, place=place) for place in range(parts)]


def count(tally: Tally, *ended: tuple[Part, End]) -> tuple[int, int, int, float]:
    """Each in a call of its own; requests, errors, refused and milliseconds afterwards."""
    for part, end in ended:
        tally.count([part], [end])
    told = tally.told()
    return (*told.rate, told.refused, told.sum_ms)


def test_a_request_in_slices_counts_once_at_its_end_with_the_time_of_all() -> None:
    tally, parts = Tally(), cut(3)
    assert count(tally, (parts[0], 1.0), (parts[1], 2.0)) == (0, 0, 0, 0.0)
    assert count(tally, (parts[2], 4.0)) == (1, 0, 0, 7.0)


def test_a_request_whose_slice_fails_is_one_failure() -> None:
    tally, parts = Tally(), cut(3)
    assert count(tally, (parts[0], 1.0), (parts[1], "failed")) == (1, 1, 0, 0.0)
    assert count(tally, (parts[2], "failed")) == (1, 1, 0, 0.0), "as a shadow goes on with the rest of it"
    assert count(Tally(), (parts[0], "refused"), (parts[1], "refused")) == (0, 0, 1, 0.0)


def test_slices_that_are_asked_again_of_another_version_count_once_and_for_it_alone() -> None:
    first, second, parts = Tally(), Tally(), cut(3)
    assert count(first, (parts[0], 1.0)) == (0, 0, 0, 0.0)
    ended: list[tuple[Part, End]] = [(parts[1], 2.0), (parts[0], 1.0), (parts[1], 3.0), (parts[2], 4.0)]
    assert count(second, *ended) == (1, 0, 0, 8.0)
    assert first.rate == Rate(0, 0)


def test_slices_and_whole_requests_are_counted_in_one_call() -> None:
    tally, (only,) = Tally(), cut(1)
    tally.count([["a"], only, ["b"], ["c"]], [1.0, 2.0, "failed", "refused"])
    assert (*tally.rate, tally.told().refused, tally.told().sum_ms) == (3, 1, 1, 3.0)


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
