"""register as a stage: the gate first, and what it lets through."""

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import tiny_bundle
from pydantic import ValidationError

from pipeline import tracking
from pipeline.artifact import EVIDENCE, MANIFEST, Artifact
from pipeline.config import load_config
from pipeline.errors import BadRequest, Transient
from pipeline.graph import Inputs, Tools
from pipeline.progress import Silent
from pipeline.stages import register
from pipeline.stages.register import RegisterConfig, check
from serving.bundle import read_bundle

TEACHER, SMALL, INT8 = "teacher-onnx-fp32", "student-onnx-fp32", "student-onnx-int8"
CIRCUMSTANCES: dict[str, Any] = {"target": "here", "metric": "accuracy", "champion": None, "disturbed": {}}
FIGURES = {
    TEACHER: {"accuracy": 0.9, "p95_ms": 10.0},
    SMALL: {"accuracy": 0.88, "p95_ms": 4.0},
    INT8: {"accuracy": 0.87, "p95_ms": 2.0},
}
GATE = ("accuracy >= 0.95 * teacher", "p95_ms <= 0.5 * teacher")
LABELS = ("distill", "finetune-student", "export-student", "quantize-student", "benchmark")


def config(**changes: Any) -> RegisterConfig:
    return RegisterConfig.model_validate({"name": "tiny", "gate": GATE, **changes})


@pytest.fixture
def artifacts(tmp_path: Path, seal: Any) -> dict[str, Artifact]:
    """Everything register reads, in small."""
    found = {}
    for label in LABELS:
        path = tmp_path / "artifacts" / label
        (path / EVIDENCE).mkdir(parents=True)
        found[label] = path
    for label, name, bias in (("export-student", SMALL, 0.0), ("quantize-student", INT8, 0.5)):
        tiny_bundle(found[label] / "bundle", name=name, bias=bias)
    (found["export-student"] / EVIDENCE / "parity.json").write_text('{"texts": 256}')
    (found["distill"] / EVIDENCE / "curve.jsonl").write_text('{"step":10,"loss":2.0}\n{"step":20,"loss":1.0}\n')
    (found["benchmark"] / "receipt.json").write_text('{"raw": [1, 2, 3]}')
    (found["benchmark"] / "figures.json").write_text(json.dumps(FIGURES))
    facts = {"benchmark": {**CIRCUMSTANCES, "figures": FIGURES}}
    return {
        label: seal(
            path, label=label, facts=facts.get(label, {}), config={"of": label}, git={"commit": "abc", "dirty": True}
        )
        for label, path in found.items()
    }


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return Tools("register-key", tmp_path, tmp_path / "cache", tmp_path / "checkpoints", Silent())


def with_figures(artifacts: dict[str, Artifact], seal: Any, figures: dict[str, Any]) -> dict[str, Artifact]:
    benchmark = seal(artifacts["benchmark"].path, label="benchmark", facts={**CIRCUMSTANCES, "figures": figures})
    return {**artifacts, "benchmark": benchmark}


def run(asked: RegisterConfig, artifacts: dict[str, Artifact], tools: Tools) -> tuple[dict[str, Any], Path]:
    out = tools.workspace / "out"
    (out / EVIDENCE).mkdir(parents=True)
    return register.run(asked, Inputs(artifacts, {}), out, tools), out


# -- the config --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (["accuracy >>= 0.9"], "rule 'accuracy >>= 0.9' cannot be read."),
        (["acuracy >= 0.9"], "rule 'acuracy >= 0.9': nobody measures 'acuracy'."),
        ([*GATE, "fast enough"], "rule 'fast enough' cannot be read."),
    ],
)
def test_a_rule_that_cannot_be_parsed_is_refused_when_the_config_is_loaded(
    gate: list[str], message: str, tmp_path: Path
) -> None:
    asked = {
        "name": "r",
        "teacher": "package:x",
        "text": {"kind": "docstrings"},
        "task": {"kind": "classification", "data": {"kind": "docstrings"}},
        "register": {"name": "r", "gate": gate},
    }
    (tmp_path / "r.yaml").write_text(json.dumps(asked))

    with pytest.raises(BadRequest) as refused:
        load_config(tmp_path / "r.yaml")

    where, _, told = str(refused.value).partition("\n")
    assert where == f"config {tmp_path / 'r.yaml'}:"
    assert told.startswith(f"  register.gate: {message}")


