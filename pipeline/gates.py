"""The gate: rules and figures in, a verdict with its reason out. Pure: it reads nothing and writes nothing.

A rule is one line of text, `metric op bound [* baseline]`:

    accuracy >= 0.95 * teacher     at least 95 % of the teacher's accuracy
    p95_ms <= 0.5 * teacher        at most half of its p95 at the long length, batch 1
    size_mb <= 30                  an absolute bound

A figure that was not measured, or not often enough to be reported, makes a rule INCONCLUSIVE, never passed.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from pipeline.errors import BadRequest, GateFailed, Inconclusive

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Figures = Mapping[str, Mapping[str, float]]

TEACHER: Final = "teacher-onnx-fp32"
ALIASES: Final = {"teacher": TEACHER}
CHOSEN_BY: Final = "p95_ms"
# Beside its own fp32: how much of the metric a variant lost, and the share of items it answers otherwise; and how far
# its probabilities are from how often it is right (expected calibration error). judging.py says which a task has.
COMPARED: Final = ("drop", "flips", "ece")
MEASURED: Final = (
    *("p50_ms", "p95_ms", "speedup_p50", "p50_ms_short", "p95_ms_short"),
    *("cold_start_ms", "peak_mb", "size_mb", "params", "batch_difference", "batch_flips"),
    *COMPARED,
)
# Of a classifier that may refuse: how well its highest probability tells items of its classes from those out of scope
# (oos), and which share of either it refuses.
REFUSAL_METRICS: Final = ("oos_auroc", "oos_refused", "in_scope_refused")
# weighted_metrics.METRICS by name, and figures made with them. That file imports numpy, which `retort plan` must not; a
# test holds the two together.
TASK_METRICS: Final = (
    *("accuracy", "macro_f1", "micro_f1", "entity_f1", "matthews", "pearson", "spearman", "mse"),
    *REFUSAL_METRICS,
)
KNOWN: Final = (*TASK_METRICS, *MEASURED)
ENDS: Final = ("_low", "_high")
_OPERATORS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_RULE = re.compile(
    r"\s*(?P<metric>[a-z]\w*)\s*(?P<op>>=|<=|>|<)\s*(?P<bound>-?\d+(?:\.\d*)?(?:[eE]-?\d+)?)"
    r"\s*(?:\*\s*(?P<baseline>[A-Za-z][\w.-]*))?\s*"
)


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One parsed line; the bound is `factor`, times the baseline's figure where there is a baseline."""

    metric: str
    op: str
    factor: float
    baseline: str | None
    text: str


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rule on one variant; `value` or `bound` is None where the figure is missing."""

    rule: str
    metric: str
    value: float | None
    bound: float | None
    outcome: Outcome
    text: str


class Judged(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One candidate with all its checks."""

    variant: str
    outcome: Outcome
    checks: tuple[Check, ...]


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the gate says; `chosen` is the variant to register, None unless the verdict is PASS."""

    verdict: Outcome
    reason: str
    chosen: str | None
    candidates: tuple[Judged, ...]


def parse_rule(text: str) -> Rule:
    """Read one rule.

    Raises:
        BadRequest: it is not of the grammar, or names a metric nobody measures.
    """
    match = _RULE.fullmatch(text)
    if not match:
        raise BadRequest(f"rule '{text}' cannot be read.\n{_help()}")
    metric, op, bound, baseline = match.group("metric", "op", "bound", "baseline")
    if _without_end(metric) not in KNOWN:
        raise BadRequest(f"rule '{text}': nobody measures '{metric}'.\n{_help()}")
    return Rule(metric, op, float(bound), ALIASES.get(baseline, baseline) if baseline else None, " ".join(text.split()))


def parse_rules(texts: Sequence[str]) -> tuple[Rule, ...]:
    """Read all rules of a gate; a gate without rules would pass everything and is refused."""
    if not texts:
        raise BadRequest(f"the gate has no rules and would pass anything: give at least one.\n{_help()}")
    return tuple(parse_rule(text) for text in texts)


def judge(rules: Sequence[Rule], figures: Figures, candidates: Sequence[str]) -> Verdict:
    """Check every rule on every candidate; of those that pass all, choose the one with the lowest p95.

    Raises:
        BadRequest: a candidate or a baseline is not among the variants of `figures`, or there is nothing to judge.
    """
    if not rules or not candidates:
        raise BadRequest(f"nothing to judge: {len(rules)} rules, {len(candidates)} candidates; the gate needs both")
    _require_variants(rules, figures, candidates)
    judged = tuple(_judge_one(rules, figures, name) for name in candidates)
    passed = [each.variant for each in judged if each.outcome == "PASS"]
    if passed:
        return _choose(judged, passed, figures)
    verdict: Outcome = "INCONCLUSIVE" if any(each.outcome == "INCONCLUSIVE" for each in judged) else "FAIL"
    opening = "no variant passes" if verdict == "FAIL" else "no variant passes, and not every figure is known"
    told = "; ".join(f"{each.variant}: {_complaints(each)}" for each in judged)
    return Verdict(verdict, f"{opening}: {told}", None, judged)


def require_pass(verdict: Verdict) -> str:
    """The chosen variant, or the error whose exit code says what the gate said (66 or 67)."""
    if verdict.chosen is not None:
        return verdict.chosen
    raise (GateFailed if verdict.verdict == "FAIL" else Inconclusive)(f"{verdict.verdict}: {verdict.reason}")


def _judge_one(rules: Sequence[Rule], figures: Figures, variant: str) -> Judged:
    checks = tuple(_check(rule, figures, variant) for rule in rules)
    outcomes = {check.outcome for check in checks}
    overall: Outcome = "FAIL" if "FAIL" in outcomes else "INCONCLUSIVE" if "INCONCLUSIVE" in outcomes else "PASS"
    return Judged(variant, overall, checks)


def _check(rule: Rule, figures: Figures, variant: str) -> Check:
    value = _known(figures[variant], rule.metric)
    reference = _known(figures[rule.baseline], rule.metric) if rule.baseline else 1.0
    bound = None if reference is None else rule.factor * reference
    if value is None or bound is None:
        missing = variant if value is None else rule.baseline
        text = f"{rule.metric} of {missing} is not known (not measured, or too few samples to report it)"
        return Check(rule.text, rule.metric, value, bound, "INCONCLUSIVE", text)
    passed = _OPERATORS[rule.op](value, bound)
    source = f" ({rule.factor:g} * {reference:.4g} of {rule.baseline})" if rule.baseline else ""
    text = f"{rule.metric} {value:.4g} is {'' if passed else 'not '}{rule.op} {bound:.4g}{source}"
    return Check(rule.text, rule.metric, value, bound, "PASS" if passed else "FAIL", text)


def _choose(judged: tuple[Judged, ...], passed: Sequence[str], figures: Figures) -> Verdict:
    """The fastest of those that pass; of several without a known p95 none can be preferred."""
    speed = {name: p95 for name in passed if (p95 := _known(figures[name], CHOSEN_BY)) is not None}
    if not speed and len(passed) > 1:
        reason = f"{' and '.join(passed)} pass every rule, but no {CHOSEN_BY} is known to choose the faster one by"
        return Verdict("INCONCLUSIVE", reason, None, judged)
    chosen = min(speed, key=lambda name: speed[name]) if speed else passed[0]
    fastest = f" and has the lowest {CHOSEN_BY} of the {len(passed)} that do" if len(passed) > 1 else ""
    checks = next(each.checks for each in judged if each.variant == chosen)
    told = "; ".join(check.text for check in checks)
    return Verdict("PASS", f"{chosen} passes every rule{fastest}: {told}", chosen, judged)


def _complaints(judged: Judged) -> str:
    return ", ".join(check.text for check in judged.checks if check.outcome != "PASS")


def _known(figures: Mapping[str, float], metric: str) -> float | None:
    """The figure; a figure that is not finite is as good as none."""
    value = figures.get(metric)
    return value if value is not None and math.isfinite(value) else None


def _require_variants(rules: Sequence[Rule], figures: Figures, candidates: Sequence[str]) -> None:
    named = [*candidates, *(rule.baseline for rule in rules if rule.baseline)]
    unknown = [name for name in named if name not in figures]
    if unknown:
        raise BadRequest(
            f"the gate names '{unknown[0]}', which was not measured: known are "
            f"{', '.join(figures)} (and 'teacher' for {TEACHER})"
        )


def _without_end(metric: str) -> str:
    return next((metric.removesuffix(end) for end in ENDS if metric.endswith(end)), metric)


def _help() -> str:
    return (
        "  grammar:  metric op bound [* baseline], op one of >= <= > <, baseline 'teacher' or a variant's name\n"
        f"  metrics:  {', '.join(KNOWN)};\n"
        "            with _low or _high for an end of the 95 % interval where there is one\n"
        "  example:  accuracy >= 0.95 * teacher"
    )
