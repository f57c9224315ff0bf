"""The page of a training run: whole in itself, every text escaped, and the figures those of the rows."""

from pathlib import Path
from typing import Any

import pytest
from pages import Page, require_self_contained

from pipeline.training_report import NONE, change_of, duration_of, text_of, tiles_of, write_report

ROW = {"step": 1, "tokens": 64.0, "loss": 0.5, "learning_rate": 1e-4, "grad_norm": 2.0, "tokens_per_s": 900.0}
ROWS = [
    ROW | {"query": 0.3, "key": 0.2, "padding_share": 0.1, "seconds": 3.0, "agreement/query": 0.25},
    ROW
    | {"step": 2000, "tokens": 8_192_000.0, "loss": 0.1, "query": 0.06, "key": 0.04, "tokens_per_s": 5000.0}
    | {"padding_share": 0.031, "seconds": 4000.0, "agreement/query": 0.5},
    ROW
    | {"step": 2010, "tokens": 8_200_000.0, "loss": 0.125, "query": 0.075, "key": 0.05, "tokens_per_s": 5200.0}
    | {"padding_share": 0.0314, "seconds": 4001.0, "agreement/query": 0.75},
]


def report(out: Path, rows: list[dict[str, float]] = ROWS, *, title: str = "distillation", **facts: Any) -> str:
    write_report(rows, out, title=title, facts=facts)
    return (out / "evidence" / "report.html").read_text(encoding="utf-8")


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    text = report(tmp_path, precision="bf16")
    require_self_contained(Page(text))
    assert text.startswith("<!doctype html>")


def test_every_part_of_a_picture_has_an_id_and_every_reference_finds_one(tmp_path: Path) -> None:
    page = Page(report(tmp_path))
    require_self_contained(page)
    assert len(page.values("id")) > 100


def test_there_is_a_picture_for_each_panel(tmp_path: Path) -> None:
    page = Page(report(tmp_path))
    assert [tag for tag, _ in page.tags].count("svg") == 6
    assert {"Loss", "Agreement", "Learning rate", "Gradient norm", "Tokens a second", "Share of padding"} <= set(
        page.texts
    )


def test_the_tables_hold_the_change_of_loss_terms_and_agreement_and_the_facts(tmp_path: Path) -> None:
    text = report(tmp_path, teacher_parameters=22_713_216, precision="bf16", final_loss=None, dev_scores=[0.5, 0.75])
    assert Page(text).table_rows == [
        ["", "step 1", "step 2,010", "last / first"],
        ["loss", "0.5", "0.125", "0.25 x"],
        ["query", "0.3", "0.075", "0.25 x"],
        ["key", "0.2", "0.05", "0.25 x"],
        ["", "step 1", "step 2,010", "last / first"],
        ["query", "0.25", "0.75", "3 x"],
        ["teacher parameters", "22,713,216"],
        ["precision", "bf16"],
        ["final loss", NONE],
        ["dev scores", "[0.5,0.75]"],
    ]


def test_the_figures_of_the_run_stand_first() -> None:
    assert dict(tiles_of(ROWS)) == {
        "steps": "2,010",
        "tokens": "8,200,000",
        "time": "1 h 6 min",
        "tokens/s, median": "5,000",
        "padding": "3.1%",
        "final loss": "0.125",
    }


def test_rows_of_fine_tuning_make_a_page_of_what_they_have(tmp_path: Path) -> None:
    page = Page(report(tmp_path, [ROW | {"cross_entropy": 0.5}, ROW | {"step": 9, "loss": 0.0, "cross_entropy": 0.0}]))
    assert [tag for tag, _ in page.tags].count("svg") == 4
    assert page.table_rows == [["", "step 1", "step 9", "last / first"], ["loss", "0.5", "0", "0 x"]]
    assert "padding" not in page.texts


def test_a_single_row_is_a_page(tmp_path: Path) -> None:
    assert Page(report(tmp_path, ROWS[:1])).open == []


def test_names_and_values_are_text_and_not_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> & $x_{1$"
    rows = [row | {f"term {evil}": 0.1, f"agreement/{evil}": 0.2, "agreement/b": 0.1} for row in ROWS]
    text = report(tmp_path, rows, title=f"title {evil}", **{f"name {evil}": f"value {evil}"})
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script" not in text
    assert f"title {evil}" in page.texts
    assert [f"name {evil}".replace("_", " "), f"value {evil}"] in page.table_rows
    assert [row[0] for row in page.table_rows].count(evil) == 1  # in the table of agreement
    assert page.texts.count(f"term {evil}") == 2  # in the table and in the legend


def test_the_same_rows_make_the_same_page(tmp_path: Path) -> None:
    assert report(tmp_path) == report(tmp_path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, NONE),
        (True, "yes"),
        (False, "no"),
        (17_356_800, "17,356,800"),
        (5203.44, "5,203"),
        (0.0314159, "0.03142"),
        (1e-7, "1e-07"),
        ("bf16", "bf16"),
        ({"epochs": 3}, '{"epochs":3}'),
    ],
)
def test_facts_are_written_for_people(value: Any, text: str) -> None:
    assert text_of(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.84, "0.8 s"),
        (59.4, "59.4 s"),
        (59.6, "1 min 0 s"),
        (90.0, "1 min 30 s"),
        (3599.9, "1 h 0 min"),
        (9000, "2 h 30 min"),
    ],
)
def test_time_is_written_in_the_units_it_takes(seconds: float, text: str) -> None:
    assert duration_of(seconds) == text


def test_a_value_that_began_at_nothing_has_no_ratio() -> None:
    assert change_of([{"mlm": 0.0}, {"step": 2}, {"mlm": 2.0}], "mlm") == ("mlm", "0", "2", NONE)
