"""One rule on one variant of one measuring session. Pure.

Without confidence a rule compares two numbers. With it, every number stands for its 95 % interval: the rule passes if
its unfavourable end does, fails if its favourable end does not pass, and is INCONCLUSIVE between. What was searched for
(`server_rps`) is always taken by its ends: the search knows what was kept and what was too much, and nothing between.
"""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import msgspec

from pipeline.gate_rules import COMPARED, EXACT, HIGH, LOW, PROCESSES, REPEATED, SEARCHED, TASK_METRICS, TIMED, Rule
from pipeline.naming import CHAMPION

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Figures = Mapping[str, Mapping[str, float]]

_OPERATORS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rule on one variant; `value` or `bound` is None where the figure is missing or not needed.

    `interval` is that of the value, where the figure has one; `ratio` low, value and high of the value over the
    baseline's, where the session measured it and the rule asks for confidence: it is held against the rule's factor.
    """

    rule: str
    metric: str
    value: float | None
    bound: float | None
    outcome: Outcome
    text: str
    target: str = ""
    baseline: str | None = None
    interval: tuple[float, float] | None = None
    ratio: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Session:
    """Figures by variant of one measuring session at one target; `disturbed` says why its times cannot be trusted, or
    nothing; for `absent` and `reigning` see `gates.judge`."""

    target: str
    figures: Figures
    disturbed: str = ""
    absent: frozenset[str] = frozenset()
    reigning: frozenset[str] = frozenset()


class Range(NamedTuple):
    """A figure with its 95 % interval; one that is known exactly has no width, `high` may be infinite."""

    low: float
    value: float
    high: float

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{self.value:.4g} or more"
        return f"{self.value:.4g}" if self.low == self.high else f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"

    def times(self, factor: float) -> "Range":
        low, high = sorted((factor * self.low, factor * self.high)) if factor else (0.0, 0.0)
        return Range(low, factor * self.value, high)


class _Said(NamedTuple):
    """What a rule comes to, in a word and in a sentence."""

    outcome: Outcome
    text: str
    ratio: Range | None = None


def check_rule(rule: Rule, variant: str, session: Session) -> Check:
    """The verdict of one rule on one variant, with its figures."""
    mine = session.figures[variant]
    value, reference = known(mine, rule.metric), _reference(rule, session)
    ends = range_of(mine, rule.metric)
    said = _unsettled(rule, variant, session) or _compared(rule, variant, session, value=value, reference=reference)
    return Check(
        rule=rule.text,
        metric=rule.metric,
        value=value,
        bound=None if reference is None else rule.factor * reference,
        outcome=said.outcome,
        text=said.text,
        target=session.target,
        baseline=rule.baseline,
        interval=None if ends is None else (ends.low, ends.high),
        ratio=said.ratio,
    )


def known(figures: Mapping[str, float], name: str) -> float | None:
    """The figure; a figure that is not finite is as good as none."""
    value = figures.get(name)
    return value if value is not None and math.isfinite(value) else None


def range_of(figures: Mapping[str, float], name: str) -> Range | None:
    """The figure with its interval, None where it has none. A bootstrap's interval may lie beside its own value: it is
    widened to hold it."""
    value, low, high = (known(figures, f"{name}{end}") for end in ("", LOW, HIGH))
    if value is not None and name in EXACT:
        return Range(value, value, value)
    if value is None or low is None or high is None:
        return None
    return Range(min(low, value), value, max(high, value))


def _ends(figures: Mapping[str, float], name: str) -> Range | None:
    """`range_of`; of what was searched for all that the search came to know: no end above where nothing was too
    much."""
    if name not in SEARCHED:
        return range_of(figures, name)
    value, low, high = (known(figures, f"{name}{end}") for end in ("", LOW, HIGH))
    return None if value is None else Range(value if low is None else low, value, math.inf if high is None else high)


def _reference(rule: Rule, session: Session) -> float | None:
    """What the factor multiplies: 1 without a baseline; None where there is no such figure."""
    if rule.baseline is None:
        return 1.0
    return None if rule.baseline in session.absent else known(session.figures[rule.baseline], rule.metric)


def _unsettled(rule: Rule, variant: str, session: Session) -> _Said | None:
    """What is said without looking at any figure: there is nobody to be compared with, or no time can be trusted."""
    if rule.baseline is not None and rule.baseline in session.absent:
        return _Said("PASS", f"{_label(rule)}: there is no {rule.baseline} yet to be compared with")
    if rule.baseline == CHAMPION and variant in session.reigning:
        return _Said("PASS", f"{_label(rule)}: {variant} is the champion itself, byte for byte")
    if rule.figure in TIMED and session.disturbed:
        text = f"{_label(rule)} of {variant} cannot be trusted: {session.disturbed}; measure again on a quiet machine"
        return _Said("INCONCLUSIVE", text)
    return None


def _compared(rule: Rule, variant: str, session: Session, *, value: float | None, reference: float | None) -> _Said:
    if value is None or reference is None:
        missing = variant if value is None else rule.baseline
        text = f"{_label(rule)} of {missing} is not known (not measured, or too few samples to report it)"
        return _Said("INCONCLUSIVE", text)
    if rule.confident or rule.metric in SEARCHED:
        return _by_ends(rule, variant, session)
    bound = rule.factor * reference
    passed = _OPERATORS[rule.op](value, bound)
    text = f"{_label(rule)} {value:.4g} is {'' if passed else 'not '}{rule.op} {bound:.4g}{_source(rule, reference)}"
    return _Said("PASS" if passed else "FAIL", text)


def _by_ends(rule: Rule, variant: str, session: Session) -> _Said:
    """By the ratio that was measured as one where there is one: its interval is narrower than what two intervals
    leave."""
    mine = _ends(session.figures[variant], rule.metric)
    if rule.baseline is None:
        return _between(rule, mine, bound=_point(rule.factor)) if mine else _no_interval(rule, variant)
    ratio = _ratio(rule, variant, session)
    if ratio is not None:
        return _between(rule, ratio, bound=_point(rule.factor), over=rule.baseline)
    theirs = _ends(session.figures[rule.baseline], rule.metric)
    if mine is None or theirs is None:
        return _no_interval(rule, variant if mine is None else rule.baseline)
    return _between(rule, mine, bound=theirs.times(rule.factor), source=_source(rule, theirs.value))


def _ratio(rule: Rule, variant: str, session: Session) -> Range | None:
    """Over the baseline's figure; a variant is exactly once itself."""
    if rule.baseline == variant:
        return _point(1.0)
    return range_of(session.figures[variant], f"{rule.metric}/{rule.baseline}")


