"""Markdown for a comment and JUnit XML for CI, of a session's receipt and the gate's verdict."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as Xml

import msgspec
import pytest
from receipts import INT8, NOISE, SMALL, TEACHER, figures_of, measured, receipt, server

from benchmarks.outcomes import junit, markdown, write_outcomes
from benchmarks.receipt import Receipt
from benchmarks.shown import NONE, Outcomes, rules_table, variants_table
from pipeline import gates
from serving.errors import BadRequest

RULES = ("accuracy >= 0.95 * teacher", "p95_ms <= 0.3 * teacher with confidence", "server_rps >= 100")


def told(
    rules: tuple[str, ...] = RULES,
    *,
    against: tuple[str, ...] = (),
    of: Receipt | None = None,
    title: str = "tickets",
) -> Outcomes:
    """Of a gate with these rules of its own, and those `against` the champion, which is the teacher."""
    of = of or receipt()
    figures = figures_of(of)
    figures |= {"champion": figures[TEACHER]}
    champion = gates.parse_rules(against) if against else ()
    verdict = gates.judge(gates.parse_rules(rules), figures, [SMALL, INT8], against=champion)
    return Outcomes(title, of, figures, metric="accuracy", verdict=verdict)


def rows_of(text: str) -> list[list[str]]:
    """The cells of every table line of a Markdown text."""
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]


def test_the_comment_opens_with_the_verdict_and_its_reason() -> None:
    lines = markdown(told(RULES[:2])).splitlines()
    assert lines[0] == "## PASS: tickets"
    assert lines[2].startswith("student-onnx-int8 passes every rule: accuracy 0.878 is >= 0.855 (0.95 * 0.9 of ")


def test_every_rule_of_every_candidate_has_a_row_with_its_figure_and_interval() -> None:
    found = told()
    assert found.verdict is not None
    table = rules_table(found.verdict)
    assert table.headings == ("outcome", "candidate", "rule", "figure [95 %]", "why")
    assert [row[:3] for row in table.rows] == [
        (outcome, name, rule)
        for name, outcomes in ((SMALL, ("PASS", "FAIL")), (INT8, ("PASS", "PASS")))
        for outcome, rule in zip((*outcomes, "INCONCLUSIVE"), RULES, strict=True)
    ]
    assert (table.rows[0][3], table.rows[2][3]) == ("0.88 [0.87, 0.89]", NONE)
    assert all(list(row) in rows_of(markdown(found)) for row in table.rows)


def test_a_variant_s_row_has_what_there_is_of_it() -> None:
    table = variants_table(told())
    assert [row[0] for row in table.rows] == [TEACHER, SMALL, INT8]
    assert table.headings == (
        "variant",
        "accuracy [95 %]",
        "64 tokens: p50 / p95 / p99 ms",
        "p95 ms, 64 tokens [95 %]",
        "16 tokens: p50 / p95 / p99 ms",
        "texts as they come: p50 / p95 / p99 ms",
        "p95 over that of teacher-onnx-fp32 [95 %]",
        "cold start ms",
        "resident MB",
        "file MB",
    )
    int8 = dict(zip(table.headings, table.rows[2], strict=True))
    assert (int8["accuracy [95 %]"], int8["cold start ms"], int8["file MB"]) == ("0.878 [0.868, 0.888]", "200", "22.5")
    assert int8["64 tokens: p50 / p95 / p99 ms"].endswith(f" / {NONE}"), "500 samples have no p99"
    assert table.rows[0][6] == NONE, "the teacher is compared with nobody"


def test_a_column_appears_where_one_variant_has_the_figure() -> None:
    served = measured(INT8, server=server((100.0, 9.0), (200.0, 30.0), best_rps=100.0))
    table = variants_table(told(of=receipt([measured(TEACHER), measured(SMALL), served])))
    at = table.headings.index("requests/s within the bound")
    assert [row[at] for row in table.rows] == [NONE, NONE, "100"]


def test_a_rate_that_is_not_known_is_explained() -> None:
    lagged = server((100.0, 9.0), best_rps=None, void="the generator lagged")
    text = markdown(told(of=receipt([measured(TEACHER), measured(SMALL), measured(INT8, server=lagged)])))
    assert "the rate of requests that student-onnx-int8 keeps up is not known: the generator lagged" in text


def test_without_a_gate_the_comment_is_of_the_session_alone() -> None:
    text = markdown(Outcomes("tickets", receipt()))
    assert text.startswith("## tickets\n\n| variant |")
    assert "accuracy" not in text


def test_a_disturbed_session_says_so_before_any_fold_and_names_the_noise() -> None:
    text = markdown(told(of=receipt(findings=(NOISE,), attempts=4)))
    opening, folded = text.split("<details>")
    assert "**Disturbed:** noise in 1 of 15 processes after 4 attempts: " in opening
    assert folded.startswith("<summary>1 finding of noise; the machine</summary>")
    assert f"- {NOISE.told}" in folded


def test_a_quiet_session_says_what_was_set_aside_and_what_the_machine_hides() -> None:
    text = markdown(told(of=receipt(set_aside=(NOISE,))))
    assert "<summary>No findings of noise; the machine</summary>" in text
    assert "- No detector found noise in these samples." in text
    assert f"- Set aside and measured again: {NOISE.told}" in text
    assert "- the governor of the cores" in text
    assert ["CPU", "Testor 9000"] in rows_of(text)


def test_names_do_not_become_markup() -> None:
    text = markdown(Outcomes("a|b <i>*x*</i> __c__ `d` [e](f)\n# g p95_ms 2 * 3", receipt()))
    assert text.splitlines()[0] == (r"## a\|b \<i>\*x\*\</i> \_\_c\_\_ \`d\` [e\](f) # g p95_ms 2 * 3")


def test_junit_has_a_suite_a_candidate_and_a_case_a_rule() -> None:
    root = Xml.fromstring(junit(told()))
    assert root.attrib == {"name": "tickets", "tests": "6", "failures": "1", "errors": "2"}
    suites = root.findall("testsuite")
    assert [(suite.get("name"), suite.get("failures"), suite.get("errors")) for suite in suites] == [
        (SMALL, "1", "1"),
        (INT8, "0", "1"),
    ]
    assert [(case.get("classname"), case.get("name")) for case in suites[0].findall("testcase")] == [
        (SMALL, rule) for rule in RULES
    ]


def test_junit_tells_a_failure_from_an_error_with_its_reason() -> None:
    passed, failed, unknown = Xml.fromstring(junit(told())).findall("testsuite")[0].findall("testcase")
    assert [child.tag for child in passed] == ["system-out"]
    assert passed[0].text == "accuracy 0.88 is >= 0.855 (0.95 * 0.9 of teacher-onnx-fp32)"
    assert (failed[0].tag, failed[0].get("type")) == ("failure", "FAIL")
    assert str(failed[0].get("message")).startswith("p95_ms over teacher-onnx-fp32's 0.")
    assert (unknown[0].tag, unknown[0].get("type")) == ("error", "INCONCLUSIVE")
    assert unknown[0].get("message") == unknown[0].text
    assert "server_rps of student-onnx-fp32 is not known" in str(unknown[0].text)


def test_a_version_that_stays_challenger_is_no_failure_for_ci() -> None:
    against = ("accuracy >= 1.01 * champion", "server_rps >= 1.0 * champion", "p95_ms <= 1.0 * champion")
    found = told(RULES[:1], against=against)
    assert found.verdict is not None
    assert (found.verdict.verdict, found.verdict.chosen) == ("PASS", INT8)
    root = Xml.fromstring(junit(found))
    assert root.attrib == {"name": "tickets", "tests": "8", "failures": "0", "errors": "0"}
    suites = root.findall("testsuite")
    assert [suite.get("skipped") for suite in suites] == ["2", "2"]
    own, worse, unknown, kept = ([*case] for case in suites[0].findall("testcase"))
    assert [child.tag for child in (*own, *worse, *unknown, *kept)] == [
        "system-out",
        "skipped",
        "skipped",
        "system-out",
    ]
    assert worse[0].get("message") == f"FAIL: {worse[0].text}"
    assert worse[0].text == "accuracy 0.88 is not >= 0.909 (1.01 * 0.9 of champion)"
    assert str(unknown[0].get("message")).startswith("INCONCLUSIVE: server_rps of student-onnx-fp32 is not known")


def test_a_candidate_that_was_passed_over_for_one_that_passes_is_no_failure_for_ci() -> None:
    found = told(RULES[:2])
    assert found.verdict is not None
    assert (found.verdict.verdict, found.verdict.chosen) == ("PASS", INT8)
    root = Xml.fromstring(junit(found))
    assert root.attrib == {"name": "tickets", "tests": "4", "failures": "0", "errors": "0"}
    over, chosen = root.findall("testsuite")
    assert (over.get("name"), over.get("skipped"), chosen.get("skipped")) == (SMALL, "1", "0")
    (slow,) = over.findall("testcase/skipped")
    assert str(slow.get("message")).startswith("FAIL: p95_ms over teacher-onnx-fp32's 0.")


def test_where_nobody_passes_all_that_is_not_kept_is_red() -> None:
    root = Xml.fromstring(junit(told(("accuracy >= 0.99", "p95_ms <= 0.3 * teacher with confidence"))))
    assert root.attrib == {"name": "tickets", "tests": "4", "failures": "3", "errors": "0"}


def test_a_bundle_that_somebody_calls_champion_is_judged_by_rules_as_any_other() -> None:
    root = Xml.fromstring(junit(told(("accuracy >= 1.01 * champion",))))
    assert root.attrib == {"name": "tickets", "tests": "2", "failures": "2", "errors": "0"}


def test_every_suite_says_where_and_what_the_verdict_is() -> None:
    for suite in Xml.fromstring(junit(told(RULES[:2]))).findall("testsuite"):
        found = {each.get("name"): each.get("value") for each in suite.findall("properties/property")}
        assert (found["verdict"], found["chosen"], found["CPU"], found["target"]) == (
            "PASS",
            INT8,
            "Testor 9000",
            "here",
        )


def test_what_xml_cannot_hold_is_replaced() -> None:
    root = Xml.fromstring(junit(told(title='a\x00b\x1bc <&" d')))
    assert root.get("name") == 'a\ufffdb\ufffdc <&" d'


def test_junit_without_a_gate_is_refused() -> None:
    with pytest.raises(BadRequest) as caught:
        junit(Outcomes("tickets", receipt()))
    assert str(caught.value) == (
        "JUnit XML has a test case for each rule of a gate, and no gate was asked: give it rules"
    )


def test_both_are_written_where_a_gate_was_asked(tmp_path: Path) -> None:
    found = told()
    assert write_outcomes(found, tmp_path) == (tmp_path / "outcome.md", tmp_path / "junit.xml")
    assert (tmp_path / "outcome.md").read_text(encoding="utf-8") == markdown(found)
    alone = tmp_path / "alone"
    alone.mkdir()
    assert write_outcomes(Outcomes("tickets", receipt(), figures_of(receipt())), alone) == (alone / "outcome.md",)


def test_a_figure_of_another_target_keeps_its_own_interval() -> None:
    mine = receipt()
    elsewhere = {
        name: {**each, "p95_ms": 1.5, "p95_ms_low": 1.4, "p95_ms_high": 1.6} for name, each in figures_of(mine).items()
    }
    verdict = gates.judge(
        gates.parse_rules(["p95_ms <= 2 at cluster"]),
        figures_of(mine),
        [INT8],
        figures_by_target={"here": figures_of(mine), "cluster": elsewhere},
    )
    assert rules_table(verdict).rows[0][3] == "1.5 [1.4, 1.6]"


def test_a_verdict_read_from_its_file_tells_the_same() -> None:
    found = told()
    again = msgspec.convert(msgspec.to_builtins(found.verdict), gates.Verdict)
    assert junit(Outcomes(found.title, found.receipt, found.figures, "accuracy", again)) == junit(found)


def test_the_tests_of_an_earlier_session_do_not_stay_where_no_gate_was_asked(tmp_path: Path) -> None:
    assert [path.name for path in write_outcomes(told(), tmp_path)] == ["outcome.md", "junit.xml"]
    assert [path.name for path in write_outcomes(replace(told(), verdict=None), tmp_path)] == ["outcome.md"]
    assert not (tmp_path / "junit.xml").exists()
