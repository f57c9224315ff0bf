"""The page of one load: the finding, every rate, how latencies are distributed and how they ran, the server's own
phases, and the machine that asked. Self-contained, as the lab's."""

from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.drawing import INK, line_look, marker_look, svg_of, write_axis
from benchmarks.load import Loaded
from benchmarks.measure import PERCENTS
from benchmarks.openloop.results import Rate
from benchmarks.openloop.schedule import requests_for
from benchmarks.page import unbroken
from benchmarks.pictures import CURVE, Picture, envelope
from benchmarks.shown import NONE, Table, machine_facts

TEMPLATE: Final = "load.html.j2"


def write_load_page(told: Loaded, path: Path) -> None:
    """Write the page to `path`; its folder is there."""
    path.write_text(load_page_of(told), encoding="utf-8")


def load_page_of(told: Loaded) -> str:
    """The page as HTML text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    pictures = _under_load(told) if told.kind == "peak" else (*_distribution(told), *_in_order(told))
    return environment.get_template(TEMPLATE).render(
        title=f"Load on {told.url}",
        finding=told.told(),
        void=told.void,
        circumstances=circumstances(told),
        points=points_table(told),
        phases=phases_table(told),
        pictures_of=[(Markup(each.svg), each) for each in pictures],  # noqa: S704 (matplotlib escapes what it draws)
        machine=machine_facts(told.machine),
        unbroken=unbroken,
        signs={},
    )


def circumstances(told: Loaded) -> str:
    """One line."""
    bodies = "one body" if told.bodies == 1 else f"{told.bodies:,} bodies in turn"
    return f"{told.started}, {told.took_s:,.0f} s, {bodies}, Poisson schedule, latency from when each request was due"


def points_table(told: Loaded) -> Table:
    """A row an offered rate."""
    headings = (
        *("offered/s", "for s", "answered", "refused", "failed", "p50 / p90 / p99 ms"),
        *("generator late p99 ms", ""),
    )
    return Table(headings, tuple(_point_cells(point, best_rps=told.best_rps) for point in told.points))


def phases_table(told: Loaded) -> Table:
    """What the server says of its own time; no rows where it says nothing."""
    rows = ((each.name, f"{each.p50_ms:.3f}", f"{each.p99_ms:.3f}", f"{each.n:,}") for each in told.phases)
    return Table(("the server's own times", "p50 ms", "p99 ms", "answers"), tuple(rows))


def _point_cells(point: Rate, *, best_rps: float | None) -> tuple[str, ...]:
    latency = " / ".join(NONE if ms is None else f"{ms:.3g}" for ms in (point.p50_ms, point.p90_ms, point.p99_ms))
    best = "the highest within the bound" if point.offered_rps == best_rps and not point.void else ""
    return (
        f"{point.offered_rps:,.1f}",
        f"{point.seconds:g}",
        f"{point.answered:,} of {point.sent:,}",
        f"{point.refused:,}",
        f"{point.failed:,}",
        latency,
        f"{point.late_p99_ms:.3g}",
        f"void: {point.void}" if point.void else best,
    )


def _known(told: Loaded) -> "np.ndarray[Any, np.dtype[np.float64]]":
    return np.array([ms for ms in told.latencies_ms if ms is not None], np.float64)


def _distribution(told: Loaded) -> tuple[Picture, ...]:
    known = _known(told)
    if not len(known):
        return ()

    def draw(axes: Any) -> None:
        marked = [percent for percent in PERCENTS if len(known) >= requests_for(percent)]
        axes.plot(np.percentile(known, CURVE), CURVE, markevery=marked, **line_look(0) | marker_look(0))
        axes.set_yticks((0, 25, 50, 75, 95), ("0 %", "25 %", "50 %", "75 %", "95 %"))
        axes.set_ylabel("answered within")
        write_axis(axes, "x", label="ms from when it was due", values=[float(known.min()), float(known.max())])

    missing = len(told.latencies_ms) - len(known)
    note = "Marked are p50, p95 and p99, as far as there are enough requests for them."
    note += f" {missing:,} requests without a good answer are not drawn." if missing else ""
    return (Picture("Latency", svg_of(draw, title="Latency", height=2.9), note),)


def _in_order(told: Loaded) -> tuple[Picture, ...]:
    known = _known(told)
    if not len(known):
        return ()

    def draw(axes: Any) -> None:
        places, extremes = envelope(known)
        axes.plot(places, extremes, linewidth=0.7, color=line_look(0)["color"])
        axes.axhline(float(np.median(known)), color=INK, linewidth=1.1, dashes=(3, 2))
        axes.set_xlabel(f"{len(known):,} answered requests in the order in which they were due")
        write_axis(axes, "y", label="ms", values=[float(known.min()), float(known.max())])

    title = "Latency in order"
    return (Picture(title, svg_of(draw, title=title, height=2.2), "Dashed is the median."),)


def _under_load(told: Loaded) -> tuple[Picture, ...]:
    field = f"p{told.percent}_ms"
    known = sorted(
        (each.offered_rps, getattr(each, field)) for each in told.points if getattr(each, field) and not each.void
    )
    if not known or told.bound_ms is None:
        return ()
    bound_ms = told.bound_ms

    def draw(axes: Any) -> None:
        axes.plot(*zip(*known, strict=True), label=f"p{told.percent}", **line_look(0) | marker_look(0))
        axes.axhline(bound_ms, color=INK, linewidth=1.5, label=f"bound of {bound_ms:g} ms")
        write_axis(axes, "x", label="requests offered a second")
        values = [bound_ms, *(ms for _, ms in known)]
        write_axis(axes, "y", label=f"p{told.percent} ms, from the scheduled time", values=values)

    title = "Latency under load"
    return (Picture(title, svg_of(draw, title=title, height=2.7, legend=True)),)
