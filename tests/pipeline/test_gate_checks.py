"""One rule on one variant: points, intervals and ratios."""

import msgspec
import pytest

from pipeline.gate_checks import Check, Session, check_rule, range_of
from pipeline.gate_rules import parse_rule

TEACHER, STUDENT = "teacher-onnx-fp32", "student-onnx-int8"


def spread(name: str, low: float, value: float, high: float) -> dict[str, float]:
    return {f"{name}_low": low, name: value, f"{name}_high": high}


def checked(rule: str, student: dict[str, float], teacher: dict[str, float] | None = None) -> Check:
    session = Session("here", {TEACHER: teacher or {}, STUDENT: student})
    return check_rule(parse_rule(rule), STUDENT, session)


# -- with confidence, against a number ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "outcome"),
    [
        ("p95_ms <= 6 with confidence", "PASS"),
        ("p95_ms <= 5.5 with confidence", "INCONCLUSIVE"),
        ("p95_ms <= 4.5 with confidence", "INCONCLUSIVE"),
        ("p95_ms <= 3.9 with confidence", "FAIL"),
        ("p95_ms >= 3.9 with confidence", "PASS"),
        ("p95_ms >= 4.5 with confidence", "INCONCLUSIVE"),
        ("p95_ms >= 6.1 with confidence", "FAIL"),
        ("p95_ms < 6 with confidence", "INCONCLUSIVE"),  # on its end: inclusive operators only
        ("p95_ms < 4 with confidence", "FAIL"),
        ("p95_ms <= 4 with confidence", "INCONCLUSIVE"),
        ("p95_ms > 4 with confidence", "INCONCLUSIVE"),
        ("p95_ms >= 4 with confidence", "PASS"),
        ("p95_ms > 6 with confidence", "FAIL"),
    ],
)
def test_the_unfavourable_end_must_pass_and_the_favourable_one_fail(rule: str, outcome: str) -> None:
    assert checked(rule, spread("p95_ms", 4, 5, 6)).outcome == outcome


def test_each_outcome_is_told_with_its_interval() -> None:
    figures = spread("p95_ms", 4, 5, 6)
    assert checked("p95_ms <= 7 with confidence", figures).text == "p95_ms 5 [4, 6] is <= 7"
    assert checked("p95_ms <= 3 with confidence", figures).text == "p95_ms 5 [4, 6] is not <= 3"
    assert checked("p95_ms <= 5 with confidence", figures).text == (
        "p95_ms 5 [4, 6] may or may not be <= 5: the 95 % interval leaves it open, more processes narrow it"
    )
    assert checked("accuracy >= 0.9 with confidence", spread("accuracy", 0.85, 0.9, 0.95)).text == (
        "accuracy 0.9 [0.85, 0.95] may or may not be >= 0.9: the 95 % interval leaves it open, more test items narrow "
        "it"
    )


def test_a_check_keeps_the_interval_whether_it_was_asked_for_or_not() -> None:
    for rule in ("p95_ms <= 7", "p95_ms <= 7 with confidence"):
        check = checked(rule, spread("p95_ms", 4, 5, 6))
        assert (check.value, check.bound, check.interval, check.ratio) == (5, 7, (4, 6), None)
    assert checked("p95_ms <= 7", {"p95_ms": 5}).interval is None


def test_without_confidence_the_middle_decides() -> None:
    check = checked("p95_ms <= 5.5", spread("p95_ms", 4, 5, 6))
    assert (check.outcome, check.text) == ("PASS", "p95_ms 5 is <= 5.5")


@pytest.mark.parametrize(
    ("rule", "figures", "text"),
    [
        (
            "p95_ms <= 7 with confidence",
            {"p95_ms": 5.0},
            "p95_ms of student-onnx-int8 has no interval to be sure by: measure in 5 processes or more, or leave "
            "'with confidence' out",
        ),
        (
            "accuracy >= 0.5 with confidence",
            {"accuracy": 0.9, "accuracy_low": 0.8},
            "accuracy of student-onnx-int8 has no interval to be sure by: leave 'with confidence' out",
        ),
        (
            "p95_ms <= 7 with confidence",
            {"p95_ms": float("nan")},
            "p95_ms of student-onnx-int8 is not known (not measured, or too few samples to report it)",
        ),
    ],
)
def test_nothing_is_sure_of_a_figure_without_an_interval(rule: str, figures: dict[str, float], text: str) -> None:
    check = checked(rule, figures)
    assert (check.outcome, check.text) == ("INCONCLUSIVE", text)


