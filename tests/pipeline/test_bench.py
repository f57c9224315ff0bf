"""`retort bench` as a function: sessions of tiny bundles, what is judged of them, and what is left."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import WORDS, tiny_bundle
from receipts import NOISE

from benchmarks import session
from benchmarks.receipt import Load, Receipt, read_receipt, sealed
from benchmarks.targets import OpenVino, OrtCpu, OrtCuda
from pipeline.bench import Asked, Benched, bench
from pipeline.bench_checks import require_judged, with_own_teacher
from pipeline.bench_inputs import Given, read_bundles, read_labelled
from pipeline.errors import BadRequest, GateFailed, Inconclusive
from pipeline.gates import TEACHER, parse_rules, require_pass
from pipeline.progress import Silent
from serving.bundle import TaskKind

LOAD = Load(lengths=(5, 12), n=20, processes=1, real=6, again_s=0.0)
ITEMS = tuple((f"{one} {other} {third}",) for one in WORDS for other in WORDS for third in WORDS[:2])
Ask = Callable[..., Asked]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether these machines are quiet is not what is tested; and pages, which take seconds, are tested elsewhere."""
    monkeypatch.setattr("benchmarks.page.write_page", lambda _told, path: path.touch())
    monkeypatch.setattr(session, "measure_until_quiet", lambda measure, load: without_noise(measure, load))


