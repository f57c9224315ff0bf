"""The picture of a training run: which lines stand where, and that names and odd values do no harm."""

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from pipeline.artifact import EVIDENCE
from pipeline.curves import (
    NOT_TERMS,
    Panel,
    draw_panel,
    losses_in,
    measures_in,
    panels_of,
    running_mean,
    save_curve,
    terms_in,
    wide,
)

BASIC = {"step": 1, "tokens": 64.0, "loss": 0.5, "learning_rate": 1e-4, "grad_norm": 2.0, "tokens_per_s": 900.0}
FULL = BASIC | {"query": 0.3, "key": 0.2, "padding_share": 0.1, "seconds": 3.0, "agreement/query": 0.7}


def rows_of(count: int, row: dict[str, float] = FULL, **changing: float) -> list[dict[str, float]]:
    """`count` rows in which the named values are divided by their step."""
    return [
        row | {name: value / step for name, value in changing.items()} | {"step": step} for step in range(1, count + 1)
    ]


def drawn(panel: Panel) -> Any:
    axes: Any = Figure().subplots()
    draw_panel(axes, panel)
    return axes


def titles(rows: list[dict[str, float]]) -> list[str]:
    return [panel.title for panel in panels_of(rows)]


def test_terms_are_all_that_is_not_a_known_key_or_a_measure() -> None:
    assert terms_in([FULL]) == ["query", "key"]
    assert measures_in([FULL]) == ["agreement/query"]
    assert set(FULL) - {"query", "key", "agreement/query"} == NOT_TERMS


def test_a_term_that_only_a_later_row_has_is_found() -> None:
    assert terms_in([BASIC, BASIC | {"mlm": 1.0}]) == ["mlm"]


def test_a_single_term_is_the_loss_and_is_not_drawn_twice() -> None:
    assert losses_in([BASIC | {"cross_entropy": 0.5}]) == ["loss"]
    assert losses_in([FULL]) == ["loss", "query", "key"]


def test_a_full_row_has_every_panel() -> None:
    assert titles([FULL]) == [
        *("Loss", "Agreement", "Learning rate", "Gradient norm", "Tokens a second", "Share of padding")
    ]


def test_what_is_noisy_is_smoothed_and_what_falls_far_may_be_logarithmic() -> None:
    noisy = {panel.title for panel in panels_of([FULL]) if panel.smooth}
    falling = {panel.title for panel in panels_of([FULL]) if panel.may_be_log}
    assert noisy == falling == {"Loss", "Gradient norm"}


def test_rows_of_fine_tuning_have_the_panels_they_have_values_for() -> None:
    assert titles([BASIC]) == ["Loss", "Learning rate", "Gradient norm", "Tokens a second"]


def test_each_panel_holds_its_own_values_over_the_steps() -> None:
    rows = rows_of(3, query=0.3, grad_norm=2.0)
    by_title = {panel.title: dict(panel.lines) for panel in panels_of(rows)}
    steps = [1, 2, 3]
    assert by_title["Loss"] == {
        "loss": (steps, [0.5] * 3),
        "query": (steps, [0.3, 0.15, 0.3 / 3]),
        "key": (steps, [0.2] * 3),
    }
    assert by_title["Agreement"] == {"query": (steps, [0.7] * 3)}
    assert by_title["Gradient norm"] == {"gradient norm": (steps, [2.0, 1.0, 2.0 / 3])}
    assert by_title["Share of padding"] == {"share of padding": (steps, [0.1] * 3)}


def test_a_row_without_a_value_leaves_its_step_out() -> None:
    rows = [FULL, BASIC | {"step": 2, "query": 0.2}]
    lines: Any = panels_of(rows)[0].lines
    assert lines["query"] == ([1, 2], [0.3, 0.2])
    assert lines["key"] == ([1], [0.2])


