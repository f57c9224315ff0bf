"""The page, the comment and the test results of a finished run."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import manifest_of
from receipts import INT8, SMALL, figures_of, receipt

from benchmarks.receipt import write_receipt
from pipeline import gates
from pipeline.artifact import Artifact
from pipeline.errors import BadArtifact
from pipeline.telling import write_told


def artifact(folder: Path, facts: dict[str, Any]) -> Artifact:
    folder.mkdir(exist_ok=True)
    return Artifact(folder, manifest_of("key", {}, facts=facts))


@pytest.fixture
def benchmark(tmp_path: Path) -> Artifact:
    found = artifact(tmp_path / "benchmark", {"metric": "accuracy", "figures": figures_of(receipt())})
    write_receipt(receipt(), found.path)
    return found


def test_a_run_with_a_verdict_has_a_page_a_comment_and_test_results(benchmark: Artifact, tmp_path: Path) -> None:
    rules = gates.parse_rules(["accuracy >= 0.95 * teacher"])
    verdict = gates.judge(rules, benchmark.manifest.facts["figures"], [SMALL, INT8])
    register = artifact(tmp_path / "register", {"verdict": msgspec.to_builtins(verdict), "registered": None})
    folder = tmp_path / "runs" / "tickets"
    assert [path.relative_to(folder).as_posix() for path in write_told("tickets", benchmark, register, folder)] == [
        "report.html",
        "outcome.md",
        "junit.xml",
    ]
    assert (folder / "outcome.md").read_text(encoding="utf-8").startswith("## PASS: tickets\n")
    assert "<h1>tickets</h1>" in (folder / "report.html").read_text(encoding="utf-8")


def test_both_answers_of_a_gate_are_told_to_all_who_read(benchmark: Artifact, tmp_path: Path) -> None:
    """The second one, which registers it all the same, is a test case that is skipped where it is not kept."""
    questions = gates.questions_of(gates.parse_rules(["accuracy >= 0.5 * teacher", "size_mb <= 0.5 * champion"]))
    figures = {**benchmark.manifest.facts["figures"]}
    figures["champion"] = figures[INT8]
    verdict = gates.judge(questions.own, figures, [INT8], against=questions.against)
    assert (verdict.verdict, verdict.promotion) == ("PASS", "FAIL")
    register = artifact(tmp_path / "register", {"verdict": msgspec.to_builtins(verdict), "registered": None})
    page, comment, cases = (path.read_text(encoding="utf-8") for path in write_told("t", benchmark, register, tmp_path))
    for told in (page, comment, cases):
        assert "against the champion FAIL: size" in told
    assert comment.startswith("## PASS: t\n")
    assert 'tests="2" failures="0" errors="0">' in cases
    assert '<skipped message="FAIL: size_mb 22.5 is not &lt;= 11.25 (0.5 * 22.5 of champion)">' in cases


def test_a_run_that_stopped_before_its_gate_has_no_test_results(benchmark: Artifact, tmp_path: Path) -> None:
    assert [path.name for path in write_told("tickets", benchmark, None, tmp_path)] == ["report.html", "outcome.md"]


def test_a_receipt_of_another_version_is_refused(benchmark: Artifact, tmp_path: Path) -> None:
    (benchmark.path / "receipt.json").write_text('{"schema": 1}')
    with pytest.raises(BadArtifact, match="is a receipt of schema 1, and this version reads 2"):
        write_told("tickets", benchmark, None, tmp_path)
