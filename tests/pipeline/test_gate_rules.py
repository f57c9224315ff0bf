"""Rules as people write them, and what is refused before anything is measured."""

from pathlib import Path

import pytest

from benchmarks import measure
from pipeline import gate_rules
from pipeline.errors import BadRequest
from pipeline.gate_rules import parse_rule, parse_rules, require_measurable, require_targets
from pipeline.weighted_metrics import METRICS

TEACHER, SMALL = "teacher-onnx-fp32", "student-onnx-fp32"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("accuracy >= 0.95 * teacher", ("accuracy", ">=", 0.95, TEACHER)),
        ("p95_ms<=0.5*teacher", ("p95_ms", "<=", 0.5, TEACHER)),
        ("  size_mb < 30 ", ("size_mb", "<", 30.0, None)),
        ("p50_ms_short > 1e-3", ("p50_ms_short", ">", 0.001, None)),
        ("in_scope_refused_high <= 0.05", ("in_scope_refused_high", "<=", 0.05, None)),
        ("p95_ms_high <= 1 * student-onnx-fp32", ("p95_ms_high", "<=", 1.0, SMALL)),
        ("agreement >= 0.98", ("agreement", ">=", 0.98, None)),
        ("server_rps >= 1.0 * champion", ("server_rps", ">=", 1.0, "champion")),
    ],
)
def test_rules_are_read_as_written(text: str, rule: tuple[object, ...]) -> None:
    parsed = parse_rule(text)
    assert (parsed.metric, parsed.op, parsed.factor, parsed.baseline) == rule
    assert (parsed.target, parsed.confident) == (None, False)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("p95_ms <= 5 at edge", ("p95_ms", None, "edge", False)),
        ("p95_ms <= 5 with confidence", ("p95_ms", None, None, True)),
        ("p95_ms <= 5  at  c7g.large  with  confidence", ("p95_ms", None, "c7g.large", True)),
        ("p99_ms_real<=1.0*teacher at ort-cpu with confidence", ("p99_ms_real", TEACHER, "ort-cpu", True)),
        ("rss_mb <= 1 * champion at edge", ("rss_mb", "champion", "edge", False)),
    ],
)
def test_a_rule_may_name_its_target_and_ask_for_confidence(text: str, rule: tuple[object, ...]) -> None:
    parsed = parse_rule(text)
    assert (parsed.metric, parsed.baseline, parsed.target, parsed.confident) == rule
    assert parsed.text == " ".join(text.split())


HELP = """
  grammar:  metric op bound [* baseline] [at target] [with confidence], op one of >= <= > <,
            baseline 'teacher', 'champion' or a variant's name
  metrics:  accuracy, macro_f1, micro_f1, entity_f1, matthews, pearson, spearman, mse, oos_auroc, oos_refused, \
in_scope_refused, p50_ms, p95_ms, p99_ms, p50_ms_short, p95_ms_short, p99_ms_short, p50_ms_real, p95_ms_real, \
p99_ms_real, speedup_p50, cold_start_ms, server_rps, peak_mb, rss_mb, size_mb, params, batch_difference, \
batch_flips, drop, flips, ece, agreement;
            with _low or _high for an end of the 95 % interval where there is one
  example:  accuracy >= 0.95 * teacher with confidence"""


