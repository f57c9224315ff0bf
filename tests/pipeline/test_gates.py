"""Rules as people write them, verdicts as people read them."""

import math

import msgspec
import pytest

from pipeline import gates
from pipeline.errors import BadRequest, GateFailed, Inconclusive

TEACHER = "teacher-onnx-fp32"
SMALL, INT8 = "student-onnx-fp32", "student-onnx-int8"
RULES = gates.parse_rules(["accuracy >= 0.95 * teacher", "p95_ms <= 0.5 * teacher"])


def figures(**changes: dict[str, float]) -> dict[str, dict[str, float]]:
    table = {
        TEACHER: {"accuracy": 0.9, "p95_ms": 10.0, "size_mb": 90.0},
        SMALL: {"accuracy": 0.88, "p95_ms": 4.0, "size_mb": 40.0},
        INT8: {"accuracy": 0.87, "p95_ms": 2.0, "size_mb": 12.0},
    }
    return {name: {**values, **changes.get(name, {})} for name, values in table.items()}


def judged(*, rules=RULES, candidates=(SMALL, INT8), **changes: dict[str, float]) -> gates.Verdict:
    return gates.judge(rules, figures(**changes), candidates)


def test_the_fastest_of_those_that_pass_is_chosen_and_the_reason_has_the_numbers() -> None:
    verdict = judged()
    assert (verdict.verdict, verdict.chosen) == ("PASS", INT8)
    assert verdict.reason == (
        "student-onnx-int8 passes every rule and has the lowest p95_ms of the 2 that do: "
        "accuracy 0.87 is >= 0.855 (0.95 * 0.9 of teacher-onnx-fp32); "
        "p95_ms 2 is <= 5 (0.5 * 10 of teacher-onnx-fp32)"
    )


def test_a_faster_variant_that_fails_a_rule_is_passed_over() -> None:
    verdict = judged(**{INT8: {"accuracy": 0.8}})
    assert (verdict.verdict, verdict.chosen) == ("PASS", SMALL)
    assert [each.outcome for each in verdict.candidates] == ["PASS", "FAIL"]


def test_when_none_passes_the_reason_says_what_each_one_missed() -> None:
    verdict = judged(**{INT8: {"accuracy": 0.8}, SMALL: {"p95_ms": 6.0}})
    assert (verdict.verdict, verdict.chosen) == ("FAIL", None)
    assert verdict.reason == (
        "no variant passes: "
        "student-onnx-fp32: p95_ms 6 is not <= 5 (0.5 * 10 of teacher-onnx-fp32); "
        "student-onnx-int8: accuracy 0.8 is not >= 0.855 (0.95 * 0.9 of teacher-onnx-fp32)"
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_that_is_no_number_never_passes(value: float) -> None:
    verdict = judged(candidates=[INT8], **{INT8: {"accuracy": value}})
    assert (verdict.verdict, verdict.chosen) == ("INCONCLUSIVE", None)


def test_a_missing_figure_is_inconclusive_and_named() -> None:
    table = figures()
    del table[INT8]["p95_ms"]
    verdict = gates.judge(RULES, table, [INT8])
    assert verdict.verdict == "INCONCLUSIVE"
    assert verdict.reason == (
        "no variant passes, and not every figure is known: student-onnx-int8: "
        "p95_ms of student-onnx-int8 is not known (not measured, or too few samples to report it)"
    )
    assert [check.outcome for check in verdict.candidates[0].checks] == ["PASS", "INCONCLUSIVE"]


def test_a_missing_figure_of_the_baseline_is_inconclusive_too() -> None:
    table = figures()
    del table[TEACHER]["accuracy"]
    check = gates.judge(RULES, table, [INT8]).candidates[0].checks[0]
    assert (check.outcome, check.value, check.bound) == ("INCONCLUSIVE", 0.87, None)


def test_a_rule_that_fails_outweighs_one_that_is_not_known() -> None:
    table = figures(**{INT8: {"accuracy": 0.1}})
    del table[INT8]["p95_ms"]
    assert gates.judge(RULES, table, [INT8]).verdict == "FAIL"


def test_several_that_pass_without_a_known_p95_cannot_be_chosen_from() -> None:
    table = {name: {"accuracy": 0.9} for name in (TEACHER, SMALL, INT8)}
    verdict = gates.judge(gates.parse_rules(["accuracy >= 0.5"]), table, [SMALL, INT8])
    assert (verdict.verdict, verdict.chosen) == ("INCONCLUSIVE", None)
    assert verdict.reason == (
        "student-onnx-fp32 and student-onnx-int8 pass every rule, but no p95_ms is known to choose the faster one by"
    )


@pytest.mark.parametrize(("op", "outcome"), [(">=", "PASS"), ("<=", "PASS"), (">", "FAIL"), ("<", "FAIL")])
def test_a_value_on_its_bound_passes_only_inclusive_operators(op: str, outcome: str) -> None:
    assert judged(rules=gates.parse_rules([f"size_mb {op} 12"]), candidates=[INT8]).verdict == outcome


def test_a_variant_nobody_measured_is_refused_with_those_that_were() -> None:
    message = (
        "^the gate names 'student-onnx-int4', which was not measured: known are "
        r"teacher-onnx-fp32, student-onnx-fp32, student-onnx-int8 \(and 'teacher' for teacher-onnx-fp32\)$"
    )
    with pytest.raises(BadRequest, match=message):
        judged(candidates=["student-onnx-int4"])
    with pytest.raises(BadRequest, match=message):
        judged(rules=gates.parse_rules(["p95_ms <= 0.5 * student-onnx-int4"]))


def test_judging_nothing_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"^nothing to judge: 2 rules, 0 candidates; the gate needs both$"):
        judged(candidates=[])


