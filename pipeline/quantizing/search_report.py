"""A search for people: a table, and one page with a picture of who is fast and who is good (no script, no outside
resource). Both are made of the facts in the manifest."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from benchmarks.machine import read
from pipeline.artifact import EVIDENCE
from pipeline.quantizing.pareto import Choice, Figures, shape_name

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline.quantizing.candidate import Receipt
    from pipeline.quantizing.search import SearchBase

TEMPLATE: Final = "search_report.html.j2"
FRONT, BEHIND, CHOSEN = "#2563eb", "#9ca3af", "#ea580c"
NONE: Final = "-"
WIDTH: Final = 180


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One candidate. `remark` says why it is out, where it is: what it misses, who beats it, or why it could not be
    made (it then has no figures). What is not `raced` has the times of a first look. The drop has the ends of its
    95 % interval; `flips` are items answered otherwise than by fp32."""

    name: str
    figures: Figures | None = None
    drop_low: float | None = None
    drop_high: float | None = None
    flips: int | None = None
    raced: bool = True
    on_front: bool = False
    chosen: bool = False
    remark: str = ""


def row_of(receipt: "Receipt", figures: Figures, choice: Choice, *, raced: bool, remark: str) -> Row:
    """The row of a candidate that was made and timed."""
    chosen = receipt.name == choice.winner
    return Row(
        name=receipt.name,
        figures=figures,
        drop_low=0.0 - receipt.difference.high,
        drop_high=0.0 - receipt.difference.low,
        flips=receipt.flips,
        raced=raced,
        on_front=receipt.name in choice.front,
        chosen=chosen,
        remark="chosen" if chosen else remark,
    )


def facts_of(
    config: "SearchBase",
    choice: Choice,
    rows: Sequence[Row],
    baseline: "Receipt",
    *,
    shapes: Sequence[tuple[int, int]],
    threads: int,
) -> dict[str, Any]:
    """A search as the manifest keeps it; `baseline` is what was exported."""
    return {
        "winner": choice.winner,
        "reason": choice.reason,
        "front": list(choice.front),
        "metric": baseline.metric,
        "dev_items": baseline.items,
        "shapes": [list(shape) for shape in shapes],
        "threads": threads,
        "machine": msgspec.to_builtins(read()),
        "budget": config.budget.model_dump(mode="json"),
        "rows": msgspec.to_builtins(rows),
    }


def rows_of(facts: Mapping[str, Any]) -> list[Row]:
    """The rows of a search's facts, as they are in the manifest."""
    return msgspec.convert(facts["rows"], list[Row])


