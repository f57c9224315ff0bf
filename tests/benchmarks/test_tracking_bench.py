"""The benchmark of handing over events: what it counts, and that it runs."""

import json
from pathlib import Path

import pytest

from benchmarks import tracking_bench
from benchmarks.tracking_bench import NAMES, hand_over, main, percentiles_us
from pipeline.progress import Silent
from pipeline.recording import Asked, Recorder


def test_percentiles_are_of_all_samples_in_microseconds() -> None:
    took = [1000 * n for n in range(100, 0, -1)]
    assert percentiles_us(took) == {"p50_us": 51.0, "p99_us": 100.0, "max_us": 100.0}
    assert percentiles_us([1500]) == {"p50_us": 1.5, "p99_us": 1.5, "max_us": 1.5}


def test_every_event_is_timed(tmp_path: Path) -> None:
    recorder = Recorder(Silent(), Asked(tmp_path, "a", {}, "a", None, "here", ()))
    took = hand_over(recorder, events=5)
    assert len(took) == 5
    assert min(took) > 0


@pytest.mark.timeout(300)
def test_it_ends_with_a_line_that_says_what_was_found_and_that_nothing_was_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["--events", "300", "--out", str(tmp_path / "found.json")])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((tmp_path / "found.json").read_text()) == found
    assert (found["events"], found["numbers_an_event"], found["lost"], found["refused"]) == (300, len(NAMES), 0, 0)
    assert 0 < found["p50_us"] <= found["p99_us"] <= found["max_us"]
    assert found["machine"]["cores"] >= 1


def test_the_bound_is_the_issue_s() -> None:
    assert tracking_bench.BOUND_US == 50.0