def test_the_verdict_decides_the_exit_code() -> None:
    assert gates.require_pass(judged()) == INT8
    with pytest.raises(GateFailed, match=r"^FAIL: no variant passes: student-onnx-int8: accuracy 0.1 is not >= 0.855"):
        gates.require_pass(judged(candidates=[INT8], **{INT8: {"accuracy": 0.1}}))
    with pytest.raises(Inconclusive, match=r"^INCONCLUSIVE: no variant passes, and not every figure is known"):
        gates.require_pass(judged(candidates=[INT8], **{INT8: {"accuracy": math.nan}}))


def test_a_verdict_survives_json() -> None:
    ratio = {"p95_ms/teacher-onnx-fp32": 0.2, "p95_ms/teacher-onnx-fp32_low": 0.1, "p95_ms/teacher-onnx-fp32_high": 0.3}
    verdict = judged(rules=gates.parse_rules(["p95_ms <= 0.5 * teacher with confidence"]), **{INT8: ratio})
    assert verdict.candidates[1].checks[0].ratio == (0.1, 0.2, 0.3)
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=gates.Verdict) == verdict


# -- the champion ------------------------------------------------------------------------------------------------------

# As one question: of `retort bench` a bundle may be called champion.
RIVALRY = gates.parse_rules(["accuracy >= 0.5", "p95_ms <= 0.9 * champion"])
CHAMPION = {"accuracy": 0.9, "p95_ms": 3.0}


def test_the_champion_is_a_baseline_like_any_other_variant() -> None:
    verdict = gates.judge(RIVALRY, {**figures(), "champion": CHAMPION}, [SMALL, INT8])
    assert (verdict.verdict, verdict.chosen) == ("PASS", INT8)
    assert [each.outcome for each in verdict.candidates] == ["FAIL", "PASS"]
    assert verdict.candidates[0].checks[1].text == "p95_ms 4 is not <= 2.7 (0.9 * 3 of champion)"


def test_a_champion_that_is_not_there_yet_stands_in_nobody_s_way_and_it_is_said() -> None:
    verdict = gates.judge(RIVALRY, figures(), [INT8], absent=["champion"])
    assert verdict.reason == (
        "student-onnx-int8 passes every rule: accuracy 0.87 is >= 0.5; "
        "p95_ms: there is no champion yet to be compared with"
    )
    check = verdict.candidates[0].checks[1]
    assert (check.outcome, check.value, check.bound) == ("PASS", 2.0, None)


def test_a_champion_that_was_neither_measured_nor_said_to_be_absent_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"^the gate names 'champion', which was not measured: known are "):
        gates.judge(RIVALRY, figures(), [INT8])


def test_a_candidate_that_is_the_champion_keeps_its_place_and_others_must_beat_it() -> None:
    """Run again, a run meets its own model; noise must not decide between equal bytes."""
    table = {**figures(), "champion": {"accuracy": 0.87, "p95_ms": 1.9}}
    verdict = gates.judge(RIVALRY, table, [SMALL, INT8], reigning=[INT8])
    assert (verdict.verdict, verdict.chosen) == ("PASS", INT8)
    assert verdict.candidates[1].checks[1].text == "p95_ms: student-onnx-int8 is the champion itself, byte for byte"
    assert verdict.candidates[0].outcome == "FAIL"


def test_being_the_champion_helps_with_no_other_rule() -> None:
    table = {**figures(**{INT8: {"accuracy": 0.1}}), "champion": {"accuracy": 0.1, "p95_ms": 1.9}}
    assert gates.judge(RIVALRY, table, [INT8], reigning=[INT8]).verdict == "FAIL"


# -- the two questions -------------------------------------------------------------------------------------------------

