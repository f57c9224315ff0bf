"""How servers start: what is asked after the first answer, and what of it counts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.serving import starts
from benchmarks.serving.asking import Answered
from benchmarks.serving.contest import Contest
from benchmarks.serving.contestants import OURS
from benchmarks.serving.starts import STEADY, WARM, Start, Starts, measure_starts

GOOD = Answered(200, b"{}")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the server that was started last is asked; its sixtieth answer to the text "full" is a refusal."""
    seen: list[Any] = []

    @contextmanager
    def server(_: Contest, name: str) -> Iterator[Any]:
        seen.clear()
        yield SimpleNamespace(
            name=name, url="http://there", ready_s=1.0, first_ms=9.0, first=[0.75], require_alive=lambda: None
        )

    def answer_of(url: str, body: str) -> Answered:
        seen.append((url, body))
        return Answered(503, b"full") if len(seen) == 60 and "full" in body else GOOD

    monkeypatch.setattr(Contest, "server", server)
    monkeypatch.setattr(starts, "answer_of", answer_of)
    return seen


def contest_of(*texts: str) -> Contest:
    return Contest(SimpleNamespace(path=Path()), texts, {}, (), ())  # type: ignore[arg-type]


def test_later_answers_are_to_the_text_of_the_first(asked: list[Any]) -> None:
    contest = contest_of("short", "a text that is longer")
    (start,) = measure_starts(contest, rounds=1).found[OURS]
    assert asked == [("http://there", contest.bodies(OURS)[0])] * (WARM + STEADY)
    assert (start.ready_s, start.first_ms, start.score, start.steady_p50_ms > 0) == (1.0, 9.0, 0.75, True)


def test_a_refusal_is_no_fast_answer(asked: list[Any]) -> None:
    contest = contest_of("full")
    starts = measure_starts(contest, rounds=1)
    assert list(contest.failed.values()) == ["retort gave no good answer to request 60 after its first (503: full)"]
    assert [each.kept for each in starts.figures()[:2]] == ["not known", "not known"]


def test_ours_is_not_known_where_a_round_of_it_failed() -> None:
    one = Start(1.0, 2.0, 2.0, 0.7)
    assert [Starts({OURS: (one, one)}, rounds).figures()[1].kept for rounds in (2, 3)] == ["yes", "not known"]


def test_a_first_answer_may_take_half_as_long_again_as_a_steady_one() -> None:
    kept = [Starts({OURS: (Start(1.0, ms, 2.0, 0.7),)}, 1).figures()[1].kept for ms in (3.0, 3.1)]
    assert kept == ["yes", "NO"]
