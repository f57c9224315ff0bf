"""The pictures of a session: how latencies are distributed, how they ran in time, who is fast and who is good, and what
a server did under load. Variants keep their colour, dash and marker through all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.drawing import DASHES, FAINT, INK, color_of, line_look, marker_look, svg_of, write_axis
from benchmarks.measure import PERCENTS, TOTAL, percentile_ms
from benchmarks.receipt import Measured, Receipt
from benchmarks.shown import Figures, Outcomes

Floats = npt.NDArray[np.float64]
Processes = Sequence[Sequence[int]]  # nanoseconds, a list a process

LESS_IS_BETTER: Final = ("mse",)
MOST_POINTS: Final = 300  # of a process: more are drawn as the extremes of each stretch
CURVE: Final = np.concatenate(
    [np.arange(0.0, 99.0), np.linspace(99.0, 100.0, 11)]
)  # percents that a curve goes by; 0 to 99 at their index


@dataclass(frozen=True)
class Picture:
    """An <svg> element and what one should know to read it."""

    title: str
    svg: str
    note: str = ""


# -- distribution ------------------------------------------------------------------------------------------------------


def distributions(receipt: Receipt) -> tuple[Picture, ...]:
    """The cumulative distribution of every variant's end-to-end latency: a picture a length, the longest first, and one
    of texts as they come."""
    lengths = sorted(receipt.variants[0].samples_ns, reverse=True)
    loads = {f"{n} tokens": {each.name: each.samples_ns[n][TOTAL] for each in receipt.variants} for n in lengths}
    real = {each.name: each.real_ns[TOTAL] for each in receipt.variants if TOTAL in each.real_ns}
    numbers = {measured.name: number for number, measured in enumerate(receipt.variants)}
    loads |= {"texts as they come": real} if real else {}
    return tuple(_distribution(f"Latency of {load}", series, numbers) for load, series in loads.items())


def _distribution(title: str, series: Mapping[str, Processes], numbers: Mapping[str, int]) -> Picture:
    pooled_ns = {
        name: np.concatenate([np.asarray(one, dtype=np.float64) for one in each]) for name, each in series.items()
    }

    def draw(axes: Any) -> None:
        for name, samples in pooled_ns.items():
            marked = [percent for percent in PERCENTS if percentile_ms(samples, percent=percent) is not None]
            look = line_look(numbers[name]) | marker_look(numbers[name])
            axes.plot(np.percentile(samples, CURVE) / 1e6, CURVE, label=name, markevery=marked, **look)
        axes.set_yticks((0, 25, 50, 75, 95), ("0 %", "25 %", "50 %", "75 %", "95 %"))
        axes.set_ylabel("answered within")
        spans = [float(end) / 1e6 for samples in pooled_ns.values() for end in (samples.min(), samples.max())]
        write_axis(axes, "x", label="ms, end to end", values=spans)

    note = "Marked are p50, p95 and p99, as far as there are enough samples for them."
    return Picture(title, svg_of(draw, title=title, height=2.9, legend=True), note)


# -- samples in order --------------------------------------------------------------------------------------------------


def in_order(receipt: Receipt) -> tuple[Picture, ...]:
    """Every variant's samples at the longest length as they were taken, process beside process."""
    return tuple(_in_order(measured, number) for number, measured in enumerate(receipt.variants))


def _in_order(measured: Measured, number: int) -> Picture:
    processes = [
        np.asarray(one, dtype=np.float64) / 1e6 for one in measured.samples_ns[max(measured.samples_ns)][TOTAL]
    ]
    starts = np.cumsum([0, *map(len, processes)])

    def draw(axes: Any) -> None:
        for start, samples in zip(starts, processes, strict=False):
            places, extremes = envelope(samples)
            axes.plot(start + places, extremes, color=color_of(number), linewidth=0.7)
            axes.plot((start, start + len(samples)), [np.median(samples)] * 2, color=INK, linewidth=1.1, dashes=(3, 2))
            axes.axvline(start, color=FAINT, linewidth=0.6)
        axes.set_xticks((starts[:-1] + starts[1:]) / 2, [str(1 + process) for process in range(len(processes))])
        axes.set_xlim(0, starts[-1])
        axes.set_xlabel(f"process, and in each its {len(processes[0]):,} requests in order")
        ends = [float(end) for samples in processes for end in (samples.min(), samples.max())]
        write_axis(axes, "y", label="ms", values=ends)

    return Picture(measured.name, svg_of(draw, title=f"Samples of {measured.name} in order", height=2.0))


