"""The benchmark of handing over events: what it counts, and that it runs."""

import json
from pathlib import Path
from typing import Any

import pytest
from tracked import outbox_in, put, rows

from benchmarks import tracking_bench
from benchmarks.machine import read
from benchmarks.tracking_bench import (
    NAMES,
    arrived_in,
    await_sent,
    hand_over,
    main,
    percentiles_us,
    require_kept,
)
from pipeline.errors import Transient
from pipeline.progress import Silent
from pipeline.recording import Asked, Recorder
from pipeline.tracking.client import default_uri, talking_to


def test_percentiles_are_of_all_samples_in_microseconds() -> None:
    took = [1000 * n for n in range(100, 0, -1)]
    assert percentiles_us(took) == {"p50_us": 51.0, "p99_us": 100.0, "max_us": 100.0}
    assert percentiles_us([1500]) == {"p50_us": 1.5, "p99_us": 1.5, "max_us": 1.5}


def test_every_event_is_timed(tmp_path: Path) -> None:
    recorder = Recorder(Silent(), Asked(tmp_path, "a", {}, "a", None, "here", ()))
    took = hand_over(recorder, events=5)
    assert len(took) == 5
    assert min(took) > 0


def ended_with(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.timeout(300)
def test_it_ends_with_a_line_that_says_what_was_found_and_that_nothing_was_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_bench, "BOUND_US", 1e9)
    assert ended_with("--events", "300", "--out", str(tmp_path / "found.json")) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((tmp_path / "found.json").read_text()) == found
    assert (found["events"], found["numbers_an_event"], found["lost"], found["refused"]) == (300, len(NAMES), 0, 0)
    assert 0 < found["p50_us"] <= found["p99_us"] <= found["max_us"]
    assert found["machine"]["cores"] >= 1


@pytest.mark.timeout(300)
def test_an_event_is_lost_where_mlflow_has_not_all_its_numbers(tmp_path: Path) -> None:
    from mlflow.entities import Metric

    with talking_to(default_uri(tmp_path)) as client:
        run = client.create_run(client.create_experiment("a", artifact_location=str(tmp_path))).info.run_id
        for step in (0, 1, 3, 4):
            names = NAMES[1:] if step == 3 else NAMES
            client.log_batch(run, metrics=[Metric(name, 1.0, 1, step) for name in names])
        assert arrived_in(client, run, events=5) == 3


FOUND: dict[str, Any] = {"events": 300, "lost": 0, "refused": 0, "p50_us": 5.0, "p99_us": 50.0, "max_us": 90.0}


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"p99_us": 50.1}, "handing one over took 50.1 us at p99, and the bound is 50"),
        ({"lost": 2}, "of 300 events 2 are lost and 0 were refused"),
        (
            {"refused": 1, "p99_us": 60.0},
            "of 300 events 0 are lost and 1 were refused; handing one over took 60 us at p99, and the bound is 50",
        ),
    ],
)
def test_what_is_not_kept_is_told_after_the_figures_and_is_the_exit_code(
    other: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {**FOUND, **other, "seconds_until_they_were_sent": 1.0, "machine": read()}
    monkeypatch.setattr(tracking_bench, "measured", lambda root, *, events: found)
    assert ended_with() == 66
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1])["p99_us"] == found["p99_us"]
    assert said.err == f"retort: {told}\n"


def test_at_the_bound_it_is_kept() -> None:
    require_kept(FOUND)


def test_what_is_not_sent_in_time_is_waited_for_no_longer(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path)
    put(outbox, *rows(1, 3))
    with pytest.raises(Transient) as late:
        await_sent(outbox.folder, wait_s=0.2)
    why = "its sender said nothing"
    assert str(late.value) == f"3 events still wait after 0.2 s ({why}); run it again when less else runs"
    (outbox.folder / "sender.log").write_text("before\nthe disk is full\n")
    with pytest.raises(Transient, match=r"^3 events still wait after 0 s \(the disk is full\);"):
        await_sent(outbox.folder, wait_s=0.0)
    outbox.close(whole=True)


def test_no_events_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended_with("--events", "0") == 2
    assert capsys.readouterr().err.endswith("error: --events must be above 0\n")


def test_the_bound_is_the_issue_s() -> None:
    assert tracking_bench.BOUND_US == 50.0
