"""Figures with what they are compared with and what was to be reached: a table for people, ratios for machines."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from benchmarks import machine

if TYPE_CHECKING:
    from rich.table import Table


class Figure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row. `ratio` is how many times better ours is than the baseline, or, without a baseline, ours itself;
    `at_least` and `at_most` are what is to be reached; all None where nothing was measured, and `note` says why."""

    key: str
    name: str
    unit: str = ""
    baseline: float | None = None
    ours: float | None = None
    ratio: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None without a target or a measurement."""
        if self.ratio is None or (self.at_least is None and self.at_most is None):
            return None
        low = self.at_least is None or self.ratio >= self.at_least
        return low and (self.at_most is None or self.ratio <= self.at_most)


def less_is_better(
    key: str, name: str, *, baseline: float, ours: float, unit: str, at_least: float | None = None, note: str = ""
) -> Figure:
    """Times and sizes: the ratio is baseline over ours."""
    return Figure(
        key=key, name=name, unit=unit, baseline=baseline, ours=ours, ratio=baseline / ours, at_least=at_least, note=note
    )


def more_is_better(
    key: str, name: str, *, baseline: float, ours: float, unit: str, at_least: float | None = None, note: str = ""
) -> Figure:
    """Rates: the ratio is ours over the baseline."""
    return Figure(
        key=key, name=name, unit=unit, baseline=baseline, ours=ours, ratio=ours / baseline, at_least=at_least, note=note
    )


def alone(key: str, name: str, *, ours: float, unit: str = "", at_most: float | None = None, note: str = "") -> Figure:
    """A share, or what is only recorded: compared with nothing, so the ratio is the value."""
    return Figure(key=key, name=name, unit=unit, ours=ours, ratio=ours, at_most=at_most, note=note)


class Notes:
    """What a session writes down beside its figures: every raw sample by name, the machine, and what disturbed it.
    `advance` is called after each timing, for a bar."""

    def __init__(self) -> None:
        self.advance: Callable[[], object] = lambda: None
        self.raw: dict[str, Any] = {}
        self._started, self._before = datetime.now(UTC).isoformat(timespec="seconds"), machine.disturbance()

    def publish(self, figures: Sequence[Figure], facts: Mapping[str, Any], *, title: str, out: Path) -> None:
        """Write all to `out`, show the table, and end with one line of JSON: the ratios."""
        from rich.console import Console

        document = {
            "started": self._started,
            "machine": machine.read(),
            "disturbance": machine.disturbance().since(self._before),
            **facts,
            "figures": [{**msgspec.to_builtins(figure), "reached": figure.reached} for figure in figures],
            "raw": self.raw,
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
        Console(width=140).print(build_table(figures, title=title))
        print(json.dumps(ratios(figures)))


def ratios(figures: Sequence[Figure]) -> dict[str, float | None]:
    """What the last line says: the ratio of every figure by its key; None where nothing was measured."""
    return {figure.key: None if figure.ratio is None else round(figure.ratio, 4) for figure in figures}


def build_table(figures: Sequence[Figure], *, title: str) -> "Table":
    """The figures for people."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("figure")
    for heading in ("baseline", "ours", "ratio", "to reach", "reached"):
        table.add_column(heading, justify="right", no_wrap=True)
    for figure in figures:
        table.add_row(*_cells(figure))
    return table


def _cells(figure: Figure) -> tuple[str, ...]:
    name = f"{figure.name} ({figure.note})" if figure.note else figure.name
    ratio = "-" if figure.baseline is None or figure.ratio is None else f"{figure.ratio:.1f}x"
    reached = {None: "", True: "yes", False: "NO"}[figure.reached]
    return (
        name,
        _number(figure.baseline, figure.unit),
        _number(figure.ours, figure.unit),
        ratio,
        _goal(figure),
        reached,
    )


def _goal(figure: Figure) -> str:
    if figure.at_least is not None:
        return f">= {figure.at_least:g}x"
    return f"<= {_number(figure.at_most, figure.unit)}" if figure.at_most is not None else "recorded"


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "share":
        return f"{value:.1%}"
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits} {unit}".rstrip()
