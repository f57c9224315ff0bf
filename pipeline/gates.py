"""The gate: rules and figures in, a verdict with its reason out. Pure: it reads nothing and writes nothing.

A rule is one line of text, `metric op bound [* baseline] [at target] [with confidence]` (gate_rules.py):

    accuracy >= 0.95 * teacher                    at least 95 % of the teacher's accuracy
    p95_ms <= 1.0 * champion with confidence      the whole interval is no slower than what is in service
    size_mb <= 30                                 an absolute bound

A figure that was not measured, or not often enough to be reported, or in a disturbed session, makes a rule
INCONCLUSIVE, never passed.

A gate asks two questions. Its own rules decide whether a variant is fit to be registered; the rules against the
champion, whether it takes the champion's place.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

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
from pipeline.naming import CHAMPION, HERE

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
    "Questions",
    "Rule",
    "Verdict",
    "checks_of",
    "judge",
    "names_champion",
    "parse_rule",
    "parse_rules",
    "questions_of",
    "require_measurable",
    "require_pass",
    "require_targets",
]

CHOSEN_BY: Final = "p95_ms"


class Questions(NamedTuple):
    """A gate's rules by what they decide: that a variant is registered, and that it becomes the champion."""

    own: tuple[Rule, ...]
    against: tuple[Rule, ...]


