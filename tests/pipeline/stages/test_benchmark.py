"""benchmark as a stage: one session over real files, and what it leaves; how answers are judged is tested in
tests/pipeline/test_judging.py, measuring in tests/benchmarks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import WORDS, tiny_bundle
from models import task_of

from benchmarks.beside import Beside
from benchmarks.receipt import read_receipt
from benchmarks.targets import OrtCpu, OrtCuda
from pipeline import gates
from pipeline.artifact import EVIDENCE, Artifact
from pipeline.config import RunConfig
from pipeline.graph import Inputs, TaskSplits, Tools
from pipeline.progress import Silent
from pipeline.stages import benchmark
from pipeline.stages.benchmark import BenchmarkConfig
from pipeline.summary import show_run
from pipeline.tasking.base import ALL
from pipeline.workspace import Workspace
from serving.bundle import read_bundle
from serving.registry import Resolved

NAMES = ("teacher-onnx-fp32", "student-onnx-fp32", "student-onnx-int8")


class Reigning:
    """A champion in a folder."""

    source = "models:/tiny@champion"

    def __init__(self, path: Path) -> None:
        self.path = path

    def identity(self, cache: Path) -> str:
        return read_bundle(self.path).digest

    def rival(self, cache: Path, **own: Any) -> Resolved:
        labels = ("negative", "positive")
        assert own == {"task": "classification", "texts_per_item": 1, "labels": labels, "length": 64}
        return Resolved(self.path, name="tiny", version="1", digest=self.identity(cache))


class Told(Silent):
    """Keeps what is told around a session, and which files of it there were."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def event(self, kind: str, **fields: Any) -> None:
        with (self._root / "told").open("a") as file:
            file.write(json.dumps([kind, fields, (self._root / "benchmark" / "receipt.json").exists()]) + "\n")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The facts and the folder of a session over three bundles, of which each leans more to one label."""
    root = tmp_path_factory.mktemp("measured")
    rng, rows = np.random.default_rng(0), []
    for _ in range(400):
        words = rng.choice(WORDS, rng.integers(1, 9)).tolist()
        votes = [sum(WORDS.index(word) % 2 == label for word in words) for label in (0, 1)]
        rows.append({"text": " ".join(words), "label": ("negative", "positive")[int(votes[1] >= votes[0])]})
    for split, part in (("train", rows[:100]), ("test", rows[100:])):
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    files = {"kind": "files", **{split: str(root / f"{split}.jsonl") for split in ("train", "test")}}
    artifacts = {}
    for name, bias in zip(NAMES, (0.0, 0.5, 1.0), strict=True):
        tiny_bundle(root / name / "bundle", name=name, bias=bias, max_length=64)
        artifacts[name] = Artifact(root / name, None)  # type: ignore[arg-type]
    out = root / "benchmark"
    (out / EVIDENCE).mkdir(parents=True)
    task = TaskSplits(task_of("classification", data=files), ALL)
    tools = Tools("key", root, root / "cache", root / "checkpoints", Told(root), label="benchmark-node")
    config = BenchmarkConfig(targets={"node": OrtCpu()}, samples=10, processes=2, real=5, again_s=0.0)
    sources = {"task": task, "champion": Reigning(root / NAMES[2] / "bundle")}
    return benchmark.run(config, Inputs(artifacts, sources), out, tools), out


def test_the_gate_gets_the_drop_the_flips_and_the_calibration_of_every_variant(
    measured: tuple[dict[str, Any], Path],
) -> None:
    facts, out = measured
    figures = facts["figures"]

    assert json.loads((out / "figures.json").read_text()) == figures
    for name in NAMES:
        for figure in gates.COMPARED:
            ends = [figures[name][f"{figure}{end}"] for end in ("_low", "", "_high")]
            assert ends == sorted(ends), (name, figure)
    lost = figures["student-onnx-fp32"]["accuracy"] - figures["student-onnx-int8"]["accuracy"]
    assert figures["student-onnx-int8"]["drop"] == pytest.approx(lost)
    assert [figures[name]["drop"] for name in NAMES[:2]] == [0.0, 0.0]
    verdict = gates.judge(gates.parse_rules(["drop <= 0", "flips_high <= 0"]), figures, NAMES[1:])
    assert [each.outcome for each in verdict.candidates] == ["PASS", "FAIL"]


def test_the_session_is_said_to_measure_and_what_is_made_of_it_is_not(measured: tuple[dict[str, Any], Path]) -> None:
    _, out = measured
    who = {"label": "benchmark-node", "key": "key"}
    told = [json.loads(line) for line in (out.parent / "told").read_text().splitlines()]
    assert told == [["measure_start", who, False], ["measure_end", who, True]]


def test_what_lies_behind_is_in_the_manifest_and_with_the_classes_among_the_evidence(
    measured: tuple[dict[str, Any], Path],
) -> None:
    facts, out = measured
    kept = json.loads((out / EVIDENCE / "diagnostics.json").read_text())

    assert tuple(kept) == NAMES
    for part in ("against_fp32", "against_teacher", "by_length", "ece"):
        assert facts[part] == {name: each[part] for name, each in kept.items() if part in each}, part
    assert facts["against_fp32"].keys() == {"student-onnx-int8"}
    assert all({*each["by_class"]} == {"negative", "positive"} for each in kept.values())
    assert "by_class" not in facts


@pytest.fixture
def shown(measured: tuple[dict[str, Any], Path], tmp_path: Path, seal: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    """Shows the run with these facts of its benchmark; gives the text and the JSON."""
    facts, out = measured
    written = {
        "name": "tiny",
        "teacher": "package:x",
        "text": {"kind": "docstrings"},
        "task": {"kind": "classification", "data": {"kind": "docstrings"}},
        "register": {"name": "tiny", "gate": ["drop <= 0.01"]},
    }

    def show(without: str = "", noise: str = "", **targets: str) -> tuple[str, dict[str, Any]]:
        """At several targets, each "measured" or why it was skipped."""
        told = {name: fact for name, fact in facts.items() if name != without} | {"noise": noise}
        told |= {"tuning": {NAMES[2]: "2 sessions [of] 1 thread"}} if targets else {}
        labels = {f"benchmark-{name}": how for name, how in targets.items()} or {"benchmark": "measured"}
        artifacts = {}
        for label, how in labels.items():
            each = told if how == "measured" else {"target": label, "skipped": how, "disturbed": {}}
            artifacts[label] = seal(out, label=label, facts=json.loads(json.dumps(each)))
        asked = {"targets": {name: {"kind": "ort-cpu"} for name in targets or {"here": ""}}}
        config = RunConfig.model_validate(written | {"benchmark": asked})
        result = show_run(config, Workspace.open(tmp_path), artifacts)
        return capsys.readouterr().out, result

    return show


def test_show_has_a_line_for_what_was_quantized_beside_its_fp32(
    shown: Any, measured: tuple[dict[str, Any], Path]
) -> None:
    figures = measured[0]["figures"]["student-onnx-int8"]
    text, result = shown()

    (beside,) = result["against_fp32"]
    assert beside == {
        "name": "student-onnx-int8",
        "fp32": "student-onnx-fp32",
        **{name: figures[name] for name in Beside.__struct_fields__ if name in figures},
        "mcnemar_p": measured[0]["against_fp32"]["student-onnx-int8"]["mcnemar"]["p_value"],
        "ece_fp32": measured[0]["figures"]["student-onnx-fp32"]["ece"],
    }
    assert beside.keys() == {*Beside.__struct_fields__}, "a classifier has them all"
    invariance = read_receipt(measured[1]).variant("student-onnx-int8").invariance
    assert beside["batch_difference"] == max(each.max_difference for each in invariance)
    assert "each beside its own ONNX fp32, on the same items" in text
    assert f"{figures['flips']:.3f} [{figures['flips_low']:.3f}, {figures['flips_high']:.3f}]" in text


@pytest.mark.parametrize(("noise", "told"), [("", "none was found"), ("in 2 of 8 [processes]",) * 2])
def test_show_says_what_noise_there_was(shown: Any, noise: str, told: str) -> None:
    text, result = shown(noise=noise)
    assert (f"noise:      {told}" in text.splitlines(), result["noise"]) == (True, noise)


def test_show_reads_a_benchmark_that_compared_nothing(shown: Any) -> None:
    text, result = shown(without="against_fp32")
    assert (result["against_fp32"], len(result["variants"])) == ([], 4)
    assert "beside its own" not in text


def test_the_champion_is_measured_in_the_same_session_and_never_compared_with_an_fp32(
    measured: tuple[dict[str, Any], Path],
) -> None:
    facts, out = measured
    receipt = read_receipt(out)
    assert [each.name for each in receipt.variants] == [*NAMES, "champion"]
    assert receipt.variant("champion").facts.digest == facts["champion"]
    champion, same = facts["figures"]["champion"], facts["figures"]["student-onnx-int8"]
    assert champion["accuracy"] == same["accuracy"]
    assert champion.keys() & set(gates.COMPARED) == {"ece", "agreement"}
    assert (champion["ece"], champion["agreement"]) == (same["ece"], same["agreement"])
    assert "champion" not in facts["by_length"]


def test_times_have_ratios_to_the_teacher_to_the_own_fp32_and_to_the_champion(
    measured: tuple[dict[str, Any], Path],
) -> None:
    figures = measured[0]["figures"]["student-onnx-int8"]
    over = {name.partition("/")[2].removesuffix("_low").removesuffix("_high") for name in figures if "/" in name}
    assert over == {*NAMES[:2], "champion"}
    rule = "p50_ms <= 100 * champion with confidence"
    verdict = gates.judge(gates.parse_rules([rule]), measured[0]["figures"], NAMES[2:])
    assert verdict.verdict == "PASS"
    assert verdict.candidates[0].checks[0].ratio is not None


def test_what_disturbed_the_session_is_told_by_target(measured: tuple[dict[str, Any], Path]) -> None:
    facts, out = measured
    receipt = read_receipt(out)
    assert facts["target"] == receipt.target == "node"
    assert facts["disturbed"] == ({"node": receipt.disturbed} if receipt.findings else {})
    assert facts["attempts"] == 1


def test_a_config_asks_for_a_load(measured: tuple[dict[str, Any], Path]) -> None:
    load = read_receipt(measured[1]).how.load
    assert (load.lengths, load.n, load.processes, load.real, load.again_s) == ((16, 64), 10, 2, 5, 0.0)
    default = BenchmarkConfig().load
    assert default.real * default.processes >= 1000, "enough texts as they come for a p99"


def test_show_has_a_table_and_a_page_for_each_target_and_says_which_was_skipped(shown: Any, tmp_path: Path) -> None:
    text, result = shown(node="measured", edge="measured", gpu="it needs onnxruntime-gpu[cuda]")
    assert [line for line in text.splitlines() if line.startswith("target ")] == ["target node:", "target edge:"]
    assert "gpu is skipped: it needs onnxruntime-gpu[cuda]\n" in text
    assert text.count("tuning of student-onnx-int8: 2 sessions [of] 1 thread\n") == 2
    assert result["targets"].keys() == {"node", "edge", "gpu"}
    assert result["targets"]["gpu"] == {"skipped": "it needs onnxruntime-gpu[cuda]"}
    assert result["variants"] == result["targets"]["node"]["variants"] != []
    folder = tmp_path / "runs" / "tiny"
    pages = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.is_file()}
    assert pages == {f"benchmark-{name}/{page}" for name in ("node", "edge") for page in ("report.html", "outcome.md")}
    assert "<h1>tiny at edge</h1>" in (folder / "benchmark-edge" / "report.html").read_text(encoding="utf-8")


def test_one_target_is_shown_without_its_name(shown: Any, tmp_path: Path) -> None:
    text, result = shown()
    assert "target here:" not in text
    assert "targets" not in result
    assert (tmp_path / "runs" / "tiny" / "report.html").is_file()


def test_a_target_that_this_machine_is_not_leaves_why_it_was_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OrtCuda, "missing", lambda _: "an NVIDIA GPU")
    config = BenchmarkConfig(targets={"gpu": OrtCuda()})
    tools = Tools("key", tmp_path, tmp_path / "cache", tmp_path / "checkpoints", Silent())
    facts = benchmark.run(config, Inputs({}, {}), tmp_path, tools)
    assert facts["skipped"] == "it needs an NVIDIA GPU"
    assert json.loads((tmp_path / "skipped.json").read_text()) == {"target": "gpu", "needs": "an NVIDIA GPU"}