@pytest.mark.parametrize(
    "changes",
    [
        {"gate": []},
        {"name": "a/b"},
        {"name": "models:x"},
        {"name": "it's"},
        {"name": ""},
        {"alias": ""},
        {"alias": "1st"},
        {"alias": "a b"},
        {"stage": "Production"},
    ],
)
def test_a_name_alias_or_gate_that_cannot_work_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**changes)


@pytest.mark.parametrize("alias", ["v1", "V12", "latest", "Latest"])
def test_an_alias_that_mlflow_keeps_is_refused_before_anything_runs(alias: str) -> None:
    with pytest.raises(ValidationError, match=f"MLflow keeps '{alias}' for itself; choose another name, like champion"):
        config(alias=alias)


@pytest.mark.parametrize("uri", ["http://user:secret@mlflow:5000", "postgresql+psycopg://user@db/mlflow"])
def test_a_secret_in_the_tracking_uri_is_refused_before_it_is_sealed_anywhere(uri: str) -> None:
    with pytest.raises(ValidationError, match="a user or password in tracking_uri would be sealed into manifests"):
        config(tracking_uri=uri)


@pytest.mark.parametrize("alias", ["champion", "vnext", "latest-good", "v1-rc"])
def test_other_aliases_are_free(alias: str) -> None:
    assert config(alias=alias).alias == alias


def test_a_checkout_that_differs_from_its_commit_is_not_registered_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register, "git_state", lambda: {"commit": "0123456789abcdef", "dirty": True})

    with pytest.raises(BadRequest) as refused:
        check(config())
    assert str(refused.value) == (
        "the checkout differs from its commit (0123456789ab), so a registered model could not be traced to its source; "
        "commit first, or set register.allow_dirty=true (it is recorded)"
    )
    check(config(allow_dirty=True))


def test_a_clean_checkout_is_registered_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register, "git_state", lambda: {"commit": "0123456789abcdef", "dirty": False})
    check(config())


# -- the gate says no --------------------------------------------------------------------------------------------------


@pytest.fixture
def no_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "register", lambda *_, **__: pytest.fail("something was registered"))


@pytest.mark.usefixtures("no_registry")
def test_a_gate_that_fails_keeps_its_verdict_and_registers_nothing(
    artifacts: dict[str, Artifact], tools: Tools, seal: Any
) -> None:
    worse = {name: {**figures, "accuracy": 0.5 if name != TEACHER else 0.9} for name, figures in FIGURES.items()}

    facts, out = run(config(), with_figures(artifacts, seal, worse), tools)

    assert facts["registered"] is None
    assert (facts["verdict"]["verdict"], facts["verdict"]["chosen"]) == ("FAIL", None)
    assert facts["verdict"]["reason"].startswith("no variant passes: student-onnx-fp32: accuracy 0.5 is not >= 0.855")
    assert json.loads((out / "verdict.json").read_text()) == json.loads(json.dumps(facts["verdict"]))
    assert not (out / "bundle").exists()
    assert not list(tools.workspace.glob("ml*"))


@pytest.mark.usefixtures("no_registry")
def test_a_figure_that_is_not_known_passes_nothing(artifacts: dict[str, Artifact], tools: Tools, seal: Any) -> None:
    without = {name: {"accuracy": figures["accuracy"]} for name, figures in FIGURES.items()}

    facts, _ = run(config(), with_figures(artifacts, seal, without), tools)

    assert facts["registered"] is None
    assert facts["verdict"]["verdict"] == "INCONCLUSIVE"


def test_a_registry_that_is_away_leaves_the_verdict_and_may_be_tried_again(
    artifacts: dict[str, Artifact], tools: Tools
) -> None:
    with pytest.raises(Transient, match="cannot be reached"):
        run(config(tracking_uri="http://127.0.0.1:9"), artifacts, tools)
    assert json.loads((tools.workspace / "out" / "verdict.json").read_text())["chosen"] == INT8