def without_noise(measure: Any, load: Load) -> Any:
    from benchmarks.collect import Kept

    return Kept(tuple(measure(i) for i in range(load.processes)), (), ()), 1


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Bundles `old` and `new` of which the latter leans to one label, on the engine, with these changes."""

    def asked(task: TaskKind = "classification", **changes: Any) -> Asked:
        for name, bias in (("old", 0.0), ("new", 3.0)):
            tiny_bundle(tmp_path / name, name=name, bias=bias, task=task)
        bundles = read_bundles([str(tmp_path / "old"), str(tmp_path / "new")])
        rules = parse_rules(changes.pop("gate")) if "gate" in changes else ()
        settings = {
            "targets": {"ort-cpu": OrtCpu(threads=1)},
            "given": Given(ITEMS),
            "load": LOAD,
            "baseline": "old",
            "out": tmp_path / "out",
        }
        return Asked(bundles=bundles, rules=rules, **{**settings, **changes})  # type: ignore[arg-type]

    return asked


def labelled(tmp_path: Path, asked: Asked) -> Given:
    """Every item with the label that most of its words vote for."""
    rows = []
    for (text,) in ITEMS:
        votes = [sum(WORDS.index(word) % 2 == label for word in text.split()) for label in (0, 1)]
        rows.append({"text": text, "label": ("negative", "positive")[int(votes[1] > votes[0])]})
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = asked.bundles["old"].spec
    return read_labelled(tmp_path / "test.jsonl", spec, text=None, label=None, cache=tmp_path / "cache")


def test_without_labels_bundles_are_compared_by_how_often_they_answer_alike(ask: Ask) -> None:
    asked = ask()
    found = bench(asked, Silent())
    figures = found.figures["ort-cpu"]
    assert found.metric == "agreement"
    assert figures["old"]["agreement"] == 1.0
    assert figures["new"]["agreement_low"] < figures["new"]["agreement"] < 1.0
    assert {"p50_ms", "p50_ms_short", "rss_mb", "cold_start_ms", "size_mb", "p50_ms/old"} <= figures["new"].keys()
    assert found.verdict is None
    assert found.told(asked)["verdict"] is None


def test_with_labels_they_are_judged_by_the_task_s_metrics(ask: Ask, tmp_path: Path) -> None:
    asked = ask()
    found = bench(ask(given=labelled(tmp_path, asked)), Silent())
    figures = found.figures["ort-cpu"]
    assert found.metric == "accuracy"
    assert figures["old"]["accuracy"] == 1.0
    assert figures["new"]["accuracy"] == figures["new"]["agreement"] < 1.0
    assert "macro_f1_low" in figures["new"]


def test_answers_that_are_numbers_agree_never_and_never_disagree(ask: Ask) -> None:
    found = bench(ask("regression"), Silent())
    assert not [name for name in found.figures["ort-cpu"]["new"] if name.startswith("agreement")]
    assert all(math.isfinite(value) for value in found.figures["ort-cpu"]["new"].values())


def test_everything_is_left_in_the_folder(ask: Ask, tmp_path: Path) -> None:
    asked = ask(gate=["agreement >= 0.5"])
    found = bench(asked, Silent())
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    assert names == {"receipt.json", "figures.json", "logits", "outcome.md", "junit.xml", "report.html"}
    assert read_receipt(out) == found.receipts["ort-cpu"]
    assert read_receipt(out).target == "ort-cpu"
    assert json.loads((out / "figures.json").read_text()) == found.figures["ort-cpu"]
    assert "old, new on ort-cpu" in (out / "outcome.md").read_text()
    told = found.told(asked)
    assert told["targets"]["ort-cpu"]["receipt"] == str(out / "receipt.json")
    assert (told["verdict"], told["skipped"]) == ("PASS", {})


def test_the_gate_judges_all_but_the_baseline(ask: Ask) -> None:
    found = bench(ask(gate=["agreement >= 0.99"]), Silent())
    assert found.verdict is not None
    assert [each.variant for each in found.verdict.candidates] == ["new"]
    with pytest.raises(GateFailed, match=r"^FAIL: no variant passes: new: agreement 0\.\d+ is not >= 0\.99$"):
        require_pass(found.verdict)


def test_one_bundle_alone_is_judged_itself(ask: Ask) -> None:
    asked = ask(gate=["size_mb <= 1"])
    alone = Asked(**{**vars(asked), "bundles": {"new": asked.bundles["new"]}, "baseline": "new"})
    verdict = bench(alone, Silent()).verdict
    assert verdict is not None
    assert verdict.chosen == "new"


def test_a_disturbed_session_gives_no_verdict_on_times(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def disturbed(*arguments: Any, **settings: Any) -> Receipt:
        found = session_of(*arguments, **settings)
        return sealed(msgspec.structs.replace(found, findings=(NOISE,)))

    session_of = session.run_session
    monkeypatch.setattr(session, "run_session", disturbed)
    found = bench(ask(gate=["p50_ms <= 1000", "size_mb <= 1"]), Silent())
    assert found.verdict is not None
    assert [check.outcome for check in found.verdict.candidates[0].checks] == ["INCONCLUSIVE", "PASS"]
    with pytest.raises(Inconclusive, match=r"p50_ms of new cannot be trusted: noise in 1 of 2 processes"):
        require_pass(found.verdict)


def test_every_target_has_a_session_of_its_own_and_rules_name_it(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    targets = {"ort-cpu": OrtCpu(threads=1), "openvino": OpenVino(threads=1)}
    found = bench(ask(targets=targets, gate=["p50_ms <= 1000 at openvino", "p50_ms <= 1000"]), Silent())
    assert found.verdict is not None
    assert [each.target for each in found.verdict.candidates[0].checks] == ["openvino", "ort-cpu"]
    for kind in targets:
        assert read_receipt(tmp_path / "out" / kind).target == kind


def test_a_target_that_this_machine_is_not_is_skipped_with_the_reason(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OrtCuda, "missing", lambda _self: "an NVIDIA GPU")
    told: list[str] = []

    class Told(Silent):
        def line(self, text: str) -> None:
            told.append(text)

    asked = ask(targets={"ort-cuda": OrtCuda(), "ort-cpu": OrtCpu(threads=1)})
    found = bench(asked, Told())
    assert told == ["ort-cuda is skipped: it needs an NVIDIA GPU"]
    assert (found.skipped, list(found.receipts)) == ({"ort-cuda": "an NVIDIA GPU"}, ["ort-cpu"])
    with pytest.raises(BadRequest, match=r"^no target can run here: ort-cuda needs an NVIDIA GPU$"):
        bench(ask(targets={"ort-cuda": OrtCuda()}), Silent())


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("p99_ms <= 5", "rule 'p99_ms <= 5': a p99 takes 1,000 samples, 10 of them beyond it, and 20 are taken"),
        (
            "p95_ms_real <= 5",
            "rule 'p95_ms_real <= 5': a p95 takes 200 samples, 10 of them beyond it, and 6 are taken",
        ),
        ("p50_ms <= 5 at mars", "rule 'p50_ms <= 5 at mars': nothing is measured at 'mars'; targets are: ort-cpu"),
        (
            "p50_ms <= 5 with confidence",
            "rule 'p50_ms <= 5 with confidence': a 95 % interval takes 5 processes or more, and 1 is asked for: raise "
            "--processes, or ask for the figure without its interval",
        ),
        (
            "p50_ms <= 1 * typo",
            "rule 'p50_ms <= 1 * typo': no bundle is called 'typo'; there are old, new: name one of these, or call one "
            "so by typo=FOLDER",
        ),
        ("p50_ms <= 1 * champion", "rule 'p50_ms <= 1 * champion': no bundle is called 'champion'; there are old, new"),
        ("p50_ms <= 1 * teacher", "rule 'p50_ms <= 1 * teacher': no bundle is called 'teacher'; there are old, new"),
        (
            "accuracy >= 0.5",
            "rule 'accuracy >= 0.5': accuracy is judged on labelled examples: add --data; known here: agreement, ",
        ),
        (
            "server_rps_low >= 5",
            "rule 'server_rps_low >= 5': server_rps is measured under a bound on latency: add --bound-ms; known here: ",
        ),
        *(
            (f"{figure} <= 0.1", f"rule '{figure} <= 0.1': {figure} is measured in a run alone (`retort run`); known")
            for figure in ("drop", "flips", "ece")
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(
    ask: Ask, rule: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadRequest) as caught:
        bench(ask(gate=[rule]), Silent())
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "out").exists()


def test_a_metric_of_another_task_is_refused_although_there_are_labels(ask: Ask, tmp_path: Path) -> None:
    given = labelled(tmp_path, ask())
    with pytest.raises(BadRequest, match=r"^rule 'pearson >= 0.5': pearson is no metric of this task; known here: acc"):
        bench(ask(given=given, gate=["pearson >= 0.5"]), Silent())
    assert not (tmp_path / "out").exists()


def test_of_numbers_nobody_agrees(ask: Ask) -> None:
    with pytest.raises(BadRequest, match=r"agreement takes answers that are labels, and these are numbers"):
        bench(ask("regression", gate=["agreement >= 0.5"]), Silent())


def test_a_rate_is_asked_of_what_the_server_runs() -> None:
    targets = {"openvino": OpenVino(threads=1), "ort-cpu": OrtCpu(threads=1)}
    rules = parse_rules(["server_rps >= 5 at ort-cpu", "server_rps >= 5"])
    asked: Any = {"bundles": ["old"], "targets": targets, "metrics": None, "labels": True, "bounded": True}
    require_judged(rules[:1], **asked)
    with pytest.raises(BadRequest) as caught:
        require_judged(rules, **asked)
    assert str(caught.value) == (
        "rule 'server_rps >= 5': server_rps is measured at ort-cpu alone, which the server runs, and this asks at "
        "openvino: add 'at ort-cpu' and --target ort-cpu"
    )


def test_a_bundle_that_is_called_teacher_is_the_teacher(ask: Ask) -> None:
    asked = ask(gate=["size_mb <= 1 * teacher"])
    named = {"teacher": asked.bundles["old"], "new": asked.bundles["new"]}
    verdict = bench(replace(asked, bundles=named, baseline="teacher"), Silent()).verdict
    assert verdict is not None
    assert verdict.candidates[0].checks[0].baseline == "teacher"
    assert with_own_teacher(asked.rules, [TEACHER, "teacher"]) == asked.rules
    assert asked.rules[0].baseline == TEACHER


def test_told_is_json(ask: Ask) -> None:
    asked = ask()
    found: Benched = bench(asked, Silent())
    assert json.loads(msgspec.json.encode(found.told(asked)))["metric"] == "agreement"