def test_what_is_known_exactly_needs_no_interval() -> None:
    assert checked("size_mb <= 12 with confidence", {"size_mb": 12.0}).text == "size_mb 12 is <= 12"
    check = checked("params <= 0.5 * teacher with confidence", {"params": 6.0}, {"params": 10.0})
    assert (check.outcome, check.text) == ("FAIL", "params 6 is not <= 5 (0.5 * 10 of teacher-onnx-fp32)")


def test_an_interval_that_does_not_hold_its_value_is_widened_to_it() -> None:
    assert range_of(spread("p95_ms", 4, 3, 6), "p95_ms") == (3, 3, 6)
    assert range_of(spread("p95_ms", 4, 7, 6), "p95_ms") == (4, 7, 7)


# -- what was searched for ---------------------------------------------------------------------------------------------

FOUND = spread("server_rps", 100, 100, 102)
UNBROKEN = {"server_rps": 100.0, "server_rps_low": 100.0}


@pytest.mark.parametrize("confidence", ["", " with confidence"])
@pytest.mark.parametrize(
    ("rule", "figures", "outcome", "text"),
    [
        ("server_rps >= 100", FOUND, "PASS", "server_rps 100 [100, 102] is >= 100"),
        ("server_rps >= 110", FOUND, "FAIL", "server_rps 100 [100, 102] is not >= 110"),
        (
            "server_rps >= 101",
            FOUND,
            "INCONCLUSIVE",
            "server_rps 100 [100, 102] may or may not be >= 101: no more than that is known, the receipt's points "
            "say why",
        ),
        ("server_rps >= 90", UNBROKEN, "PASS", "server_rps 100 or more is >= 90"),
        (
            "server_rps >= 1000",
            UNBROKEN,
            "INCONCLUSIVE",
            "server_rps 100 or more may or may not be >= 1000: no rate is known to break the bound, the receipt's "
            "points say why",
        ),
        ("server_rps >= 60", spread("server_rps", 0, 0, 50), "FAIL", "server_rps 0 [0, 50] is not >= 60"),
        ("server_rps <= 90", UNBROKEN, "FAIL", "server_rps 100 or more is not <= 90"),
        ("server_rps >= 90", {"server_rps": 100.0}, "PASS", "server_rps 100 or more is >= 90"),
    ],
)
def test_a_search_is_judged_by_what_it_knows(
    rule: str, figures: dict[str, float], outcome: str, text: str, confidence: str
) -> None:
    check = checked(rule + confidence, figures)
    assert (check.outcome, check.text) == (outcome, text)


def test_a_check_survives_json_where_the_search_has_no_end_above() -> None:
    check = checked("server_rps >= 1000", UNBROKEN)
    assert (check.value, check.interval) == (100, None)
    assert msgspec.json.decode(msgspec.json.encode(check), type=Check) == check


@pytest.mark.parametrize(
    ("factor", "teacher", "outcome"),
    [
        (0.9, FOUND, "PASS"),
        (1.0, FOUND, "INCONCLUSIVE"),
        (1.1, FOUND, "FAIL"),
        (0.5, UNBROKEN, "INCONCLUSIVE"),
        (1.1, UNBROKEN, "FAIL"),
        (0.0, UNBROKEN, "PASS"),
    ],
)
def test_two_searches_are_held_against_each_other_by_their_ends(
    factor: float, teacher: dict[str, float], outcome: str
) -> None:
    assert checked(f"server_rps >= {factor} * teacher", FOUND, teacher).outcome == outcome