# -- the gate says yes -------------------------------------------------------------------------------------------------


class Registry:
    """Keeps what it was asked to register."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.evidence: Any = None

    def __call__(self, evidence: Any, **asked: Any) -> tracking.Registered:
        self.evidence, self.asked = evidence, asked
        return tracking.Registered(asked["name"], "7", asked["alias"], "run", asked["uri"])


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    found = Registry()
    monkeypatch.setattr(tracking, "register", found)
    return found


def test_of_the_variants_that_pass_the_fastest_is_registered(
    artifacts: dict[str, Artifact], tools: Tools, registry: Registry
) -> None:
    facts, out = run(config(alias="challenger"), artifacts, tools)

    uri = f"sqlite:///{tools.workspace}/mlflow.db"
    assert facts["verdict"]["chosen"] == INT8
    assert facts["registered"] == {
        "name": "tiny",
        "version": "7",
        "alias": "challenger",
        "run_id": "run",
        "tracking_uri": uri,
        "model_uri": "models:/tiny/7",
        "digest": read_bundle(out / "bundle").digest,
    }
    assert registry.asked == {
        "uri": uri,
        "workspace": tools.workspace,
        "experiment": "tiny",
        "name": "tiny",
        "alias": "challenger",
        "key": "register-key",
    }
    assert registry.evidence.folders["bundle"] == out / "bundle"
    assert read_bundle(out / "bundle").digest == read_bundle(artifacts["quantize-student"].path / "bundle").digest


def test_the_slower_variant_is_registered_when_it_alone_passes(
    artifacts: dict[str, Artifact], tools: Tools, seal: Any, registry: Registry
) -> None:
    figures = {**FIGURES, INT8: {"accuracy": 0.1, "p95_ms": 2.0}}

    _, out = run(config(), with_figures(artifacts, seal, figures), tools)

    assert read_bundle(out / "bundle").digest == read_bundle(artifacts["export-student"].path / "bundle").digest
    assert registry.evidence.tags["retort.variant"] == SMALL


def test_the_tracking_server_of_the_config_is_asked(
    artifacts: dict[str, Artifact], tools: Tools, registry: Registry
) -> None:
    run(config(tracking_uri="http://mlflow:5000"), artifacts, tools)
    assert registry.asked["uri"] == "http://mlflow:5000"


def test_the_core_ships_as_it_was_measured_with_its_receipts_beside_it(
    artifacts: dict[str, Artifact], tools: Tools, registry: Registry
) -> None:
    _, out = run(config(), artifacts, tools)

    measured, shipped = artifacts["quantize-student"].path / "bundle", out / "bundle"
    core = {file.name: file.read_bytes() for file in measured.iterdir()}
    assert {file.name: file.read_bytes() for file in shipped.iterdir() if file.is_file()} == core
    receipts = {file.name: json.loads(file.read_text()) for file in (shipped / "receipts").iterdir()}
    assert receipts.keys() == {"latency@here.json", "quality@here.json", "parity@here.json", "verdict@here.json"}
    assert receipts["latency@here.json"] == {"raw": [1, 2, 3]}
    assert receipts["quality@here.json"] == FIGURES
    assert receipts["parity@here.json"] == {"texts": 256}
    assert receipts["verdict@here.json"]["verdict"] == "PASS"


def test_tags_carry_digests_verdict_metric_and_lineage(
    artifacts: dict[str, Artifact], tools: Tools, registry: Registry
) -> None:
    facts, out = run(config(), artifacts, tools)

    assert registry.evidence.tags == {
        "retort.digest": read_bundle(out / "bundle").digest,
        "retort.variant": INT8,
        "retort.verdict": "PASS",
        "retort.reason": facts["verdict"]["reason"],
        "retort.accuracy": "0.8700",
        "retort.git_commit": "abc",
        "retort.git_dirty": "true",
        **{f"retort.lineage.{label}": artifact.digest for label, artifact in artifacts.items()},
    }


def test_params_metrics_and_curves_of_every_step_are_evidence(
    artifacts: dict[str, Artifact], tools: Tools, registry: Registry
) -> None:
    run(config(), artifacts, tools)

    evidence = registry.evidence
    assert evidence.params == {label: {"of": label} for label in LABELS}
    assert evidence.metrics == {
        f"{variant}/{name}": value for variant, of in FIGURES.items() for name, value in of.items()
    }
    (curve,) = evidence.curves
    assert (curve.name, curve.rows) == ("distill", [{"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.0}])
    assert set(evidence.folders) == {"bundle", "manifests", *(f"evidence/{label}" for label in LABELS)}
    manifests = {file.name: file.read_bytes() for file in evidence.folders["manifests"].iterdir()}
    assert manifests == {f"{label}.json": (artifacts[label].path / MANIFEST).read_bytes() for label in LABELS}


def test_of_several_students_the_fastest_that_passes_ships_with_its_own_parity(
    artifacts: dict[str, Artifact], tools: Tools, seal: Any, registry: Registry
) -> None:
    """Names with hyphens, too; what is no student's bundle is no candidate."""
    several = {label: artifact for label, artifact in artifacts.items() if "student" not in label}
    figures: dict[str, Any] = {TEACHER: FIGURES[TEACHER]}
    for name, p95_ms in (("small", 4.0), ("wide-one", 3.0), ("bad", 1.0)):
        for step, variant, bias in (("export", "onnx-fp32", 0.0), ("quantize", "onnx-int8", 0.5)):
            path = tools.workspace / "several" / f"{step}-{name}"
            (path / EVIDENCE).mkdir(parents=True)
            (path / EVIDENCE / "parity.json").write_text(json.dumps({"of": f"{step}-{name}"}))
            tiny_bundle(path / "bundle", name=f"{name}-{variant}", bias=bias + p95_ms)
            several[f"{step}-{name}"] = seal(path, label=f"{step}-{name}")
        accuracy = 0.1 if name == "bad" else 0.88
        figures[f"{name}-onnx-fp32"] = {"accuracy": accuracy, "p95_ms": p95_ms + 5}
        figures[f"{name}-onnx-int8"] = {"accuracy": accuracy, "p95_ms": p95_ms}
    several = with_figures(several, seal, figures)

    facts, out = run(config(), several, tools)

    assert facts["verdict"]["chosen"] == "wide-one-onnx-int8"
    judged = [candidate["variant"] for candidate in facts["verdict"]["candidates"]]
    assert judged == [name for name in figures if name != TEACHER]
    assert read_bundle(out / "bundle").digest == read_bundle(several["quantize-wide-one"].path / "bundle").digest
    parity = json.loads((out / "bundle" / "receipts" / "parity@here.json").read_text())
    assert parity == {"of": "export-wide-one"}


