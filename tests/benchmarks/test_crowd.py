"""Calls at the same moment, and what is said of what a registry has afterwards."""

from functools import partial
from threading import Barrier

import pytest

from benchmarks.crowd import Answer, all_at_once, counted

ANSWERS = [Answer("1", "", 1.0), Answer("2", "", 2.0), Answer(None, "away", 6.0)]
WANTED = [{"key": "a"}, {"key": "b"}, {"key": "c"}]


def test_all_calls_are_under_way_together_and_answered_in_order() -> None:
    together = Barrier(8, timeout=20)

    def call(number: int) -> int:
        together.wait()
        return number

    answers = all_at_once([partial(call, number) for number in range(8)], expected=OSError)
    assert [each.value for each in answers] == list(range(8))


def test_a_call_that_fails_says_why_and_a_bug_is_raised() -> None:
    def fail() -> str:
        raise OSError("away")

    (answer,) = all_at_once([fail], expected=OSError)
    assert (answer.value, answer.failed) == (None, "away")
    with pytest.raises(OSError, match="away"):
        all_at_once([fail], expected=ValueError)


def test_what_is_there_and_whole_is_not_lost() -> None:
    kept = {"1": {"key": "a", "more": "x"}, "2": {"key": "b"}}
    assert counted(ANSWERS, WANTED, kept) == {
        "asked": 3,
        "failed": ["away"],
        "lost": 0,
        "incomplete": 0,
        "surplus": 0,
        "seconds": 6.0,
        "median_s": 2.0,
    }


@pytest.mark.parametrize(
    ("kept", "lost", "incomplete", "surplus"),
    [
        ({"1": {"key": "a"}}, 1, 0, 0),
        ({"1": {"key": "a"}, "2": {}}, 0, 1, 0),
        ({"1": {"key": "a"}, "2": {"key": "a"}}, 0, 1, 0),
        ({"1": {"key": "a"}, "2": {"key": "b"}, "3": {"key": "c"}}, 0, 0, 1),
    ],
)
def test_what_is_missing_half_or_too_much_is_counted(
    kept: dict[str, dict[str, str]], lost: int, incomplete: int, surplus: int
) -> None:
    found = counted(ANSWERS, WANTED, kept)
    assert (found["lost"], found["incomplete"], found["surplus"]) == (lost, incomplete, surplus)


def test_two_that_were_given_one_version_are_one_lost() -> None:
    twice = [Answer("1", "", 1.0), Answer("1", "", 1.0)]
    assert counted(twice, WANTED[:2], {"1": {"key": "b"}})["lost"] == 1