class Judged(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One candidate with all its checks, those of its own rules first; `outcome` is of these, `promotion` of the rules
    against the champion: None where there are none."""

    variant: str
    outcome: Outcome
    checks: tuple[Check, ...]
    promotion: Outcome | None = None

    @property
    def against(self) -> tuple[Check, ...]:
        """Its checks against the champion: they decide its promotion, and no verdict."""
        return () if self.promotion is None else tuple(check for check in self.checks if check.baseline == CHAMPION)


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the gate says; `chosen` is the variant to register, None unless the verdict is PASS.

    `promotion` says whether the chosen one passes against the champion too, and `promotion_reason` why: None and ""
    where no rule asks, or nothing is chosen. `reason` tells of both.
    """

    verdict: Outcome
    reason: str
    chosen: str | None
    candidates: tuple[Judged, ...]
    promotion: Outcome | None = None
    promotion_reason: str = ""


def questions_of(rules: Sequence[Rule]) -> Questions:
    """The two questions that a gate's rules ask: those that mention the champion are the second one."""
    against = tuple(rule for rule in rules if rule.baseline == CHAMPION)
    return Questions(tuple(rule for rule in rules if rule not in against), against)


def judge(
    rules: Sequence[Rule],
    figures: Figures,
    candidates: Sequence[str],
    *,
    against: Sequence[Rule] = (),
    figures_by_target: Mapping[str, Figures] = {},
    absent: Collection[str] = (),
    reigning: Collection[str] = (),
    disturbed: Mapping[str, str] = {},
) -> Verdict:
    """Check every rule on every candidate. Of those that pass `rules` and those `against` the champion, choose the one
    with the lowest p95; where there are none, of those that pass `rules`: these alone make the verdict.

    `figures` are of the session that rules without `at` speak of; `figures_by_target` adds those of other sessions by
    their target, this one's first (none: there is this one, HERE). `absent` are baselines that do not exist yet, and
    `reigning` the candidates that are the champion themselves, byte for byte: rules against either pass and say so.
    `disturbed` says by target why its times are not to be trusted: rules on them are INCONCLUSIVE.

    Raises:
        BadRequest: a candidate, a baseline or a target is not among the figures, or there is nothing to judge.
    """
    questions = Questions(tuple(rules), tuple(against))
    asked = (*questions.own, *questions.against)
    if not asked or not candidates:
        raise BadRequest(f"nothing to judge: {len(asked)} rules, {len(candidates)} candidates; the gate needs both")
    first = next(iter(figures_by_target), HERE)
    sessions = {
        target: Session(target, measured, disturbed.get(target, ""), frozenset(absent), frozenset(reigning))
        for target, measured in {**figures_by_target, first: figures}.items()
    }
    require_targets(asked, sessions)
    for rule in asked:
        _require_variants(rule, sessions[rule.target or first], candidates)
    judged = tuple(_judge_one(questions, sessions, sessions[first], name) for name in candidates)
    return _conclude(judged, sessions[first])


def require_pass(verdict: Verdict) -> str:
    """The chosen variant, or the error whose exit code says what the gate said (66 or 67)."""
    if verdict.chosen is not None:
        return verdict.chosen
    raise (GateFailed if verdict.verdict == "FAIL" else Inconclusive)(f"{verdict.verdict}: {verdict.reason}")


def _judge_one(questions: Questions, sessions: Mapping[str, Session], first: Session, variant: str) -> Judged:
    own, against = (
        tuple(check_rule(rule, variant, sessions[rule.target] if rule.target else first) for rule in rules)
        for rules in questions
    )
    return Judged(variant, _overall(own), (*own, *against), _overall(against) if against else None)


def _overall(checks: Collection[Check]) -> Outcome:
    outcomes = {check.outcome for check in checks}
    return "FAIL" if "FAIL" in outcomes else "INCONCLUSIVE" if "INCONCLUSIVE" in outcomes else "PASS"


def _conclude(judged: tuple[Judged, ...], session: Session) -> Verdict:
    passed = [each for each in judged if each.outcome == "PASS"]
    if passed:
        return _choose(judged, [each for each in passed if each.promotion in (None, "PASS")] or passed, session)
    verdict: Outcome = "INCONCLUSIVE" if any(each.outcome == "INCONCLUSIVE" for each in judged) else "FAIL"
    opening = "no variant passes" if verdict == "FAIL" else "no variant passes, and not every figure is known"
    told = "; ".join(f"{each.variant}: {_complaints(checks_of(each)[0])}" for each in judged)
    return Verdict(verdict, f"{opening}: {told}", None, judged)


def _choose(judged: tuple[Judged, ...], passed: Sequence[Judged], session: Session) -> Verdict:
    """The fastest of those that pass; of several without a known p95 none can be preferred."""
    speed = {
        each.variant: p95 for each in passed if (p95 := known(session.figures[each.variant], CHOSEN_BY)) is not None
    }
    if len(passed) > 1 and (session.disturbed or not speed):
        doubt = f"their {CHOSEN_BY} cannot be trusted" if session.disturbed else f"no {CHOSEN_BY} is known"
        why = f": {session.disturbed}" if session.disturbed else ""
        names, what = " and ".join(each.variant for each in passed), _passed(passed[0], "pass", "their")
        return Verdict("INCONCLUSIVE", f"{names} {what}, but {doubt} to choose the faster one by{why}", None, judged)
    chosen = min(passed, key=lambda each: speed.get(each.variant, math.inf))
    fastest = f" and has the lowest {CHOSEN_BY} of the {len(passed)} that do" if len(passed) > 1 else ""
    return _chosen(chosen, judged, opening=f"{chosen.variant} {_passed(chosen, 'passes', 'its')}{fastest}")


def _chosen(chosen: Judged, judged: tuple[Judged, ...], *, opening: str) -> Verdict:
    """Registered whatever its promotion comes to; the reason tells of both."""
    own, against = checks_of(chosen)
    open_ = chosen.promotion not in (None, "PASS")
    why = _complaints(against) if open_ else "; ".join(check.text for check in against)
    told = "; ".join(check.text for check in (own if open_ else chosen.checks))
    reason = (f"{opening}: {told}" if told else opening) + (
        f"; against the champion {chosen.promotion}: {why}" if open_ else ""
    )
    return Verdict("PASS", reason, chosen.variant, judged, chosen.promotion, why)


def checks_of(judged: Judged) -> tuple[list[Check], list[Check]]:
    """By question: those of its own rules, and those against the champion."""
    return [check for check in judged.checks if check not in judged.against], list(judged.against)


def _passed(one: Judged, verb: str, whose: str) -> str:
    return f"{verb} every rule" if one.promotion in (None, "PASS") else f"{verb} {whose} own rules"


def _complaints(checks: Collection[Check]) -> str:
    return ", ".join(check.text for check in checks if check.outcome != "PASS")


def _require_variants(rule: Rule, session: Session, candidates: Sequence[str]) -> None:
    named = [*candidates, *([rule.baseline] if rule.baseline and rule.baseline not in session.absent else [])]
    unknown = [name for name in named if name not in session.figures]
    if unknown:
        where = f" at {session.target}" if rule.target else ""
        raise BadRequest(
            f"the gate names '{unknown[0]}', which was not measured{where}: known are "
            f"{', '.join(session.figures)} (and 'teacher' for {TEACHER})"
        )