GATE = gates.questions_of(gates.parse_rules(["accuracy >= 0.5", "p95_ms <= 0.9 * champion", "size_mb <= 50"]))


def asked(candidates=(SMALL, INT8), *, champion: dict[str, float] = CHAMPION, **changes: dict[str, float]):
    return gates.judge(GATE.own, {**figures(**changes), "champion": champion}, candidates, against=GATE.against)


def test_rules_that_mention_the_champion_are_the_second_question() -> None:
    assert [rule.text for rule in GATE.own] == ["accuracy >= 0.5", "size_mb <= 50"]
    assert [rule.text for rule in GATE.against] == ["p95_ms <= 0.9 * champion"]


def test_one_that_passes_both_is_chosen_and_its_promotion_passes() -> None:
    verdict = asked()
    assert (verdict.verdict, verdict.chosen, verdict.promotion) == ("PASS", INT8, "PASS")
    assert verdict.promotion_reason == "p95_ms 2 is <= 2.7 (0.9 * 3 of champion)"
    assert verdict.reason == (
        "student-onnx-int8 passes every rule: accuracy 0.87 is >= 0.5; size_mb 12 is <= 50; "
        "p95_ms 2 is <= 2.7 (0.9 * 3 of champion)"
    )
    assert [(each.outcome, each.promotion) for each in verdict.candidates] == [("PASS", "FAIL"), ("PASS", "PASS")]


def test_one_that_passes_both_is_preferred_to_a_faster_one_that_passes_its_own_rules_only() -> None:
    rules = gates.questions_of(gates.parse_rules(["size_mb <= 50", "accuracy >= 1 * champion"]))
    table = {**figures(**{INT8: {"accuracy": 0.8}}), "champion": {"accuracy": 0.85}}
    verdict = gates.judge(rules.own, table, [SMALL, INT8], against=rules.against)
    assert (verdict.chosen, verdict.promotion) == (SMALL, "PASS")


def test_where_none_passes_both_the_fastest_that_passes_its_own_rules_is_registered_all_the_same() -> None:
    verdict = asked(champion={"accuracy": 0.9, "p95_ms": 1.0})
    assert (verdict.verdict, verdict.chosen, verdict.promotion) == ("PASS", INT8, "FAIL")
    assert verdict.promotion_reason == "p95_ms 2 is not <= 0.9 (0.9 * 1 of champion)"
    assert verdict.reason == (
        "student-onnx-int8 passes its own rules and has the lowest p95_ms of the 2 that do: accuracy 0.87 is >= 0.5; "
        "size_mb 12 is <= 50; against the champion FAIL: p95_ms 2 is not <= 0.9 (0.9 * 1 of champion)"
    )
    assert gates.require_pass(verdict) == INT8, "its own rules decide the exit code"


def test_a_promotion_that_cannot_be_known_is_inconclusive_and_the_variant_is_registered() -> None:
    verdict = asked([INT8], champion={"accuracy": 0.9})
    assert (verdict.verdict, verdict.chosen, verdict.promotion) == ("PASS", INT8, "INCONCLUSIVE")
    assert verdict.promotion_reason == (
        "p95_ms of champion is not known (not measured, or too few samples to report it)"
    )


def test_beating_the_champion_helps_nobody_who_breaks_a_rule_of_its_own() -> None:
    verdict = asked([INT8], **{INT8: {"accuracy": 0.1}})
    assert (verdict.verdict, verdict.chosen, verdict.promotion) == ("FAIL", None, None)
    assert verdict.candidates[0].promotion == "PASS"
    assert verdict.reason == "no variant passes: student-onnx-int8: accuracy 0.1 is not >= 0.5"


def test_of_several_that_pass_their_own_rules_a_disturbed_session_prefers_none() -> None:
    table = {**figures(), "champion": CHAMPION}
    verdict = gates.judge(GATE.own, table, [SMALL, INT8], against=GATE.against, disturbed={"here": "a neighbour"})
    assert (verdict.verdict, verdict.chosen) == ("INCONCLUSIVE", None)
    assert verdict.reason == (
        "student-onnx-fp32 and student-onnx-int8 pass their own rules, but their p95_ms cannot be trusted to choose "
        "the faster one by: a neighbour"
    )


def test_a_gate_may_ask_the_second_question_only() -> None:
    rules = gates.questions_of(gates.parse_rules(["p95_ms <= 0.9 * champion"]))
    slow = {**figures(), "champion": {"p95_ms": 1.0}}
    verdict = gates.judge(rules.own, slow, [INT8], against=rules.against)
    assert (verdict.verdict, verdict.promotion) == ("PASS", "FAIL")
    assert verdict.reason == (
        "student-onnx-int8 passes its own rules; against the champion FAIL: p95_ms 2 is not <= 0.9 (0.9 * 1 of "
        "champion)"
    )