def test_an_artifact_without_evidence_is_no_obstacle(
    artifacts: dict[str, Artifact], tools: Tools, registry: Registry
) -> None:
    """An object store brings no empty folder back."""
    (artifacts["quantize-student"].path / EVIDENCE).rmdir()

    run(config(), artifacts, tools)

    assert "evidence/quantize-student" not in registry.evidence.folders


# -- several targets ---------------------------------------------------------------------------------------------------

EDGE_FIGURES = {
    TEACHER: {"accuracy": 0.9, "p95_ms": 30.0},
    SMALL: {"accuracy": 0.88, "p95_ms": 9.0, "p95_ms/teacher-onnx-fp32": 0.3},
    INT8: {"accuracy": 0.87, "p95_ms": 20.0, "p95_ms/teacher-onnx-fp32": 0.67},
}
NEEDS = "it needs an NVIDIA GPU: buy one"


def with_edge(artifacts: dict[str, Artifact], seal: Any, **facts: Any) -> dict[str, Artifact]:
    """And a session at `edge`, and one at `gpu` that was skipped."""
    root = artifacts["benchmark"].path.parent
    found = dict(artifacts)
    told = {"edge": {**CIRCUMSTANCES, "target": "edge", "figures": EDGE_FIGURES, **facts}}
    told["gpu"] = {"target": "gpu", "skipped": NEEDS, "disturbed": {}}
    for target, each in told.items():
        path = root / f"benchmark-{target}"
        (path / EVIDENCE).mkdir(parents=True)
        if target == "edge":
            (path / "receipt.json").write_text('{"of": "edge"}')
            (path / "figures.json").write_text(json.dumps(EDGE_FIGURES))
        found[f"benchmark-{target}"] = seal(path, label=f"benchmark-{target}", facts=each)
    return found