@pytest.mark.parametrize(
    "text",
    [
        *("accuracy", "accuracy == 1", "accuracy >= teacher", "accuracy >= 0.9 teacher", "accuracy >= nan", ""),
        *("p95_ms <= 5at edge", "p95_ms <= 5 at", "p95_ms <= 5 with", "p95_ms <= 5 confidence"),
        *("p95_ms <= 5 with confidence at edge", "p95_ms <= 5 at edge at core", "p95_ms <= 5 with little confidence"),
    ],
)
def test_a_rule_that_cannot_be_read_is_answered_with_the_grammar(text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_rule(text)
    assert str(refused.value) == f"rule '{text}' cannot be read.{HELP}"


@pytest.mark.parametrize(
    ("metric", "hint"),
    [
        ("p90_ms", ""),
        ("p99.9_ms", ", which would take 10,000 samples"),
        ("p99.999_ms_short", ", which would take 1,000,000 samples"),
        ("p100_ms", ""),
        ("speed", ""),
    ],
)
def test_a_metric_nobody_measures_is_answered_with_the_known_ones_and_with_what_it_would_take(
    metric: str, hint: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_rule(f"{metric} <= 3")
    assert str(refused.value) == f"rule '{metric} <= 3': nobody measures '{metric}'{hint}.{HELP}"


def test_confidence_in_an_end_of_an_interval_is_refused() -> None:
    with pytest.raises(BadRequest) as refused:
        parse_rule("p95_ms_high <= 5 with confidence")
    assert str(refused.value) == (
        "rule 'p95_ms_high <= 5 with confidence': 'p95_ms_high' is an end of the interval already; write 'p95_ms ... "
        "with confidence', or leave 'with confidence' out"
    )


@pytest.mark.parametrize("metric", ["drop", "flips_high"])
def test_what_a_champion_lost_to_its_own_fp32_is_not_known_here(metric: str) -> None:
    figure = metric.removesuffix("_high")
    with pytest.raises(BadRequest) as refused:
        parse_rule(f"{metric} <= 1 * champion")
    assert str(refused.value) == (
        f"rule '{metric} <= 1 * champion': nobody measures '{figure}' of the champion, whose own fp32 is not measured "
        "beside it; compare the metric itself with the champion's, as in 'accuracy >= 0.99 * champion'"
    )


def test_a_gate_without_rules_is_refused() -> None:
    with pytest.raises(BadRequest) as refused:
        parse_rules([])
    assert str(refused.value) == f"the gate has no rules and would pass anything: give at least one.{HELP}"


def test_it_is_known_whether_the_champion_has_to_be_measured() -> None:
    assert gate_rules.names_champion(parse_rules(["size_mb <= 3", "p95_ms <= 1 * champion"]))
    assert not gate_rules.names_champion(parse_rules(["size_mb <= 3", "p95_ms <= 1 * teacher"]))


# -- before measuring --------------------------------------------------------------------------------------------------


def test_a_rule_at_a_target_that_is_not_measured_is_refused() -> None:
    rules = parse_rules(["size_mb <= 3", "p95_ms <= 3 at egde"])
    require_targets(rules, ["here", "egde"])
    with pytest.raises(BadRequest) as refused:
        require_targets(rules, ["here", "edge"])
    assert str(refused.value) == "rule 'p95_ms <= 3 at egde': nothing is measured at 'egde'; targets are: here, edge"


@pytest.mark.parametrize(
    ("metric", "needed"),
    [("p50_ms", 20), ("p95_ms", 200), ("p95_ms_short", 200), ("p99_ms", 1000), ("p99_ms_high", 1000)],
)
def test_a_percentile_is_refused_where_fewer_samples_are_taken_than_it_needs(metric: str, needed: int) -> None:
    rules = parse_rules([f"{metric} <= 3"])
    require_measurable(rules, n=needed)
    with pytest.raises(BadRequest):
        require_measurable(rules, n=needed - 1)


def test_the_refusal_of_a_percentile_says_what_it_takes() -> None:
    with pytest.raises(BadRequest) as refused:
        require_measurable(parse_rules(["size_mb <= 3", "p99_ms <= 3"]), n=50)
    assert str(refused.value) == (
        "rule 'p99_ms <= 3': a p99 takes 1,000 samples, 10 of them beyond it, and 50 are taken: raise "
        "benchmark.samples or benchmark.processes until their product is 1,000, or ask for a lower percentile"
    )


def test_texts_as_they_come_have_a_number_of_samples_of_their_own() -> None:
    rules = parse_rules(["p99_ms_real <= 3"])
    require_measurable(rules, n=50, real=1000)
    require_measurable(rules, n=1000)
    with pytest.raises(BadRequest, match=r"and 500 are taken: raise benchmark\.real or benchmark\.processes until"):
        require_measurable(rules, n=1000, real=500)


@pytest.mark.parametrize("rule", ["p95_ms <= 3 with confidence", "p95_ms_high <= 3", "rss_mb_high <= 3"])
@pytest.mark.parametrize(("processes", "are"), [(1, "is"), (4, "are")])
def test_an_interval_takes_five_processes(rule: str, processes: int, are: str) -> None:
    require_measurable(parse_rules([rule]), n=200, processes=5)
    others = ["p95_ms <= 3", "accuracy >= 0.5 with confidence", "server_rps >= 3 with confidence"]
    require_measurable(parse_rules(others), n=200, processes=1)
    with pytest.raises(BadRequest) as refused:
        require_measurable(parse_rules([rule]), n=200, processes=processes)
    assert str(refused.value) == (
        f"rule '{rule}': a 95 % interval takes 5 processes or more, and {processes} {are} asked for: raise "
        "benchmark.processes, or ask for the figure without its interval"
    )


def test_the_settings_are_named_as_they_are_where_they_are_set() -> None:
    rules = parse_rules(["p95_ms_real <= 3 with confidence"])
    with pytest.raises(BadRequest, match=r"raise --processes, or ask for the figure without its interval$"):
        require_measurable(rules, n=200, processes=1, setting="--")
    with pytest.raises(BadRequest, match=r"raise --real or --processes until their product is 200, or"):
        require_measurable(rules, n=200, real=10, setting="--")


@pytest.mark.parametrize("figure", ["peak_mb", "batch_difference", "batch_flips"])
@pytest.mark.parametrize(
    ("end", "confidence", "without"),
    [("", " with confidence", "with confidence"), ("_low", "", "_low"), ("_high", "", "_high")],
)
def test_what_never_has_an_interval_is_not_asked_for_one(figure: str, end: str, confidence: str, without: str) -> None:
    rule = f"{figure}{end} <= 3{confidence}"
    with pytest.raises(BadRequest) as refused:
        parse_rule(rule)
    assert str(refused.value) == (
        f"rule '{rule}': '{figure}' never has an interval; ask for '{figure}' itself, without '{without}'"
    )


def test_what_is_known_exactly_has_no_ends_but_every_confidence() -> None:
    assert parse_rule("size_mb <= 3 with confidence").confident
    with pytest.raises(BadRequest, match=r"'params' never has an interval; ask for 'params' itself, without '_high'$"):
        parse_rule("params_high <= 3")


# -- facts that stand elsewhere too ------------------------------------------------------------------------------------


def test_a_gate_may_name_every_metric_of_a_task_and_what_is_made_of_them() -> None:
    no_task_reports = {"auroc"}
    assert set(gate_rules.TASK_METRICS) == {*METRICS, *gate_rules.REFUSAL_METRICS} - no_task_reports


def test_the_samples_beyond_a_percentile_are_those_that_the_measuring_half_asks_for() -> None:
    assert gate_rules.BEYOND == measure.BEYOND
    for percent in (50, 95, 99):
        needed = gate_rules.samples_needed(str(percent))
        assert measure.percentile_ms([1] * needed, percent=percent) is not None
        assert measure.percentile_ms([1] * (needed - 1), percent=percent) is None


def test_every_metric_is_explained_to_people() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "gates.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    explained = [name for row in rows for name in row.replace("`", " ").split()]
    assert sorted(explained) == sorted(gate_rules.KNOWN)
