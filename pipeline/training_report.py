"""One page that shows a training run: its figures and its curves, self-contained (no script, no outside resource)."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pipeline.artifact import EVIDENCE
from pipeline.curves import AGREEMENT, Panel, Row, draw_panel, losses_in, measures_in, panels_of, wide

TEMPLATE = "training_report.html.j2"
NONE = "\N{EN DASH}"


class Tile(NamedTuple):
    """A figure worth a large type."""

    name: str
    value: str


class Change(NamedTuple):
    """How a value was at the first logged step and at the last."""

    name: str
    first: str
    last: str
    ratio: str


def write_report(rows: Sequence[Row], out: Path, *, title: str, facts: Mapping[str, Any]) -> None:
    """Write evidence/report.html under `out`: the rows as pictures and tables, and the `facts` (JSON values) as they
    are; there is at least one row."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    panels = panels_of(rows)
    page = environment.get_template(TEMPLATE).render(
        title=title,
        tiles=tiles_of(rows),
        pictures=[
            Markup(svg_of(panel, number=number, whole=whole))  # noqa: S704 (matplotlib escapes what it draws)
            for number, (panel, whole) in enumerate(zip(panels, wide(len(panels)), strict=True))
        ],
        wide=wide(len(panels)),
        losses=[change_of(rows, name) for name in losses_in(rows)],
        agreement=[change_of(rows, name) for name in measures_in(rows)],
        facts={name: text_of(value) for name, value in facts.items()},
        first=rows[0]["step"],
        last=rows[-1]["step"],
    )
    folder = out / EVIDENCE
    folder.mkdir(exist_ok=True)
    (folder / "report.html").write_text(page, encoding="utf-8")


def tiles_of(rows: Sequence[Row]) -> list[Tile]:
    """What there is of steps, tokens, time, speed, padding and loss."""
    last = rows[-1]
    speeds = sorted(row["tokens_per_s"] for row in rows if "tokens_per_s" in row)
    found = {
        "steps": text_of(int(last["step"])),
        "tokens": text_of(int(last["tokens"])) if "tokens" in last else "",
        "time": duration_of(last["seconds"]) if "seconds" in last else "",
        "tokens/s, median": text_of(round(speeds[len(speeds) // 2])) if speeds else "",
        "padding": f"{last['padding_share']:.1%}" if "padding_share" in last else "",
        "final loss": text_of(last["loss"]),
    }
    return [Tile(name, value) for name, value in found.items() if value]


def change_of(rows: Sequence[Row], name: str) -> Change:
    """A value where it was first and last logged."""
    values = [row[name] for row in rows if name in row]
    ratio = f"{values[-1] / values[0]:.3g} x" if values[0] else NONE
    return Change(name.removeprefix(AGREEMENT), text_of(values[0]), text_of(values[-1]), ratio)


def text_of(value: Any) -> str:
    """A fact as people read it: thousands apart, four figures of a fraction, a list or a mapping as JSON."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def duration_of(seconds: float) -> str:
    """90.0 -> 1 min 30 s."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def svg_of(panel: Panel, *, number: int, whole: bool) -> str:
    """The panel as an <svg> element, of the page's `whole` width or half of it; its ids are its own (`number`), as
    several stand on one page."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    as_text: Any = {"svg.fonttype": "none", "svg.hashsalt": TEMPLATE, "text.parse_math": False}
    with rc_context(as_text), io.StringIO() as file:
        figure = Figure(figsize=(10, 3.4 if number == 0 else 2.5) if whole else (4.9, 2.5), layout="constrained")
        draw_panel(figure.subplots(), panel)
        figure.savefig(file, format="svg", transparent=True)
        drawn = file.getvalue()
    svg = drawn[drawn.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>panel{number}-", svg)