def test_a_rule_is_held_against_the_session_of_its_target(
    artifacts: dict[str, Artifact], tools: Tools, seal: Any, registry: Registry
) -> None:
    """Here int8 is the faster one; at the edge it breaks the rule."""
    gate = (*GATE, "p95_ms <= 0.5 * teacher at edge")
    facts, _ = run(config(gate=gate), with_edge(artifacts, seal), tools)
    assert facts["verdict"]["chosen"] == SMALL
    targets = [check["target"] for check in facts["verdict"]["candidates"][0]["checks"]]
    assert targets == ["here", "here", "edge"]


@pytest.mark.usefixtures("no_registry")
def test_what_disturbed_one_session_leaves_the_rules_at_its_target_open(
    artifacts: dict[str, Artifact], tools: Tools, seal: Any
) -> None:
    gate = (*GATE, "p95_ms <= 0.5 * teacher at edge")
    facts, _ = run(config(gate=gate), with_edge(artifacts, seal, disturbed={"edge": "a neighbour"}), tools)
    outcomes = [check["outcome"] for check in facts["verdict"]["candidates"][0]["checks"]]
    assert outcomes == ["PASS", "PASS", "INCONCLUSIVE"]


def test_a_version_carries_the_receipts_of_all_targets_that_were_measured(
    artifacts: dict[str, Artifact], tools: Tools, seal: Any, registry: Registry
) -> None:
    _, out = run(config(), with_edge(artifacts, seal), tools)
    found = {file.name for file in (out / "bundle" / "receipts").iterdir() if file.name.startswith(("lat", "qual"))}
    assert found == {f"{of}@{target}.json" for of in ("latency", "quality") for target in ("here", "edge")}
    assert json.loads((out / "bundle" / "receipts" / "latency@edge.json").read_text()) == {"of": "edge"}


def test_metrics_of_other_targets_have_the_target_s_name_and_ratios_are_left_out(
    artifacts: dict[str, Artifact], tools: Tools, seal: Any, registry: Registry
) -> None:
    run(config(), with_edge(artifacts, seal), tools)
    here = {f"{variant}/{name}": value for variant, of in FIGURES.items() for name, value in of.items()}
    edge = {
        f"edge/{variant}/{name}": value
        for variant, of in EDGE_FIGURES.items()
        for name, value in of.items()
        if "/" not in name
    }
    assert len(edge) == 6
    assert registry.evidence.metrics == here | edge


@pytest.mark.usefixtures("no_registry")
def test_nothing_is_judged_by_a_first_target_that_was_skipped(
    artifacts: dict[str, Artifact], tools: Tools, seal: Any
) -> None:
    found = with_edge(artifacts, seal)
    found = {**found, "benchmark": found["benchmark-gpu"]}
    with pytest.raises(BadRequest) as refused:
        run(config(), found, tools)
    assert str(refused.value) == (
        "nothing was measured at 'gpu', the target that rules without `at` speak of: it needs an NVIDIA GPU: buy one; "
        "run the benchmark on such a machine, or make another target the first one (benchmark.first)"
    )


def test_the_chosen_variant_s_tuning_lies_beside_its_core_and_is_no_part_of_it(
    artifacts: dict[str, Artifact], tools: Tools, seal: Any, registry: Registry
) -> None:
    for variant in (SMALL, INT8):
        folder = artifacts["benchmark"].path / "tuning" / variant
        folder.mkdir(parents=True)
        (folder / "tuning@here.json").write_text(json.dumps({"of": variant}))
    facts, out = run(config(), with_figures(artifacts, seal, FIGURES), tools)
    assert json.loads((out / "bundle" / "tuning@here.json").read_text()) == {"of": INT8}
    assert facts["registered"]["digest"] == read_bundle(artifacts["quantize-student"].path / "bundle").digest
