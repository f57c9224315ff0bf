"""Bars on a terminal, a line now and then elsewhere, one JSON line an event."""

import io
import json
import re
from pathlib import Path

import pytest
from fakes import Clock
from rich.console import Console as Terminal

from pipeline import progress
from pipeline.progress import Console, Silent, measured, track


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def test_work_that_is_soon_done_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Console().bar("tokenize", total=3, unit="texts") as bar:
        for _ in range(3):
            clock.advance(3.0)
            bar.advance()
    assert capsys.readouterr() == ("", "")


def test_long_work_says_every_ten_seconds_how_far_how_fast_and_how_long_still(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Console().bar("distill", total=3000, unit="steps") as bar:
        for _ in range(3):
            clock.advance(5.0)
            bar.advance(1000, note="loss 0.5")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "  distill: 2,000/3,000 steps, 200.0 steps/s, 5 s left loss 0.5",
        "  distill: 3,000/3,000 steps, 200.0 steps/s loss 0.5",
    ]


def test_work_of_unknown_length_names_no_end(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Console().bar("reading", total=None, unit="texts") as bar:
        clock.advance(20.0)
        bar.advance(10)
    assert set(capsys.readouterr().err.splitlines()) == {"  reading: 10 texts, 0.5 texts/s"}


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Makes the console write to a terminal that is this text."""
    screen = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda **_: Terminal(file=screen, force_terminal=True, width=120))
    return screen


def test_a_terminal_gets_a_bar_with_count_rate_and_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_terminal(monkeypatch)
    with Console().bar("distill", total=10, unit="steps") as bar:
        bar.advance(4, note="loss 0.5")
        bar.advance(6)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert "distill" in shown
    assert re.search(r"10/10 steps, [\d,]+\.\d/s", shown)
    assert "loss 0.5" in shown


def test_lines_are_for_people_and_not_for_parsers(capsys: pytest.CaptureFixture[str]) -> None:
    Console().line("wrote [bold]/a/long/path[/bold] " + "x" * 200)
    assert capsys.readouterr() == ("", "wrote [bold]/a/long/path[/bold] " + "x" * 200 + "\n")


def test_events_are_appended_one_json_line_each(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "a" / "events.jsonl"
    Console(path).event("started", label="distill")
    Console(path).event("step", label="distill", seconds=1.5)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [event.pop("at") > 0 for event in events] == [True, True]
    assert events == [
        {"event": "started", "label": "distill"},
        {"event": "step", "label": "distill", "seconds": 1.5},
    ]


def test_without_a_file_events_go_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Console().event("started", label="distill")
    assert list(tmp_path.iterdir()) == []


def test_silent_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Silent()
    with reporter.bar("a", total=1, unit="b") as bar:
        bar.advance(1, note="c")
    reporter.line("d")
    reporter.event("e", f=1)
    reporter.metrics("g", step=1, values={"h": 2.0})
    assert capsys.readouterr() == ("", "")


def test_track_hands_on_every_item_and_counts_it_after_its_work(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []
    for item in track(Console(), "abc", "reading", 3, "texts"):
        seen.append(item)
        clock.advance(10.0)
    assert seen == ["a", "b", "c"]
    assert capsys.readouterr().err.splitlines()[:3] == [
        "  reading: 1/3 texts, 0.1 texts/s, 20 s left",
        "  reading: 2/3 texts, 0.1 texts/s, 10 s left",
        "  reading: 3/3 texts, 0.1 texts/s",
    ]


def test_track_is_lazy() -> None:
    pulled = []
    items = track(Silent(), (pulled.append(i) for i in range(3)), "reading", None, "texts")
    next(items)
    assert pulled == [0]


def test_what_measures_says_so_before_and_after_also_where_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"

    def measure() -> None:
        with measured(Console(path), label="benchmark"):
            assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["measure_start"]
            raise ValueError("it fell over")

    with pytest.raises(ValueError, match="it fell over"):
        measure()
    assert [(each["event"], each["label"]) for each in map(json.loads, path.read_text().splitlines())] == [
        ("measure_start", "benchmark"),
        ("measure_end", "benchmark"),
    ]


def test_a_console_shows_no_metrics_as_the_bar_s_note_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    Console().metrics("model", step=1, values={"loss": 0.5})
    assert capsys.readouterr() == ("", "")
