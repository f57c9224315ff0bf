"""How far one variant's figures are from another's, of two receipts or of one."""

from collections.abc import Iterator, Mapping, Sequence
from math import hypot
from statistics import median

from benchmarks.comparison import Change, QualityChange
from benchmarks.measure import PERCENTS, TOTAL, percentile_ms
from benchmarks.ratios import Ratio, ratio
from benchmarks.receipt import Measured

Samples = Sequence[Sequence[int]]


def changes_of(a: Measured, b: Measured, *, lengths: Sequence[int], same_session: bool) -> Iterator[Change]:
    """Percentiles at the longest of the `lengths`, at the shortest, and of texts as they come, as far as both sides
    have enough samples; then what is known without an interval.

    Processes of the same session are paired by repeat, those of two are drawn apart.
    """
    for which, (mine, theirs) in _loads(a, b, lengths).items():
        for percent in PERCENTS:
            a_ms, b_ms = (_percentile_ms(side, percent=percent) for side in (mine, theirs))
            if a_ms is not None and b_ms is not None:
                found = ratio(theirs, mine, percent=percent, paired=same_session)
                yield _change(f"p{percent}_ms{which}", a_ms, b_ms, found)
    for figure, (one, other) in _single(a, b).items():
        yield Change(figure, one, other, other / one)


def quality_changes(
    a: Mapping[str, Mapping[str, float]],
    b: Mapping[str, Mapping[str, float]],
    *,
    metric: str,
    pairs: Sequence[tuple[str, str]],
) -> dict[str, QualityChange]:
    """By B's variant, from the gate's figures of either side: all that can be said without the answers themselves.

    The two intervals are taken as if the items were others, which makes that of the difference wider than it need be.
    """
    names = (metric, f"{metric}_low", f"{metric}_high")
    found = {}
    for one, other in pairs:
        mine, theirs = a.get(one, {}), b.get(other, {})
        if {*names} <= {*mine} & {*theirs}:
            (value, low, high), (new, new_low, new_high) = ([side[name] for name in names] for side in (mine, theirs))
            change = new - value
            below, above = hypot(new - new_low, high - value), hypot(new_high - new, value - low)
            found[other] = QualityChange(metric, change, change - below, change + above, paired=False)
    return found


def _change(figure: str, a_ms: float, b_ms: float, found: Ratio) -> Change:
    """A bootstrap's interval may lie beside its own value: it is widened to hold it."""
    if found.low is None or found.high is None:
        return Change(figure, a_ms, b_ms, found.value)
    return Change(figure, a_ms, b_ms, found.value, min(found.low, found.value), max(found.high, found.value))


def _loads(a: Measured, b: Measured, lengths: Sequence[int]) -> dict[str, tuple[Samples, Samples]]:
    """By the ending of a figure's name."""
    long, short = max(lengths), min(lengths)
    loads: dict[str, tuple[Samples, Samples]] = {"": (a.samples_ns[long][TOTAL], b.samples_ns[long][TOTAL])}
    if short < long:
        loads["_short"] = a.samples_ns[short][TOTAL], b.samples_ns[short][TOTAL]
    if TOTAL in a.real_ns and TOTAL in b.real_ns:
        loads["_real"] = a.real_ns[TOTAL], b.real_ns[TOTAL]
    return loads


def _percentile_ms(samples: Samples, *, percent: int) -> float | None:
    return percentile_ms([ns for process in samples for ns in process], percent=percent)


def _single(a: Measured, b: Measured) -> dict[str, tuple[float, float]]:
    """What has one value a process, or one in all."""
    found = {
        "cold_start_ms": (median(a.cold_start_ms), median(b.cold_start_ms)),
        "rss_mb": (median(a.rss_mb or (0.0,)), median(b.rss_mb or (0.0,))),
        "size_mb": (a.facts.size_mb, b.facts.size_mb),
        "server_rps": (_rps(a), _rps(b)),
    }
    return {figure: (one, other) for figure, (one, other) in found.items() if one > 0 and other > 0}


def _rps(measured: Measured) -> float:
    """0 where no rate kept the bound, or none was asked for."""
    return (measured.server.best_rps or 0.0) if measured.server else 0.0
