"""Which candidate is best: what a budget allows, who is beaten by whom, and why the winner won. Pure: figures in,
names and sentences out.

Times are compared as the geometric mean, over the shapes, of a candidate's milliseconds by those of the plain fp32
graph: no shape counts more because it takes longer.
"""

from collections.abc import Mapping, Sequence
from math import exp, fsum, log
from typing import Annotated, Final, NamedTuple

import msgspec
from pydantic import Field

from pipeline.records import Record

INVARIANT: Final = 1e-3  # what an answer may differ by that does not depend on who else asked
SLOWER: Final = 1.1  # by how much a candidate must be slower before a short timing may say so
NEAREST: Final = 3
QUALITY: Final = frozenset({"metric_drop", "invariant"})  # what another way to quantize may mend
_ROUNDING: Final = 1e-9  # 0.9 - 0.895 is a little more than 0.005
_A_LITTLE: Final = 1e-3  # a budget of zero is missed by multiples of this

Limit = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Budget(Record):
    """`metric_drop`: how far the task's first metric may be below that of fp32 on dev. `invariant`: no label may depend
    on the batch or the padding, and no output by more than 1e-3. `size_mb`: of the graph's file. `ms`: the slowest
    median by shape, as in {1x128: 5}."""

    metric_drop: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.005
    invariant: bool = False
    size_mb: Limit | None = None
    ms: dict[str, Limit] = Field(default={})


class Figures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One candidate. `drop` is how far `metric` (more is better) is below that of fp32; `batch_difference` and
    `batch_flips` are the worst of all batches and paddings; `ms` medians by shape; `relative_ms` their geometric mean
    over fp32's."""

    name: str
    metric: float
    drop: float
    size_mb: float
    batch_difference: float
    batch_flips: int
    ms: dict[str, float]
    relative_ms: float


class Miss(NamedTuple):
    """One thing a budget does not allow: `times` as much as allowed."""

    what: str
    told: str
    times: float


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`winner` None: nobody meets the budget; `reason` is then about those that miss it least."""

    winner: str | None
    reason: str
    front: tuple[str, ...]


def shape_name(shape: tuple[int, int]) -> str:
    """(8, 128) -> 8x128: eight items of 128 tokens."""
    return f"{shape[0]}x{shape[1]}"


def relative(ms: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    """The geometric mean of the ratios over the baseline's shapes."""
    return exp(fsum(log(ms[shape] / baseline[shape]) for shape in baseline) / len(baseline))


def misses(one: Figures, budget: Budget) -> tuple[Miss, ...]:
    """What the candidate has too much of."""
    allowed = [
        ("metric_drop", one.drop, budget.metric_drop, "{:.4f}"),
        *([("size_mb", one.size_mb, budget.size_mb, "{:.1f}")] if budget.size_mb is not None else ()),
        *((f"ms of {shape}", one.ms[shape], limit, "{:.2f}") for shape, limit in budget.ms.items()),
    ]
    found = [
        Miss(what, f"{what} {form.format(value)} of {form.format(limit)}", value / max(limit, _A_LITTLE))
        for what, value, limit, form in allowed
        if value > limit + _ROUNDING
    ]
    return (*found, *(_variance(one) if budget.invariant else ()))


def _variance(one: Figures) -> list[Miss]:
    if one.batch_flips == 0 and one.batch_difference <= INVARIANT:
        return []
    told = f"invariant: {one.batch_flips} flips, outputs differ by {one.batch_difference:.3g} of {INVARIANT:g}"
    return [Miss("invariant", told, max(one.batch_difference / INVARIANT, 1.0 + one.batch_flips))]


def lacks_quality(found: Sequence[Figures], budget: Budget) -> bool:
    """Whether nobody of `found`, which are those that compute in integers, is within the budget, and somebody misses
    nothing of it but quality."""
    missed = [{miss.what for miss in misses(one, budget)} for one in found]
    return all(missed) and any(each <= QUALITY for each in missed)


def beaten(found: Sequence[Figures], budget: Budget) -> dict[str, str]:
    """Candidates that a short timing may drop, and by whom each is beaten: slower at every shape by more than noise,
    and in nothing better. Who beats is beaten by nobody, as it is faster."""
    return {
        one.name: best.name
        for one in found
        for best in [min((b for b in found if _beats(b, one, budget)), key=lambda b: b.relative_ms, default=one)]
        if best is not one
    }


def _beats(better: Figures, one: Figures, budget: Budget) -> bool:
    """What both would be told of, and what no budget asks about, is no reason to keep a candidate: less than a
    hundredth of the file, differences of an output that count as none."""
    steady, unsteady = (max(each.batch_difference, INVARIANT) for each in (better, one))
    allowed = {miss.what for miss in misses(better, budget)} <= {miss.what for miss in misses(one, budget)}
    return (
        all(one.ms[shape] > SLOWER * ms for shape, ms in better.ms.items())
        and better.drop <= one.drop
        and better.size_mb <= 1.01 * one.size_mb
        and (better.batch_flips, steady) <= (one.batch_flips, unsteady)
        and allowed
    )


def front(found: Sequence[Figures]) -> tuple[str, ...]:
    """Names of those that nobody equals or beats in both metric and time, the fastest first."""
    kept: list[Figures] = []
    for one in sorted(found, key=lambda each: (each.relative_ms, -each.metric)):
        if not kept or one.metric > kept[-1].metric:
            kept.append(one)
    return tuple(one.name for one in kept)


def choose(found: Sequence[Figures], budget: Budget) -> Choice:
    """The fastest of those within the budget."""
    by_time = sorted(found, key=lambda each: (each.relative_ms, each.size_mb))
    within = [one for one in by_time if not misses(one, budget)]
    if not within:
        return Choice(None, _nearest(by_time, budget), front(found))
    return Choice(within[0].name, _reason(within, by_time, budget), front(found))


def _reason(within: Sequence[Figures], by_time: Sequence[Figures], budget: Budget) -> str:
    """One sentence: what it earned, the runner-up, and a faster one that was not allowed."""
    first, count = within[0], len(by_time)
    told = f"{first.name} is the fastest of {len(within)} within the budget ({count} raced): {_earned(first)}"
    if len(within) > 1:
        told += f"; next is {within[1].name}, {1 / within[1].relative_ms:.2f}x"
    if by_time[0] is not first:
        missed = ", ".join(miss.told for miss in misses(by_time[0], budget))
        told += f"; {by_time[0].name} is faster, {1 / by_time[0].relative_ms:.2f}x, and misses {missed}"
    return told


def _earned(one: Figures) -> str:
    return f"{1 / one.relative_ms:.2f}x as fast as fp32, metric {one.metric:.4f}, drop {one.drop:.4f}"


def _nearest(found: Sequence[Figures], budget: Budget) -> str:
    """The candidates that miss least, each with what it misses."""
    ranked = sorted(found, key=lambda one: (len(misses(one, budget)), sum(log(m.times) for m in misses(one, budget))))
    each = (f"{one.name} misses {', '.join(miss.told for miss in misses(one, budget))}" for one in ranked[:NEAREST])
    return "; ".join(each)