def test_an_end_of_a_search_is_a_number_like_any_other() -> None:
    assert checked("server_rps_low >= 101", FOUND).outcome == "FAIL"
    assert checked("server_rps_high >= 101", FOUND).outcome == "PASS"
    assert checked("server_rps_high >= 101", UNBROKEN).outcome == "INCONCLUSIVE"


# -- with confidence, against a baseline -------------------------------------------------------------------------------

TIMES = (spread("p95_ms", 4, 5, 6), spread("p95_ms", 8, 10, 12))
RATIO = spread("p95_ms/teacher-onnx-fp32", 0.45, 0.5, 0.55)


@pytest.mark.parametrize(("factor", "outcome"), [(0.55, "PASS"), (0.5, "INCONCLUSIVE"), (0.44, "FAIL")])
def test_the_ratio_that_was_measured_as_one_decides(factor: float, outcome: str) -> None:
    """The two intervals alone allow anything from 0.33 to 0.75."""
    check = checked(f"p95_ms <= {factor} * teacher with confidence", TIMES[0] | RATIO, TIMES[1])
    assert (check.outcome, check.ratio) == (outcome, (0.45, 0.5, 0.55))
    assert (check.value, check.bound, check.interval) == (5, factor * 10, (4, 6))


def test_a_ratio_is_told_with_what_it_is_over() -> None:
    rule = "p95_ms <= 0.6 * teacher with confidence"
    assert checked(rule, TIMES[0] | RATIO, TIMES[1]).text == (
        "p95_ms over teacher-onnx-fp32's 0.5 [0.45, 0.55] is <= 0.6"
    )


@pytest.mark.parametrize(
    ("factor", "outcome"), [(0.75, "PASS"), (0.7, "INCONCLUSIVE"), (0.4, "INCONCLUSIVE"), (0.33, "FAIL")]
)
def test_without_such_a_ratio_both_intervals_are_taken_at_their_unfavourable_ends(factor: float, outcome: str) -> None:
    check = checked(f"p95_ms <= {factor} * teacher with confidence", *TIMES)
    assert (check.outcome, check.ratio) == (outcome, None)


def test_two_intervals_are_told_with_where_the_bound_is_from() -> None:
    assert checked("p95_ms <= 0.75 * teacher with confidence", *TIMES).text == (
        "p95_ms 5 [4, 6] is <= 7.5 [6, 9] (0.75 * 10 of teacher-onnx-fp32)"
    )


@pytest.mark.parametrize(
    ("factor", "outcome"), [(0.9, "PASS"), (0.95, "INCONCLUSIVE"), (1.05, "INCONCLUSIVE"), (1.2, "FAIL")]
)
def test_a_metric_of_which_more_is_better_is_held_against_the_baseline_s_upper_end(factor: float, outcome: str) -> None:
    figures = spread("accuracy", 0.85, 0.9, 0.92), spread("accuracy", 0.86, 0.91, 0.93)
    assert checked(f"accuracy >= {factor} * teacher with confidence", *figures).outcome == outcome


@pytest.mark.parametrize(("factor", "outcome"), [(-0.5, "PASS"), (-0.25, "INCONCLUSIVE"), (-0.2, "FAIL")])
def test_a_negative_factor_turns_the_interval_round(factor: float, outcome: str) -> None:
    figures = spread("spearman", -0.2, -0.2, -0.2), spread("spearman", 0.5, 0.7, 0.9)
    assert checked(f"spearman >= {factor} * teacher with confidence", *figures).outcome == outcome


def test_a_baseline_without_an_interval_is_named() -> None:
    check = checked("p95_ms <= 0.5 * teacher with confidence", TIMES[0], {"p95_ms": 10.0})
    assert (check.outcome, check.text) == (
        "INCONCLUSIVE",
        "p95_ms of teacher-onnx-fp32 has no interval to be sure by: measure in 5 processes or more, or leave "
        "'with confidence' out",
    )


def test_a_variant_is_exactly_once_itself() -> None:
    for factor, outcome in ((1.0, "PASS"), (0.99, "FAIL")):
        check = checked(f"p95_ms <= {factor} * student-onnx-int8 with confidence", TIMES[0])
        assert (check.outcome, check.ratio) == (outcome, (1, 1, 1))
