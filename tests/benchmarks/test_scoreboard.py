"""Ratios the right way up, targets from the right side, and nothing invented where nothing was measured."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.scoreboard import Figure, Notes, alone, build_table, less_is_better, more_is_better, ratios

TIME = less_is_better("t", "time", baseline=12.0, ours=1.5, unit="s", at_least=8.0)
RATE = more_is_better("r", "rate", baseline=1500.0, ours=7500.0, unit="tokens/s", at_least=6.0, note="2 % padding")
SHARE = alone("s", "share", ours=0.2, unit="share", at_most=0.25)
RECORDED = alone("m", "memory", ours=2.5, unit="GB")
MISSING = Figure(key="g", name="gpu", at_least=8.0, note="no GPU here")


def test_ratios_say_how_many_times_better_ours_is() -> None:
    assert ratios([TIME, RATE, SHARE, RECORDED, MISSING]) == {"t": 8.0, "r": 5.0, "s": 0.2, "m": 2.5, "g": None}


@pytest.mark.parametrize(
    ("figure", "reached"),
    [(TIME, True), (RATE, False), (SHARE, True), (RECORDED, None), (MISSING, None)],
    ids=lambda value: getattr(value, "key", str(value)),
)
def test_a_target_is_reached_from_its_own_side(figure: Figure, reached: bool | None) -> None:
    assert figure.reached is reached


def test_a_share_above_its_limit_is_not_reached() -> None:
    assert alone("s", "share", ours=0.26, unit="share", at_most=0.25).reached is False


def test_the_table_shows_figure_baseline_ours_ratio_target_and_verdict() -> None:
    terminal = Console(width=140, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    terminal.print(build_table([TIME, RATE, SHARE, RECORDED, MISSING], title="Title"))
    terminal.file.close()
    rows = [" ".join(line.split()) for line in terminal.export_text().splitlines()]
    assert [row for row in rows if row and "─" not in row] == [
        "Title",
        "figure baseline ours ratio to reach reached",
        "time 12 s 1.5 s 8.0x >= 8x yes",
        "rate (2 % padding) 1,500 tokens/s 7,500 tokens/s 5.0x >= 6x NO",
        "share - 20.0% - <= 25.0% yes",
        "memory - 2.5 GB - recorded",
        "gpu (no GPU here) - - - >= 8x",
    ]


def test_what_is_written_holds_figures_raw_samples_and_the_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = Notes()
    notes.raw["t"] = {"samples_ns": [1, 2]}
    notes.publish([TIME, MISSING], {"corpus": "x.txt"}, title="Title", out=tmp_path / "new" / "out.json")

    written = json.loads((tmp_path / "new" / "out.json").read_text())
    assert (written["corpus"], written["raw"]) == ("x.txt", {"t": {"samples_ns": [1, 2]}})
    assert {"started", "machine", "disturbance"} <= written.keys()
    assert [(row["key"], row["ratio"], row["reached"]) for row in written["figures"]] == [
        ("t", 8.0, True),
        ("g", None, None),
    ]
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"t": 8.0, "g": None}
