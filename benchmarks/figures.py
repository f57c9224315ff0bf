"""The figures of times, memory and load that a gate may ask of each variant, all from one receipt.

`pX_ms` is end to end at the longest length measured, `_short` at the shortest, `_real` of texts as they come. NAME_low
and NAME_high are the ends of its 95 % interval; `NAME/OTHER` is the ratio to the same figure of another variant, which
has an interval of its own because both ran in turn. What cannot be known is not there.
"""

from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from benchmarks.bootstrap import median_interval
from benchmarks.measure import PERCENTS, TOTAL, Latency, needed
from benchmarks.openloop.results import ServerResult
from benchmarks.ratios import ratio
from benchmarks.receipt import Measured, Receipt
from benchmarks.report import BASELINE

Figures = dict[str, float]


class _Series(NamedTuple):
    latency: Latency
    samples_ns: Sequence[Sequence[int]]


def timed_figures(
    receipt: Receipt, *, baselines: Collection[str] | None = None, baseline: str = BASELINE
) -> dict[str, Figures]:
    """By variant; ratios are to each of the `baselines` that were measured (None: to every other variant), and
    `speedup_p50` is over `baseline`."""
    series = {each.name: _series(each) for each in receipt.variants}
    found = {each.name: _alone(each, series[each.name]) for each in receipt.variants}
    for name, figures in found.items():
        for other in series:
            if other != name and (baselines is None or other in baselines):
                figures |= _ratios(series[name], series[other], over=other)
        figures |= _speedup(figures, over=baseline)
    return found


def merged(*parts: Mapping[str, Mapping[str, float]]) -> dict[str, Figures]:
    """Figures by variant, of several origins."""
    return {name: {k: v for part in parts for k, v in part.get(name, {}).items()} for name in parts[0]}


def _series(measured: Measured) -> dict[str, _Series]:
    """By what is appended to a figure's name."""
    long, short = max(measured.latency), min(measured.latency)
    found = {
        "": _Series(measured.latency[long][TOTAL], measured.samples_ns[long][TOTAL]),
        "_short": _Series(measured.latency[short][TOTAL], measured.samples_ns[short][TOTAL]),
    }
    return found | ({"_real": _Series(measured.real[TOTAL], measured.real_ns[TOTAL])} if measured.real else {})


def _alone(measured: Measured, series: Mapping[str, _Series]) -> Figures:
    figures: Figures = {}
    for suffix, (latency, _) in series.items():
        for percent, each in zip(PERCENTS, _values(latency), strict=True):
            figures |= _with_ends(f"p{percent}_ms{suffix}", *each)
    for name, values in (("cold_start_ms", measured.cold_start_ms), ("rss_mb", measured.rss_mb)):
        if values:
            figures |= _with_ends(name, median(values), *median_interval(values))
    return figures | (_server(measured.server) if measured.server is not None else {})


def _server(found: ServerResult) -> Figures:
    """The rate that kept the bound, which is the low end of what the server can do: 0 where even the lowest that was
    asked broke it; the high end is the rate that broke it, where one did."""
    if found.kept_rps is None and found.broken_rps is None:
        return {}
    kept = found.kept_rps or 0.0
    return _with_ends("server_rps", kept, kept, found.broken_rps)


def _values(one: Latency) -> tuple[tuple[float | None, float | None, float | None], ...]:
    """In the order of PERCENTS."""
    return (
        (one.p50_ms, one.p50_low_ms, one.p50_high_ms),
        (one.p95_ms, one.p95_low_ms, one.p95_high_ms),
        (one.p99_ms, one.p99_low_ms, one.p99_high_ms),
    )


def _with_ends(name: str, value: float | None, low: float | None, high: float | None) -> Figures:
    told = {name: value, f"{name}_low": low, f"{name}_high": high}
    return {name: value for name, value in told.items() if value is not None}


def _ratios(mine: Mapping[str, _Series], theirs: Mapping[str, _Series], *, over: str) -> Figures:
    figures: Figures = {}
    for suffix, one in mine.items():
        other = theirs[suffix]
        for percent in PERCENTS:
            if min(one.latency.n, other.latency.n) >= needed(percent):
                found = ratio(one.samples_ns, other.samples_ns, percent=percent)
                figures |= _with_ends(f"p{percent}_ms{suffix}/{over}", found.value, found.low, found.high)
    return figures


def _speedup(figures: Figures, *, over: str) -> Figures:
    """The ends of `speedup_p50`, which is the ratio to the baseline turned around."""
    low, high = (figures.get(f"p50_ms/{over}{end}") for end in ("_low", "_high"))
    return {"speedup_p50_low": 1 / high, "speedup_p50_high": 1 / low} if low and high else {}
