"""Figures for people (a table), for machines (one JSON line) and for the gate (plain numbers), all from one receipt.

The metric comes from outside, because what "good" means is the task's affair; everything else is in the receipt.
`p50_ms` and `p95_ms` are end to end (tokenize, infer, score) at the longest length measured, `_short` at the shortest.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from benchmarks.measure import TOTAL, Latency
from benchmarks.receipt import Measured, Receipt

if TYPE_CHECKING:
    from rich.table import Table

BASELINE: Final = "teacher-onnx-fp32"


class Scored(Protocol):
    """A task metric with its 95 % interval."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One variant in the summary; the field names are the interface of the JSON line. None: not reportable."""

    name: str
    params: int
    size_mb: float
    metric: float
    metric_low: float
    metric_high: float
    p50_ms: float | None
    p95_ms: float | None
    speedup_p50: float | None
    p50_ms_short: float | None
    p95_ms_short: float | None


def build_rows(receipt: Receipt, scores: Mapping[str, Scored], *, baseline: str = BASELINE) -> tuple[Row, ...]:
    """One row per variant, in the order of the session."""
    reference = next((_long(each).p50_ms for each in receipt.variants if each.name == baseline), None)
    return tuple(_row(each, scores[each.name], reference_p50_ms=reference) for each in receipt.variants)


def figures(
    receipt: Receipt,
    scores: Mapping[str, Scored],
    *,
    metric: str,
    others: Mapping[str, Mapping[str, Scored]] = {},
    baseline: str = BASELINE,
) -> dict[str, dict[str, float]]:
    """What the gate may ask of each variant beside its times (figures.py): figures by name, with NAME_low and
    NAME_high; unknown ones are absent.

    `scores` holds each variant's `metric`, `others` its further figures of quality by name."""
    return {
        measured.name: _known(_gate_figures(measured, row, {**others.get(measured.name, {}), metric: scores[row.name]}))
        for measured, row in zip(receipt.variants, build_rows(receipt, scores, baseline=baseline), strict=True)
    }


def build_table(
    rows: Sequence[Row], *, metric: str, lengths: Sequence[int], threads: int, baseline: str = BASELINE
) -> "Table":
    """The summary for people: about 100 columns wide, folded where the terminal has fewer."""
    from rich import box
    from rich.table import Table

    long, short = max(lengths), min(lengths)
    circumstances = f"batch 1, {threads} thread{'s' if threads > 1 else ''}, end to end; speed-up is over {baseline}"
    table = Table(title=circumstances, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("variant", no_wrap=True)
    headings = (
        *("parameters", "file MB", f"{metric}\n[95 % interval]"),
        *(f"{long} tokens\np50 / p95 ms", f"{short} tokens\np50 / p95 ms", "speed-up\np50"),
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def build_scores_table(also: Mapping[str, Mapping[str, Mapping[str, float]]]) -> "Table":
    """Variant -> figure -> value, low, high: what else was found of the answers' quality."""
    from rich import box
    from rich.table import Table

    table = Table(title="also, each with its 95 % interval", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("variant", no_wrap=True)
    for name in next(iter(also.values())):
        table.add_column(name, justify="right")
    for variant, figures in also.items():
        cells = (f"{each['value']:.3f} [{each['low']:.3f}, {each['high']:.3f}]" for each in figures.values())
        table.add_row(variant, *cells)
    return table


def _row(measured: Measured, score: Scored, *, reference_p50_ms: float | None) -> Row:
    long, short = _long(measured), _short(measured)
    speedup = reference_p50_ms / long.p50_ms if reference_p50_ms and long.p50_ms else None
    return Row(
        name=measured.name,
        params=measured.facts.parameters,
        size_mb=measured.facts.size_mb,
        metric=score.value,
        metric_low=score.low,
        metric_high=score.high,
        p50_ms=long.p50_ms,
        p95_ms=long.p95_ms,
        speedup_p50=speedup,
        p50_ms_short=short.p50_ms,
        p95_ms_short=short.p95_ms,
    )


def _gate_figures(measured: Measured, row: Row, judged: Mapping[str, Scored]) -> dict[str, float | None]:
    ends = ({name: one.value, f"{name}_low": one.low, f"{name}_high": one.high} for name, one in judged.items())
    return {
        **{name: value for each in ends for name, value in each.items()},
        "speedup_p50": row.speedup_p50,
        "size_mb": row.size_mb,
        "params": float(row.params),
        "peak_mb": max(measured.peak_mb),
        "batch_difference": max((each.max_difference for each in measured.invariance), default=None),
        "batch_flips": max((each.flips / each.items for each in measured.invariance), default=None),
    }


def _known(named: Mapping[str, float | None]) -> dict[str, float]:
    """A figure that is no number (two variants of which one has no metric) is as good as none."""
    return {name: value for name, value in named.items() if value is not None and math.isfinite(value)}


def _long(measured: Measured) -> Latency:
    return measured.latency[max(measured.latency)][TOTAL]


def _short(measured: Measured) -> Latency:
    return measured.latency[min(measured.latency)][TOTAL]


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        f"{row.params / 1e6:.2f} M" if row.params >= 100_000 else f"{row.params:,}",
        f"{row.size_mb:.1f}",
        f"{row.metric:.3f} [{row.metric_low:.3f}, {row.metric_high:.3f}]",
        f"{_number(row.p50_ms)} / {_number(row.p95_ms)}",
        f"{_number(row.p50_ms_short)} / {_number(row.p95_ms_short)}",
        "-" if row.speedup_p50 is None else f"{row.speedup_p50:.2f}x",
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
