"""Rounds: who fails is tried again, and stays."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import tiny_bundle

from benchmarks.serving.contest import Contest, Installed
from benchmarks.serving.contestants import OURS, chosen
from serving.errors import Failure, Transient


@pytest.fixture
def contest(tmp_path: Path) -> Contest:
    peers = {peer.name: Installed(peer, Path("bin")) for peer in chosen(["fastapi", "litserve"])}
    return Contest(tiny_bundle(tmp_path / "bundle"), ("good",), peers, cores=(), generator=())


def failing(*turns: tuple[str, int], error: Exception) -> Callable[[str], int]:
    """Counts a name's turns, and fails in these."""
    counts: dict[str, int] = {}

    def measure(name: str) -> int:
        counts[name] = counts.get(name, 0) + 1
        if (name, counts[name]) in turns:
            raise error
        return counts[name]

    return measure


@pytest.mark.parametrize("name", ["fastapi", OURS])
def test_who_fails_once_is_measured_at_the_second_try(contest: Contest, name: str) -> None:
    found = contest.each(0, failing((name, 1), error=Transient("the port was taken")))
    assert found == {**dict.fromkeys((OURS, "fastapi", "litserve"), 1), name: 2}
    assert contest.failed == {}


@pytest.mark.parametrize("name", ["fastapi", OURS])
def test_who_fails_twice_lacks_that_round_and_takes_part_in_the_next(
    contest: Contest, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = failing((name, 1), (name, 2), error=Transient("the port was taken"))
    assert name not in contest.each(0, measure, part="peak")
    assert contest.each(1, measure, part="peak")[name] == 3
    assert contest.failed == {f"{name}, peak round 1": "the port was taken"}
    told = capsys.readouterr().err
    assert f"{name} failed: the port was taken; it is tried again\n" in told
    assert f"{name} failed: the port was taken; it is left out of this round\n" in told


def test_what_no_one_expected_costs_no_more_than_a_round_and_is_told_with_its_kind(contest: Contest) -> None:
    error = ValueError("no JSON")
    assert OURS in contest.each(2, failing(("fastapi", 1), ("fastapi", 2), error=error))
    assert contest.failed == {"fastapi, round 3": "ValueError: no JSON"}


def test_an_interrupt_ends_a_round(contest: Contest) -> None:
    def measure(name: str) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        contest.each(0, measure)


@pytest.mark.parametrize("part", ["peak", ""])
def test_without_any_round_there_is_an_error_that_tells_the_last_one_s(contest: Contest, part: str) -> None:
    measure = failing(*((OURS, turn) for turn in range(1, 5)), error=Transient("no memory"))
    for number in range(2):
        contest.each(number, measure, part=part)
    told = f"{OURS} failed in every round, the last time with: no memory"
    with pytest.raises(Failure, match=f"^{re.escape(told)}$"):
        contest.require_round(OURS, {}, part=part)
    contest.require_round(OURS, {OURS: (1,)}, part=part)
