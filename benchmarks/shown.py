"""What the outputs for people and for CI are made of: one session's receipt, the gate's figures of it, the verdict
where a gate was asked; and the tables that Markdown and the page both have.

The gate lives in another room, so its verdict is described here by what is read of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, NamedTuple, Protocol

from benchmarks.machine import Machine
from benchmarks.receipt import Measured, Receipt
from benchmarks.report import BASELINE

Figures = Mapping[str, float]

NONE: Final = "\N{EN DASH}"


class Check(Protocol):
    """One rule on one candidate; `value` and `bound` are None where a figure is missing, `interval` where the value has
    none. `ratio` is low, value and high over the baseline's figure, where the rule was held against that."""

    @property
    def rule(self) -> str: ...
    @property
    def metric(self) -> str: ...
    @property
    def value(self) -> float | None: ...
    @property
    def bound(self) -> float | None: ...
    @property
    def outcome(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def interval(self) -> tuple[float, float] | None: ...
    @property
    def ratio(self) -> tuple[float, float, float] | None: ...


class Judged(Protocol):
    """One candidate with all its checks, and those of them that decide no verdict but whether it becomes the
    champion."""

    @property
    def variant(self) -> str: ...
    @property
    def checks(self) -> Sequence[Check]: ...
    @property
    def against(self) -> Sequence[Check]: ...


class Verdict(Protocol):
    """What the gate says: PASS, FAIL or INCONCLUSIVE."""

    @property
    def verdict(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def chosen(self) -> str | None: ...
    @property
    def candidates(self) -> Sequence[Judged]: ...


@dataclass(frozen=True)
class Outcomes:
    """One session. `figures` are the gate's: variant -> name -> number, with NAME_low and NAME_high where there is a
    95 % interval. `metric` is the one of quality, "" where nobody judged the answers; `verdict` None: no gate was
    asked."""

    title: str
    receipt: Receipt
    figures: Mapping[str, Figures] = field(default_factory=dict)
    metric: str = ""
    verdict: Verdict | None = None
    baseline: str = BASELINE

    def of(self, variant: str) -> Figures:
        """The variant's figures; none where it has none."""
        return self.figures.get(variant, {})


class Table(NamedTuple):
    """Texts; each row is as long as the headings."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def rules_table(verdict: Verdict) -> Table:
    """A row a rule and candidate."""
    pairs = [(judged.variant, check) for judged in verdict.candidates for check in judged.checks]
    rows = tuple((one.outcome, name, one.rule, _judged_figure(one), one.text) for name, one in pairs)
    return Table(("outcome", "candidate", "rule", "figure [95 %]", "why"), rows)


def variants_table(told: Outcomes) -> Table:
    """A row a variant, in the order of the session; a column that nobody has anything for is left out."""
    names = [measured.name for measured in told.receipt.variants]
    cells = {heading: [cell(told.of(name)) for name in names] for heading, cell in _columns(told).items()}
    known = {heading: column for heading, column in cells.items() if any(map(_says, column))}
    return Table(("variant", *known), tuple(zip(names, *known.values(), strict=True)))


def readings_table(receipt: Receipt) -> Table:
    """A row a variant: what its processes suffered from the machine and from others; of all of them, or of the
    worst."""
    headings = (
        *("variant", "calibration after / before (worst)", "steal ms", "throttled periods", "preempted"),
        "cores' time taken by others (worst)",
    )
    return Table(headings, tuple(_suffered(measured) for measured in receipt.variants))


def machine_facts(machine: Machine) -> dict[str, str]:
    """Where the numbers hold, as people read it."""
    quota, limit = machine.quota_cores, machine.memory_limit_mb
    return {
        "CPU": machine.cpu_model,
        "features": ", ".join(machine.features) or NONE,
        "cores": f"{machine.cores}; this process may use {', '.join(map(str, machine.affinity))}",
        "quota": "none" if quota is None else f"{quota:g} cores",
        "governor": machine.governor,
        "turbo": machine.turbo,
        "SMT": machine.smt,
        "memory": f"{machine.memory_mb:,} MB" + ("" if limit is None else f", limited to {limit:,} MB"),
        "kernel": machine.kernel,
        "Python": machine.python,
        **machine.libraries,
    }


def circumstances(receipt: Receipt) -> str:
    """One line: how much was measured, where and when."""
    n, threads = receipt.how.load.n, receipt.how.threads
    processes = max(len(each.peak_mb) for each in receipt.variants)  # noise adds some, and sets some aside
    again = f", {receipt.attempts} attempts" if receipt.attempts > 1 else ""
    return (
        f"{receipt.machine.cpu_model}, {threads} thread{'s' if threads > 1 else ''}, target {receipt.target}; batch 1, "
        f"{n} samples a length in each of {processes} processes a variant, interleaved{again}; "
        f"{receipt.started}"
    )


def noise_told(receipt: Receipt) -> tuple[str, ...]:
    """What the detectors found, a sentence each; last what was found in repeats that were measured again."""
    found = tuple(finding.told for finding in receipt.findings) or ("No detector found noise in these samples.",)
    aside = (f"Set aside and measured again: {finding.told}" for finding in receipt.set_aside)
    return (*found, *unknown_rates(receipt), *aside)


def unknown_rates(receipt: Receipt) -> tuple[str, ...]:
    """Of each variant that was loaded and whose rate is not known all the same, why."""
    loaded = [(each.name, each.server) for each in receipt.variants if each.server is not None]
    return tuple(
        f"the rate of requests that {name} keeps up is not known: {voids[0]}"
        for name, found in loaded
        if found.kept_rps is None and found.broken_rps is None
        if (voids := [each.void for each in found.points if each.void])
    )


def with_interval(figures: Figures, name: str) -> str:
    """`0.88 [0.87, 0.89]`, without the ends where there are none, a dash where there is no figure."""
    if name not in figures:
        return NONE
    ends = [figures[name + end] for end in ("_low", "_high") if name + end in figures]
    return f"{figures[name]:.4g}" + (f" [{ends[0]:.4g}, {ends[1]:.4g}]" if len(ends) == 2 else "")


# -- cells -------------------------------------------------------------------------------------------------------------


def _columns(told: Outcomes) -> dict[str, Callable[[Figures], str]]:
    """By heading, what is written of a variant's figures."""
    lengths = told.receipt.how.load.lengths
    long, short = max(lengths), min(lengths)
    at_short = {f"{short} tokens: p50 / p95 / p99 ms": lambda one: _percentiles(one, "_short")} if short < long else {}
    return {
        f"{told.metric} [95 %]": lambda one: with_interval(one, told.metric),
        f"{long} tokens: p50 / p95 / p99 ms": lambda one: _percentiles(one, ""),
        f"p95 ms, {long} tokens [95 %]": lambda one: with_interval(one, "p95_ms"),
        **at_short,
        "texts as they come: p50 / p95 / p99 ms": lambda one: _percentiles(one, "_real"),
        f"p95 over that of {told.baseline} [95 %]": lambda one: with_interval(one, f"p95_ms/{told.baseline}"),
        "requests/s within the bound": lambda one: _number(one, "server_rps"),
        "cold start ms": lambda one: _number(one, "cold_start_ms"),
        "resident MB": lambda one: _number(one, "rss_mb"),
        "file MB": lambda one: _number(one, "size_mb"),
    }


def _says(cell: str) -> bool:
    return any(character.isdigit() for character in cell)


def _judged_figure(check: Check) -> str:
    if check.value is None:
        return NONE
    if check.interval is None or check.interval[0] == check.interval[1]:  # none, or known exactly
        return f"{check.value:.4g}"
    return f"{check.value:.4g} [{check.interval[0]:.4g}, {check.interval[1]:.4g}]"


def _percentiles(figures: Figures, which: str) -> str:
    return " / ".join(_number(figures, f"p{percent}_ms{which}") for percent in (50, 95, 99))


def _number(figures: Figures, name: str) -> str:
    """Three figures, thousands apart."""
    if name not in figures:
        return NONE
    value = figures[name]
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _suffered(measured: Measured) -> tuple[str, ...]:
    readings = measured.readings
    drifts = [median(after) / median(before) for before, after in (each.calibration_ns for each in readings)]
    steal = [each.steal_ms for each in readings if each.steal_ms is not None]
    throttled = [each.throttled_periods for each in readings if each.throttled_periods is not None]
    others = [each.others_busy for each in readings if each.others_busy is not None]
    return (
        measured.name,
        f"{max(drifts, key=lambda drift: abs(drift - 1)):.3f}" if drifts else NONE,
        str(sum(steal)) if steal else NONE,
        str(sum(throttled)) if throttled else NONE,
        str(sum(each.preempted for each in readings)),
        f"{max(others):.1%}" if others else NONE,
    )