def test_without_a_rule_against_the_champion_nothing_is_said_of_promotion() -> None:
    verdict = judged()
    assert (verdict.promotion, verdict.promotion_reason) == (None, "")
    assert {each.promotion for each in verdict.candidates} == {None}


def test_both_answers_survive_json() -> None:
    verdict = asked()
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=gates.Verdict) == verdict
    own, against = gates.checks_of(verdict.candidates[1])
    assert ([check.metric for check in own], [check.metric for check in against]) == (
        ["accuracy", "size_mb"],
        ["p95_ms"],
    )


# -- disturbed sessions ------------------------------------------------------------------------------------------------

WHY = "another process took 31 % of core 1"


def test_a_disturbed_session_gives_no_verdict_on_times_whatever_they_are() -> None:
    for p95_ms in (0.001, 1000.0):
        table = figures(**{INT8: {"p95_ms": p95_ms}})
        verdict = gates.judge(RULES, table, [INT8], disturbed={"here": WHY})
        assert verdict.verdict == "INCONCLUSIVE"
        assert verdict.reason == (
            "no variant passes, and not every figure is known: student-onnx-int8: p95_ms of student-onnx-int8 cannot "
            f"be trusted: {WHY}; measure again on a quiet machine"
        )


def test_quality_is_judged_in_a_disturbed_session_too() -> None:
    verdict = gates.judge(RULES, figures(**{INT8: {"accuracy": 0.1}}), [INT8], disturbed={"here": WHY})
    assert [check.outcome for check in verdict.candidates[0].checks] == ["FAIL", "INCONCLUSIVE"]
    assert verdict.verdict == "FAIL"
    calm = gates.parse_rules(["accuracy >= 0.95 * teacher", "size_mb <= 30", "rss_mb <= 100"])
    table = figures(**{INT8: {"rss_mb": 80.0}})
    assert gates.judge(calm, table, [INT8], disturbed={"here": WHY}).verdict == "PASS"


def test_of_several_that_pass_a_disturbed_session_prefers_none() -> None:
    verdict = gates.judge(gates.parse_rules(["accuracy >= 0.5"]), figures(), [SMALL, INT8], disturbed={"here": WHY})
    assert (verdict.verdict, verdict.chosen) == ("INCONCLUSIVE", None)
    assert verdict.reason == (
        "student-onnx-fp32 and student-onnx-int8 pass every rule, but their p95_ms cannot be trusted to choose the "
        f"faster one by: {WHY}"
    )


@pytest.mark.parametrize("metric", gates.TIMED)
def test_every_time_is_in_doubt(metric: str) -> None:
    rules = gates.parse_rules([f"{metric} <= 9", f"{metric}_high <= 9"])
    verdict = gates.judge(rules, {"a": {metric: 1.0, f"{metric}_high": 2.0}}, ["a"], disturbed={"here": WHY})
    assert [check.outcome for check in verdict.candidates[0].checks] == ["INCONCLUSIVE", "INCONCLUSIVE"]


# -- targets -----------------------------------------------------------------------------------------------------------

SLOW = figures(**{INT8: {"p95_ms": 9.0}})
EDGE = gates.parse_rules(["p95_ms <= 3", "p95_ms <= 3 at edge"])


def test_a_rule_asks_the_session_of_its_target_and_the_first_one_without() -> None:
    sessions = {"here": figures(), "edge": SLOW}
    (one,) = gates.judge(EDGE, figures(), [INT8], figures_by_target=sessions).candidates
    assert [(check.outcome, check.target) for check in one.checks] == [("PASS", "here"), ("FAIL", "edge")]
    assert one.checks[1].text == "p95_ms at edge 9 is not <= 3"


def test_only_the_target_that_was_disturbed_is_in_doubt() -> None:
    sessions = {"here": figures(), "edge": SLOW}
    (one,) = gates.judge(EDGE, figures(), [INT8], figures_by_target=sessions, disturbed={"edge": WHY}).candidates
    assert [check.outcome for check in one.checks] == ["PASS", "INCONCLUSIVE"]


def test_a_target_on_which_nothing_was_measured_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(BadRequest) as refused:
        gates.judge(EDGE, figures(), [INT8])
    assert str(refused.value) == "rule 'p95_ms <= 3 at edge': nothing is measured at 'edge'; targets are: here"


def test_a_variant_must_be_measured_at_the_target_that_is_asked() -> None:
    edge = {name: values for name, values in figures().items() if name != INT8}
    with pytest.raises(BadRequest, match=r"^the gate names 'student-onnx-int8', which was not measured at edge: known"):
        gates.judge(EDGE, figures(), [INT8], figures_by_target={"here": figures(), "edge": edge})