def _between(rule: Rule, one: Range, *, bound: Range, source: str = "", over: str = "") -> _Said:
    holds, smaller = _OPERATORS[rule.op], rule.op.startswith("<")
    worst = holds(one.high, bound.low) if smaller else holds(one.low, bound.high)
    best = holds(one.low, bound.high) if smaller else holds(one.high, bound.low)
    outcome: Outcome = "PASS" if worst else "INCONCLUSIVE" if best else "FAIL"
    what = f"{_label(rule)} over {over}'s" if over else _label(rule)
    is_ = {"PASS": "is", "FAIL": "is not", "INCONCLUSIVE": "may or may not be"}[outcome]
    open_ = f": {_narrower(rule, one, bound)}" if outcome == "INCONCLUSIVE" else ""
    return _Said(outcome, f"{what} {one} {is_} {rule.op} {bound}{source}{open_}", one if over else None)


def _narrower(rule: Rule, *ends: Range) -> str:
    if rule.figure in SEARCHED:
        unbroken = any(each.high == math.inf for each in ends)
        known_so_far = "no rate is known to break the bound" if unbroken else "no more than that is known"
        return f"{known_so_far}, the receipt's points say why"
    quality = rule.figure in (*TASK_METRICS, *COMPARED)
    return f"the 95 % interval leaves it open, more {'test items' if quality else 'processes'} narrow it"


def _no_interval(rule: Rule, variant: str) -> _Said:
    repeated = f"measure in {PROCESSES} processes or more, or " if rule.figure in REPEATED else ""
    text = f"{_label(rule)} of {variant} has no interval to be sure by: {repeated}leave 'with confidence' out"
    return _Said("INCONCLUSIVE", text)


def _source(rule: Rule, reference: float) -> str:
    return f" ({rule.factor:g} * {reference:.4g} of {rule.baseline})" if rule.baseline else ""


def _label(rule: Rule) -> str:
    return f"{rule.metric} at {rule.target}" if rule.target else rule.metric


def _point(value: float) -> Range:
    return Range(value, value, value)