@pytest.mark.parametrize(
    ("values", "scale"),
    [([1.0, 0.1], "linear"), ([1.0, 0.09], "log"), ([1.0, 0.0], "linear"), ([1.0, -9.0], "linear")],
)
def test_an_axis_is_logarithmic_where_the_values_span_more_than_tenfold(values: list[float], scale: str) -> None:
    line: dict[str, Any] = {"loss": ([1, 2], values)}
    assert drawn(Panel("Loss", line, may_be_log=True)).get_yscale() == scale
    assert drawn(Panel("Loss", line)).get_yscale() == "linear"


def test_numbers_are_written_plainly() -> None:
    axes = drawn(Panel("Loss", {"loss": ([1, 20_000], [0.7, 0.03])}, may_be_log=True))
    axes.figure.canvas.draw()
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert {"0.05", "0.1", "0.2", "0.5"} <= set(labels)
    assert {label.get_text() for label in axes.get_yticklabels(minor=True)} <= {""}
    assert "20,000" in [label.get_text() for label in axes.get_xticklabels()]

    for form, label in (("share", "4%"), ("thousands", "4,000")):
        scale = 0.01 if form == "share" else 1000
        axes = drawn(Panel("x", {"x": ([1, 2], [scale, 4 * scale])}, form=form))
        axes.figure.canvas.draw()
        assert label in [one.get_text() for one in axes.get_yticklabels()]
        assert axes.get_ylim()[0] == 0


def test_a_single_step_is_a_point_with_one_tick() -> None:
    axes = drawn(Panel("Loss", {"loss": ([7], [0.5])}))
    axes.figure.canvas.draw()
    (line,) = axes.get_lines()
    assert line.get_marker() == "o"
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [7]


def test_many_rows_are_drawn_thin_under_their_running_mean() -> None:
    values = [float(step % 2) for step in range(1000)]
    axes = drawn(
        Panel("Loss", {"loss": (list(range(1000)), values), "query": (list(range(1000)), values)}, smooth=True)
    )
    thin, mean, *_ = axes.get_lines()
    assert list(thin.get_ydata()) == values
    assert (thin.get_alpha(), mean.get_alpha()) == (0.25, None)
    assert list(mean.get_ydata()) == running_mean(values)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["loss", "query"]
    assert [line.get_linewidth() for line in axes.get_legend().get_lines()] == [1.8, 1.3]


def test_a_running_mean_is_that_of_as_many_as_there_are() -> None:
    assert running_mean([1.0, 2.0, 6.0]) == pytest.approx([1.5, 3.0, 4.0])
    assert running_mean([float(n) for n in range(400)])[100] == pytest.approx(100.0)
    spike = running_mean([0.0] * 200 + [9.0] + [0.0] * 199)
    assert [round(value, 6) for value in spike if value > 1e-9] == [1.0] * 9


def test_lines_stay_apart_when_the_colours_are_used_up() -> None:
    axes = drawn(Panel("Loss", {name: ([1, 2], [0.1, 0.2]) for name in ("loss", *map(str, range(25)))}))
    looks = [(line.get_color(), line.get_linestyle()) for line in axes.get_lines()]
    assert len(set(looks)) == len(looks) == 26
    assert axes.get_legend()._ncols == 5


@pytest.mark.parametrize(
    ("count", "whole"),
    [(1, [True]), (2, [True, True]), (3, [True, False, False]), (4, [True, False, False, True])],
)
def test_the_first_panel_and_a_lonely_last_one_take_the_whole_width(count: int, whole: list[bool]) -> None:
    assert wide(count) == whole


@pytest.mark.parametrize("row", [BASIC, FULL, FULL | {"a $x_{1$ name": 0.1}], ids=["basic", "full", "dollars"])
@pytest.mark.parametrize("count", [1, 2, 150])
def test_rows_and_picture_are_written(row: dict[str, float], count: int, tmp_path: Path) -> None:
    rows = rows_of(count, row, loss=5.0)
    save_curve(rows, tmp_path, title="distillation of $5 <b>")
    lines = (tmp_path / EVIDENCE / "curve.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert (tmp_path / EVIDENCE / "curve.png").read_bytes()[:4] == b"\x89PNG"
