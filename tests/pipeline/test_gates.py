"""Rules as people write them, verdicts as people read them."""

import math

import msgspec
import pytest

from pipeline import gates
from pipeline.errors import BadRequest, GateFailed, Inconclusive
from pipeline.weighted_metrics import METRICS

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


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("accuracy >= 0.95 * teacher", ("accuracy", ">=", 0.95, TEACHER)),
        ("p95_ms<=0.5*teacher", ("p95_ms", "<=", 0.5, TEACHER)),
        ("  size_mb < 30 ", ("size_mb", "<", 30.0, None)),
        ("p50_ms_short > 1e-3", ("p50_ms_short", ">", 0.001, None)),
        ("in_scope_refused_high <= 0.05", ("in_scope_refused_high", "<=", 0.05, None)),
        ("p95_ms_high <= 1 * student-onnx-fp32", ("p95_ms_high", "<=", 1.0, SMALL)),
    ],
)
def test_rules_are_read_as_written(text: str, rule: tuple[object, ...]) -> None:
    parsed = gates.parse_rule(text)
    assert (parsed.metric, parsed.op, parsed.factor, parsed.baseline) == rule


HELP = """
  grammar:  metric op bound [* baseline], op one of >= <= > <, baseline 'teacher' or a variant's name
  metrics:  accuracy, macro_f1, micro_f1, entity_f1, matthews, pearson, spearman, mse, oos_auroc, oos_refused, \
in_scope_refused, p50_ms, p95_ms, speedup_p50, p50_ms_short, p95_ms_short, cold_start_ms, peak_mb, size_mb, params, \
batch_difference, batch_flips, drop, flips, ece;
            with _low or _high for an end of the 95 % interval where there is one
  example:  accuracy >= 0.95 * teacher"""


@pytest.mark.parametrize(
    "text", ["accuracy", "accuracy == 1", "accuracy >= teacher", "accuracy >= 0.9 teacher", "accuracy >= nan", ""]
)
def test_a_rule_that_cannot_be_read_is_answered_with_the_grammar(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        gates.parse_rule(text)
    assert str(caught.value) == f"rule '{text}' cannot be read.{HELP}"


def test_a_rule_on_an_unknown_metric_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadRequest) as caught:
        gates.parse_rule("p99_ms <= 3")
    assert str(caught.value) == f"rule 'p99_ms <= 3': nobody measures 'p99_ms'.{HELP}"


def test_a_gate_may_name_every_metric_of_a_task_and_what_is_made_of_them() -> None:
    assert set(gates.TASK_METRICS) == {*METRICS, *gates.REFUSAL_METRICS} - {"auroc"}  # no task reports it by that name


def test_a_gate_without_rules_is_refused() -> None:
    with pytest.raises(BadRequest) as caught:
        gates.parse_rules([])
    assert str(caught.value) == f"the gate has no rules and would pass anything: give at least one.{HELP}"


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
    verdict = judged()
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=gates.Verdict) == verdict
