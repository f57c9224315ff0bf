"""How pictures are drawn for a page: as <svg> elements that take their colours from the page they stand in, light or
dark, and tell things apart by dash and marker too, so that grey paper shows as much. Drawn small, for a phone's width.
"""

import io
import re
import zlib
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, Final, Literal

# What matplotlib draws with stands for a colour of the page; no picture needs these as colours.
INK: Final = "#0a0b01"
FAINT: Final = "#0a0b02"
SERIES: Final = tuple(f"#0a0c0{number}" for number in range(1, 7))
VARIABLES: Final = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    **{color: f"var(--series-{number})" for number, color in enumerate(SERIES, start=1)},
}
DASHES: Final = ("solid", (0, (5, 2)), (0, (1, 1.3)), (0, (6, 2, 1, 2)), (0, (3, 1.2)))
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*", "<", "h")
LOG_FROM: Final = 8.0  # the ratio of the largest to the smallest value from which an axis is logarithmic
WIDTH: Final = 4.7  # inches, of 72 units each: as many as a phone has for it
SMALL: Final = 9.5
_LEGEND_LINE: Final = 0.21  # inches
_HALF: Final = 24  # characters that half of the width has room for beside a line
_WHOLE: Final = 58


def svg_of(draw: Callable[[Any], None], *, title: str, height: float, legend: bool = False) -> str:
    """What `draw` draws into matplotlib's axes; `height` in inches, without the legend. The `title` is read to those
    who do not see it, and keeps apart the ids of several pictures on one page."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_settings(title)), io.StringIO() as file:
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if legend:
            figure.set_figheight(height + _LEGEND_LINE * _write_legend(figure, *axes.get_legend_handles_labels()))
        figure.savefig(file, format="svg", transparent=True)
        drawn = file.getvalue()
    return _for_page(drawn[drawn.index("<svg") :], title)


def _write_legend(figure: Any, handles: Sequence[Any], labels: Sequence[str]) -> int:
    """Below the axes, in two columns where the names are short; how many lines it takes."""
    columns = 2 if max(map(len, labels), default=0) <= _HALF else 1
    shortened = [label if len(label) <= _WHOLE else f"{label[: _WHOLE - 1]}\N{HORIZONTAL ELLIPSIS}" for label in labels]
    look = {"loc": "outside lower center", "fontsize": SMALL, "frameon": False, "handlelength": 3.2}
    figure.legend(handles, shortened, ncols=columns, **look)
    return -(-len(labels) // columns)


def _settings(title: str) -> Any:
    parts = ("axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor", "grid.color")
    return {
        **dict.fromkeys(parts, FAINT),
        "text.color": INK,
        "xtick.labelsize": SMALL,
        "ytick.labelsize": SMALL,
        "axes.labelsize": SMALL,
        "svg.fonttype": "none",  # as text, in the page's font
        "svg.hashsalt": title,  # the same session makes the same page
        "text.parse_math": False,  # a name with a dollar in it is no formula
    }


def _for_page(svg: str, title: str) -> str:
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub("|".join(VARIABLES), lambda found: VARIABLES[found[0]], svg)
    mine = f"p{zlib.crc32(title.encode()):08x}"
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{mine}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)


def line_look(number: int) -> dict[str, Any]:
    """Colour and dash of the variant with this number in its session."""
    return {"color": color_of(number), "linestyle": DASHES[number % len(DASHES)], "linewidth": 1.5}


def marker_look(number: int) -> dict[str, Any]:
    """Colour and marker of the variant with this number in its session."""
    return {"color": color_of(number), "marker": MARKERS[number % len(MARKERS)], "markersize": 4.5}


def color_of(number: int) -> str:
    return SERIES[number % len(SERIES)]


def write_axis(axes: Any, which: Literal["x", "y"], *, label: str, values: Sequence[float] = ()) -> None:
    """The label, and plain numbers at the ticks; logarithmic where `values` (all positive) span much."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    if values and max(values) > LOG_FROM * min(values):
        axes.set(**{f"{which}scale": "log"})
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axis.set_label_text(label)