def headings_of(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Of the columns behind the name."""
    shapes = (f"{shape_name(tuple(shape))}\nms" for shape in facts["shapes"])
    return (
        facts["metric"],
        "drop\n[95 % interval]",
        f"flips\nof {facts['dev_items']}",
        "batch:\ndifference / flips",
        "file MB",
        *shapes,
        "times\nas fast",
        "",
    )


def cells_of(row: Row, facts: Mapping[str, Any]) -> tuple[str, ...]:
    """As many as there are headings, the name in front."""
    one = row.figures
    if one is None:
        first, *more = row.remark.splitlines()
        told = " ".join([first, *(line.strip() for line in more[-1:])])  # of a stack trace what it ends with
        return (row.name, *[NONE] * (len(headings_of(facts)) - 1), f"failed: {told}")
    return (
        row.name,
        f"{one.metric:.4f}",
        f"{one.drop:.4f} [{row.drop_low:.4f}, {row.drop_high:.4f}]",
        str(row.flips),
        f"{one.batch_difference:.1e} / {one.batch_flips}",
        f"{one.size_mb:.1f}",
        *(f"{ms:.2f}" for ms in one.ms.values()),
        f"{1 / one.relative_ms:.2f}x",
        row.remark or ("on the front" if row.on_front else ""),
    )


def circumstances(facts: Mapping[str, Any]) -> str:
    """What the figures hold for."""
    threads = f"{facts['threads']} thread{'s' if facts['threads'] > 1 else ''}"
    where = f"{facts['machine']['cpu_model']}, {threads}"
    return (
        f"{facts['dev_items']:,} dev items, {where}, median of one run of the graph; "
        "times as fast as exported, by the geometric mean of all shapes"
    )


def build_table(facts: Mapping[str, Any]) -> "Table":
    """A row a candidate, the fastest first."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=circumstances(facts), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("candidate", overflow="fold")
    *figures, remark = headings_of(facts)
    for heading in figures:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(remark, overflow="fold", ratio=1)
    for row in rows_of(facts):
        style = "bold" if row.chosen else "dim" if row.figures is None else ""
        table.add_row(*(Text(cell) for cell in cells_of(row, facts)), style=style)  # a message may hold [brackets]
    return table


def table_text(facts: Mapping[str, Any]) -> str:
    """The table as lines that are as long as it is wide, for where the width is not known."""
    from rich.console import Console

    with io.StringIO() as file:
        Console(file=file, width=WIDTH).print(build_table(facts))
        return "\n".join(line.rstrip() for line in file.getvalue().rstrip().splitlines())


def write_report(facts: Mapping[str, Any], out: Path, *, title: str) -> None:
    """Write evidence/report.html under `out`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    rows = rows_of(facts)
    page = environment.get_template(TEMPLATE).render(
        title=title,
        reason=facts["reason"],
        chosen=facts["winner"],
        picture=Markup(picture_of(rows, metric=facts["metric"])),  # noqa: S704 (matplotlib escapes what it draws)
        circumstances=circumstances(facts),
        headings=headings_of(facts),
        rows=[(row, cells_of(row, facts)) for row in rows],
        budget={name.replace("_", " "): value for name, value in facts["budget"].items() if value not in (None, {})},
    )
    folder = out / EVIDENCE
    folder.mkdir(exist_ok=True)
    (folder / "report.html").write_text(page, encoding="utf-8")


def picture_of(rows: Sequence[Row], *, metric: str) -> str:
    """Time against quality as an <svg> element: the front as a line, everybody with a name."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    as_text: Any = {"svg.fonttype": "none", "svg.hashsalt": TEMPLATE, "text.parse_math": False}
    with rc_context(as_text), io.StringIO() as file:
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        _draw(figure.subplots(), rows, metric=metric)
        figure.savefig(file, format="svg", transparent=True)
        drawn = file.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)


def _draw(axes: Any, rows: Sequence[Row], *, metric: str) -> None:
    timed = [(row, row.figures) for row in rows if row.figures is not None]
    front = sorted((one.relative_ms, one.metric) for row, one in timed if row.on_front)
    axes.plot(*zip(*front, strict=True), color=FRONT, linewidth=1.2, zorder=1, drawstyle="steps-post")
    places = [(one.relative_ms, one.metric) for _, one in timed]
    for (row, _), place, line in zip(timed, places, _lines(places), strict=True):
        color = CHOSEN if row.chosen else FRONT if row.on_front else BEHIND
        filled = color if row.raced else "none"  # hollow: times of another session than the rest
        axes.scatter(*place, facecolor=filled, edgecolor=color, s=60 if row.chosen else 28, zorder=2)
        axes.annotate(row.name, place, (5, 4 + 11 * line), textcoords="offset points", fontsize=8)
    axes.set_xlabel("time over that of the exported graph (geometric mean over the shapes)", fontsize=9)
    axes.set_ylabel(f"{metric} on dev", fontsize=9)
    axes.set_title("Quality and time", loc="left", fontsize=10, fontweight="bold")
    axes.tick_params(labelsize=8)
    axes.margins(x=0.12, y=0.12)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _lines(places: Sequence[tuple[float, float]]) -> list[int]:
    """How many lines above its point each name is written, so that names of neighbours stand above each other."""
    wide, high = (max(axis) - min(axis) or 1.0 for axis in zip(*places, strict=True))
    lines: list[int] = []
    for number, (x, y) in enumerate(places):
        before = zip(places[:number], lines, strict=True)
        taken = {line for (a, b), line in before if abs(a - x) < 0.3 * wide and abs(b - y) < 0.05 * high}
        lines.append(next(line for line in range(len(places)) if line not in taken))
    return lines