def envelope(values: Floats, *, most: int = MOST_POINTS) -> tuple[npt.NDArray[np.int_], Floats]:
    """(places, values): all of them, or of more than `most` the lowest and highest of each stretch, in order."""
    if len(values) <= most:
        return np.arange(len(values)), values
    edges = np.linspace(0, len(values), most // 2 + 1).astype(int).tolist()
    stretches = [(start, values[start:end]) for start, end in pairwise(edges)]
    places = np.unique([start + int(place) for start, part in stretches for place in (part.argmin(), part.argmax())])
    return places, values[places]


# -- quality against latency -------------------------------------------------------------------------------------------


def quality(told: Outcomes) -> tuple[Picture, ...]:
    """One picture, where quality was judged and two variants or more have both figures; by p50 where no p95 is
    known."""
    names = [measured.name for measured in told.receipt.variants]
    x = "p95_ms" if any("p95_ms" in told.of(name) for name in names) else "p50_ms"
    points = {name: told.of(name) for name in names if {x, told.metric} <= {*told.of(name)}}
    if len(points) < 2:
        return ()
    front = pareto({name: (one[x], one[told.metric]) for name, one in points.items()}, metric=told.metric)

    def draw(axes: Any) -> None:
        places = [(points[name][x], points[name][told.metric]) for name in front]
        axes.plot(*zip(*places, strict=True), color=FAINT, linewidth=1.6, linestyle=DASHES[2], drawstyle="steps-post")
        for name, figures in points.items():
            _point(axes, figures, x=x, y=told.metric, name=name, number=names.index(name))
        axes.margins(0.1)
        for line in gate_lines(told, (x, told.metric)):
            _draw_line(axes, line, upright=line.metric == x)
        write_axis(axes, "x", label=f"{x.replace('_', ' ')}, {max(told.receipt.how.load.lengths)} tokens, end to end")
        write_axis(axes, "y", label=told.metric.replace("_", " "))

    title = "Quality against latency"
    note = "Crosses are 95 % intervals; dotted is the Pareto front; what the gate refuses is shaded."
    return (Picture(title, svg_of(draw, title=title, height=3.4, legend=True), note),)


def pareto(points: Mapping[str, tuple[float, float]], *, metric: str) -> tuple[str, ...]:
    """Of name -> (time, quality) those that nobody equals or beats in both, the fastest first."""
    sign = -1.0 if metric in LESS_IS_BETTER else 1.0
    better = {name: (ms, sign * value) for name, (ms, value) in points.items()}
    kept: list[str] = []
    for name in sorted(better, key=lambda each: (better[each][0], -better[each][1])):
        if not kept or better[name][1] > better[kept[-1]][1]:
            kept.append(name)
    return tuple(kept)


def _point(axes: Any, figures: Figures, *, x: str, y: str, name: str, number: int) -> None:
    arms = {
        arm: [[figures[of] - figures[f"{of}_low"]], [figures[f"{of}_high"] - figures[of]]]
        for arm, of in (("xerr", x), ("yerr", y))
        if {f"{of}_low", f"{of}_high"} <= {*figures}
    }
    look = {**marker_look(number), "markersize": 7, "linestyle": "none", "elinewidth": 1}
    axes.errorbar(figures[x], figures[y], label=name, **arms, **look)


@dataclass(frozen=True)
class GateLine:
    """A bound of the gate: figures of `metric` must lie above it, or below."""

    metric: str
    above: bool
    bound: float
    rule: str


def gate_lines(told: Outcomes, metrics: Sequence[str]) -> tuple[GateLine, ...]:
    """The bounds on these figures of this session, in their own units."""
    checks = [
        check
        for judged in (told.verdict.candidates if told.verdict else ())
        for check in judged.checks
        if check.metric in metrics and check.target == told.receipt.target
    ]
    lines = [GateLine(one.metric, ">" in one.rule, one.bound, one.rule) for one in checks if one.bound is not None]
    return tuple(dict.fromkeys(lines))


def _draw_line(axes: Any, line: GateLine, *, upright: bool) -> None:
    """The bound, its refused side shaded; a bound far off is not drawn, unless all that is seen is refused."""
    low, high = axes.get_xlim() if upright else axes.get_ylim()
    room = high - low
    if low - room < line.bound < high + room:
        low, high = min(low, line.bound - 0.06 * room), max(high, line.bound + 0.06 * room)
        draw = axes.axvline if upright else axes.axhline
        draw(line.bound, color=INK, linewidth=1.5, label=f"gate: {line.rule}")
    edge = min(max(line.bound, low), high)
    span = axes.axvspan if upright else axes.axhspan
    span(*((low, edge) if line.above else (edge, high)), color=FAINT, alpha=0.16, linewidth=0)
    (axes.set_xlim if upright else axes.set_ylim)(low, high)


# -- server ------------------------------------------------------------------------------------------------------------


def under_load(receipt: Receipt) -> tuple[Picture, ...]:
    """One picture, where a server was measured: its p99 at each offered rate, without the points that are void."""
    served = [(number, each.name, each.server) for number, each in enumerate(receipt.variants) if each.server]
    lines = {
        (number, name): sorted((one.offered_rps, one.p99_ms) for one in server.points if one.p99_ms and not one.void)
        for number, name, server in served
    }
    known = {look: points for look, points in lines.items() if points}
    if not known:
        return ()
    bound_ms = served[0][2].bound_ms

    def draw(axes: Any) -> None:
        for (number, name), points in known.items():
            axes.plot(*zip(*points, strict=True), label=name, **line_look(number) | marker_look(number))
        axes.axhline(bound_ms, color=INK, linewidth=1.5, label=f"bound of {bound_ms:g} ms")
        write_axis(axes, "x", label="requests offered a second")
        values = [bound_ms, *(ms for points in known.values() for _, ms in points)]
        write_axis(axes, "y", label="p99 ms, from the scheduled time", values=values)

    return (Picture("Latency under load", svg_of(draw, title="Latency under load", height=2.7, legend=True)),)
