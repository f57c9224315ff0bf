"""What is seen of a training run: its rows as JSON lines, and one picture of them for people.

A row is a logged step: the keys of NOT_TERMS, measures of agreement under `agreement/`, and every other key is a term
of the loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pipeline.artifact import EVIDENCE

NOT_TERMS = {
    *("step", "tokens", "seconds", "loss", "learning_rate", "grad_norm", "tokens_per_s", "padding_share"),
}
AGREEMENT = "agreement/"
LOSS_COLOR = "#1f2937"
COLORS = ("#2563eb", "#ea580c", "#059669", "#9333ea", "#dc2626", "#0891b2", "#ca8a04", "#db2777", "#65a30d", "#6b7280")
STYLES = ("-", "--", ":", "-.")
LOG_FROM = 10.0  # the ratio of the largest to the smallest value above which an axis is logarithmic
MARKED_BELOW = 30  # points that are few are shown as points
SMOOTHED_FROM = 100  # more rows than this: a running mean over the thin line
Row = Mapping[str, float]


@dataclass(frozen=True)
class Panel:
    """One pair of axes: named lines over the steps. `form` says how numbers are written: plain, share or thousands."""

    title: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    form: str = "plain"
    smooth: bool = False
    may_be_log: bool = False

    @property
    def is_log(self) -> bool:
        """Whether the values span so much that small ones would lie on the axis."""
        values = [value for _, ys in self.lines.values() for value in ys if np.isfinite(value)]
        return self.may_be_log and bool(values) and 0 < LOG_FROM * min(values) < max(values)


def save_curve(rows: Sequence[Row], out: Path, *, title: str) -> None:
    """Write evidence/curve.jsonl and evidence/curve.png under `out`; there is at least one row."""
    folder = out / EVIDENCE
    folder.mkdir(exist_ok=True)
    (folder / "curve.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    _picture(panels_of(rows), folder / "curve.png", title=title)


def names_in(rows: Sequence[Row]) -> list[str]:
    """Every key of every row, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def terms_in(rows: Sequence[Row]) -> list[str]:
    """The terms that the loss is the sum of."""
    return [name for name in names_in(rows) if name not in NOT_TERMS and not name.startswith(AGREEMENT)]


def losses_in(rows: Sequence[Row]) -> list[str]:
    """The loss, and its terms where there are several: a single one is the loss itself."""
    terms = terms_in(rows)
    return ["loss", *(terms if len(terms) > 1 else ())]


def measures_in(rows: Sequence[Row]) -> list[str]:
    """The measures of agreement, with their prefix."""
    return [name for name in names_in(rows) if name.startswith(AGREEMENT)]


def panels_of(rows: Sequence[Row]) -> list[Panel]:
    """The panels that these rows have anything for; the loss comes first."""
    losses = {name: _line(rows, name) for name in losses_in(rows)}
    measures = {name.removeprefix(AGREEMENT): _line(rows, name) for name in measures_in(rows)}
    panels = [
        Panel("Loss", losses, smooth=True, may_be_log=True),
        Panel("Agreement", measures),
        Panel("Learning rate", {"learning rate": _line(rows, "learning_rate")}),
        Panel("Gradient norm", {"gradient norm": _line(rows, "grad_norm")}, smooth=True, may_be_log=True),
        Panel("Tokens a second", {"tokens a second": _line(rows, "tokens_per_s")}, form="thousands"),
        Panel("Share of padding", {"share of padding": _line(rows, "padding_share")}, form="share"),
    ]
    return [panel for panel in panels if any(steps for steps, _ in panel.lines.values())]


def wide(count: int) -> list[bool]:
    """Which of `count` panels take the whole width: the first, and a last one that would stand alone in its line."""
    return [number == 0 or (number == count - 1 and number % 2 == 1) for number in range(count)]


def _line(rows: Sequence[Row], name: str) -> tuple[list[float], list[float]]:
    has = [row for row in rows if name in row]
    return [row["step"] for row in has], [row[name] for row in has]


def draw_panel(axes: Any, panel: Panel) -> None:
    """Draw one panel into matplotlib axes."""
    for (name, (steps, values)), color, style in zip(panel.lines.items(), *_looks(panel), strict=False):
        look: dict[str, Any] = {"color": color, "linestyle": style, "linewidth": 1.8 if name == "loss" else 1.3}
        if panel.smooth and len(values) > SMOOTHED_FROM:
            axes.plot(steps, values, color=color, linewidth=0.7, alpha=0.25)
            axes.plot(steps, running_mean(values), label=name, **look)
        else:
            marker = "o" if len(values) < MARKED_BELOW else ""
            axes.plot(steps, values, label=name, marker=marker, markersize=3, **look)
    _write_axes(axes, panel)


def _looks(panel: Panel) -> tuple[list[str], list[str]]:
    """A colour and a dash for each line; the loss is dark, and where the colours are used up the dashes change."""
    count = len(panel.lines)
    colors = [COLORS[number % len(COLORS)] for number in range(count)]
    styles = [STYLES[number // len(COLORS) % len(STYLES)] for number in range(count)]
    return ([LOSS_COLOR, *colors], ["-", *styles]) if "loss" in panel.lines else (colors, styles)


def _write_axes(axes: Any, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    forms = {
        "plain": lambda value, _: f"{value:.6g}",
        "share": lambda value, _: f"{100 * value:.3g}%",
        "thousands": lambda value, _: f"{value:,.0f}",
    }
    if panel.is_log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif panel.form != "plain":
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(forms[panel.form]))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(forms["thousands"]))
    axes.set_title(panel.title, loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if len(panel.lines) > 1:
        axes.legend(fontsize=8, frameon=False, ncols=1 + len(panel.lines) // 6)


def running_mean(values: Sequence[float]) -> list[float]:
    """The mean over a fiftieth of the values around each, of as many as there are at the ends."""
    half = max(1, len(values) // 100)
    sums = np.cumsum([0.0, *values])
    places = np.arange(len(values))
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return list((sums[high] - sums[low]) / (high - low))


def _picture(panels: Sequence[Panel], path: Path, *, title: str) -> None:
    """The loss over the whole width, the rest below it in two columns."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # the object interface: no global state, no display

    lines = len(panels) // 2
    with rc_context({"text.parse_math": False}):  # a name with a dollar in it is no formula
        figure = Figure(figsize=(9, 3.6 + 2.2 * lines), layout="constrained")
        figure.suptitle(title, fontsize=12, fontweight="bold")
        grid = figure.add_gridspec(1 + lines, 2, height_ratios=[1.6, *[1.0] * lines])
        for number, (panel, whole) in enumerate(zip(panels, wide(len(panels)), strict=True)):
            column = slice(None) if whole else (number + 1) % 2
            draw_panel(figure.add_subplot(grid[(number + 1) // 2, column]), panel)
        figure.savefig(path, dpi=110)
