"""The gate: rules and figures in, a verdict with its reason out. Pure: it reads nothing and writes nothing.

A rule is one line of text, `metric op bound [* baseline] [at target] [with confidence]` (gate_rules.py):

    accuracy >= 0.95 * teacher                    at least 95 % of the teacher's accuracy
    p95_ms <= 1.0 * champion with confidence      the whole interval is no slower than what is in service
    size_mb <= 30                                 an absolute bound

A figure that was not measured, or not often enough to be reported, or in a disturbed session, makes a rule
INCONCLUSIVE, never passed.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

from pipeline.errors import BadRequest, GateFailed, Inconclusive
from pipeline.gate_checks import Check, Figures, Outcome, Session, check_rule, known
from pipeline.gate_rules import (
    COMPARED,
    KNOWN,
    MEASURED,
    NAME,
    REFUSAL_METRICS,
    SEARCHED,
    TASK_METRICS,
    TEACHER,
    TIMED,
    Rule,
    names_champion,
    parse_rule,
    parse_rules,
    require_measurable,
    require_targets,
)
from pipeline.naming import HERE

__all__ = [
    "COMPARED",
    "KNOWN",
    "MEASURED",
    "NAME",
    "REFUSAL_METRICS",
    "SEARCHED",
    "TASK_METRICS",
    "TEACHER",
    "TIMED",
    "Check",
    "Figures",
    "Judged",
    "Outcome",
    "Rule",
    "Verdict",
    "judge",
    "names_champion",
    "parse_rule",
    "parse_rules",
    "require_measurable",
    "require_pass",
    "require_targets",
]

CHOSEN_BY: Final = "p95_ms"


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


def judge(
    rules: Sequence[Rule],
    figures: Figures,
    candidates: Sequence[str],
    *,
    figures_by_target: Mapping[str, Figures] = {},
    absent: Collection[str] = (),
    reigning: Collection[str] = (),
    disturbed: Mapping[str, str] = {},
) -> Verdict:
    """Check every rule on every candidate; of those that pass all, choose the one with the lowest p95.

    `figures` are of the session that rules without `at` speak of; `figures_by_target` adds those of other sessions by
    their target, this one's first (none: there is this one, HERE). `absent` are baselines that do not exist yet, and
    `reigning` the candidates that are the champion themselves, byte for byte: rules against either pass and say so.
    `disturbed` says by target why its times are not to be trusted: rules on them are INCONCLUSIVE.

    Raises:
        BadRequest: a candidate, a baseline or a target is not among the figures, or there is nothing to judge.
    """
    if not rules or not candidates:
        raise BadRequest(f"nothing to judge: {len(rules)} rules, {len(candidates)} candidates; the gate needs both")
    first = next(iter(figures_by_target), HERE)
    sessions = {
        target: Session(target, measured, disturbed.get(target, ""), frozenset(absent), frozenset(reigning))
        for target, measured in {**figures_by_target, first: figures}.items()
    }
    require_targets(rules, sessions)
    for rule in rules:
        _require_variants(rule, sessions[rule.target or first], candidates)
    judged = tuple(_judge_one(rules, sessions, sessions[first], name) for name in candidates)
    return _conclude(judged, sessions[first])


def require_pass(verdict: Verdict) -> str:
    """The chosen variant, or the error whose exit code says what the gate said (66 or 67)."""
    if verdict.chosen is not None:
        return verdict.chosen
    raise (GateFailed if verdict.verdict == "FAIL" else Inconclusive)(f"{verdict.verdict}: {verdict.reason}")


def _judge_one(rules: Sequence[Rule], sessions: Mapping[str, Session], first: Session, variant: str) -> Judged:
    checks = tuple(check_rule(rule, variant, sessions[rule.target] if rule.target else first) for rule in rules)
    outcomes = {check.outcome for check in checks}
    overall: Outcome = "FAIL" if "FAIL" in outcomes else "INCONCLUSIVE" if "INCONCLUSIVE" in outcomes else "PASS"
    return Judged(variant, overall, checks)


def _conclude(judged: tuple[Judged, ...], session: Session) -> Verdict:
    passed = [each.variant for each in judged if each.outcome == "PASS"]
    if passed:
        return _choose(judged, passed, session)
    verdict: Outcome = "INCONCLUSIVE" if any(each.outcome == "INCONCLUSIVE" for each in judged) else "FAIL"
    opening = "no variant passes" if verdict == "FAIL" else "no variant passes, and not every figure is known"
    told = "; ".join(f"{each.variant}: {_complaints(each)}" for each in judged)
    return Verdict(verdict, f"{opening}: {told}", None, judged)


def _choose(judged: tuple[Judged, ...], passed: Sequence[str], session: Session) -> Verdict:
    """The fastest of those that pass; of several without a known p95 none can be preferred."""
    speed = {name: p95 for name in passed if (p95 := known(session.figures[name], CHOSEN_BY)) is not None}
    if len(passed) > 1 and (session.disturbed or not speed):
        doubt = f"their {CHOSEN_BY} cannot be trusted" if session.disturbed else f"no {CHOSEN_BY} is known"
        why = f": {session.disturbed}" if session.disturbed else ""
        reason = f"{' and '.join(passed)} pass every rule, but {doubt} to choose the faster one by{why}"
        return Verdict("INCONCLUSIVE", reason, None, judged)
    chosen = min(speed, key=lambda name: speed[name]) if speed else passed[0]
    fastest = f" and has the lowest {CHOSEN_BY} of the {len(passed)} that do" if len(passed) > 1 else ""
    checks = next(each.checks for each in judged if each.variant == chosen)
    told = "; ".join(check.text for check in checks)
    return Verdict("PASS", f"{chosen} passes every rule{fastest}: {told}", chosen, judged)


def _complaints(judged: Judged) -> str:
    return ", ".join(check.text for check in judged.checks if check.outcome != "PASS")


def _require_variants(rule: Rule, session: Session, candidates: Sequence[str]) -> None:
    named = [*candidates, *([rule.baseline] if rule.baseline and rule.baseline not in session.absent else [])]
    unknown = [name for name in named if name not in session.figures]
    if unknown:
        where = f" at {session.target}" if rule.target else ""
        raise BadRequest(
            f"the gate names '{unknown[0]}', which was not measured{where}: known are "
            f"{', '.join(session.figures)} (and 'teacher' for {TEACHER})"
        )
