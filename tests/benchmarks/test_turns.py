"""Whose turn it is, and of what."""

import io
import sys

import pytest

from benchmarks.child import await_turn
from benchmarks.turns import REAL, REQUESTS, Part, parts, rounds, take_turns
from serving.errors import Transient


def test_every_request_is_in_one_turn_and_turns_are_short_and_alternate_between_lengths() -> None:
    found = parts(100, (16, 64), real=200)
    assert [part.length for part in found] == [16, 64, REAL] * 20
    for length, count in ((16, 100), (64, 100), (REAL, 200)):
        mine = [part for part in found if part.length == length]
        assert [i for part in mine for i in range(part.start, part.stop)] == list(range(count))
    assert max(part.stop - part.start for part in found if part.length != REAL) == REQUESTS


def test_what_cannot_be_divided_evenly_is_divided_as_evenly_as_can_be() -> None:
    assert parts(7, (16,), real=1) == (Part(16, 0, 3), Part(16, 3, 7), Part(REAL, 0, 1))
    assert parts(3, (16,), real=0) == (Part(16, 0, 3),)


def orders(names: str, numbers: range) -> list[str]:
    seen: list[str] = []
    take_turns([lambda name=name: seen.append(name) for name in names], numbers)  # type: ignore[misc]
    return ["".join(seen[i : i + len(names)]) for i in range(0, len(seen), len(names))]


def test_who_goes_first_and_who_follows_whom_changes_with_every_round() -> None:
    assert orders("abc", range(6)) == ["abc", "cba", "bca", "acb", "cab", "bac"]
    assert orders("ab", range(4)) == ["ab", "ba", "ba", "ab"]
    assert orders("a", range(2)) == ["a", "a"]


@pytest.mark.parametrize("kinds", [(16,), (16, 64), (16, 64, 128)])
@pytest.mark.parametrize("real", [0, 20])
def test_at_every_length_each_variant_goes_first_as_often(kinds: tuple[int, ...], real: int) -> None:
    found = parts(20, kinds, real=real)
    assert len(rounds(found)) == len(found)
    for length in {part.length for part in found}:
        mine = [number for number, part in zip(rounds(found), found, strict=True) if part.length == length]
        assert mine == list(range(4))


def test_a_turn_comes_with_a_line_and_never_when_nobody_can_write_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    await_turn()
    with pytest.raises(Transient, match=r"^the session has ended: nobody waits for this process's times$"):
        await_turn()
