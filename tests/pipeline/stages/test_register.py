"""register as a stage: what is refused, the gate, and which variant it hands on."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import tiny_bundle
from judged import CIRCUMSTANCES, FIGURES, GATE, INT8, SMALL, TEACHER, judged_steps, measured, seal
from pydantic import ValidationError

from pipeline import registration
from pipeline.artifact import EVIDENCE, Artifact
from pipeline.champion import NOBODY
from pipeline.config import load_config
from pipeline.errors import BadRequest
from pipeline.gates import Verdict
from pipeline.graph import Inputs, Tools
from pipeline.keys import canonical
from pipeline.progress import Silent
from pipeline.registration import Outcome
from pipeline.stages import register
from pipeline.stages.register import RegisterConfig, check


def config(**changes: Any) -> RegisterConfig:
    return RegisterConfig.model_validate({"name": "tiny", "gate": GATE, **changes})


@pytest.fixture
def artifacts(tmp_path: Path) -> dict[str, Artifact]:
    return judged_steps(tmp_path / "artifacts")


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return Tools("register-key", tmp_path, tmp_path / "cache", tmp_path / "checkpoints", Silent())


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
        {"name": "a" * 250},
        {"alias": ""},
        {"alias": "a" * 256},
        {"alias": "1st"},
        {"alias": "a b"},
        {"license": ""},
        {"license": "Apache\n2"},
        {"stage": "Production"},
    ],
)
def test_a_name_alias_or_gate_that_cannot_work_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**changes)


def test_the_longest_names_that_a_registry_has_room_for_are_taken() -> None:
    from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel

    asked = config(name="a" * 249, alias="a" * 255)
    assert len(f"{asked.name}.ledger") == SqlRegisteredModel.name.type.length


@pytest.mark.parametrize("alias", ["v1", "V12", "latest", "Latest"])
def test_an_alias_that_mlflow_keeps_is_refused_before_anything_runs(alias: str) -> None:
    with pytest.raises(ValidationError, match=f"MLflow keeps '{alias}' for itself; choose another name, like champion"):
        config(alias=alias)


def test_the_challenger_s_alias_is_no_name_for_what_is_in_service() -> None:
    with pytest.raises(ValidationError) as refused:
        config(alias="challenger")
    assert (
        "every version that passes its own rules is given the alias 'challenger'; choose another name for what is in "
        "service, like champion"
    ) in str(refused.value)


def test_a_ledger_s_name_is_no_name_for_a_model() -> None:
    told = "'tiny.ledger' is the name of a ledger, where another model keeps its moves; choose another"
    with pytest.raises(ValidationError, match=told):
        config(name="tiny.ledger")


def test_what_signs_is_no_part_of_a_step_s_key_or_manifest_but_that_it_signs_is(tmp_path: Path) -> None:
    plain, signed = config(), config(sign_key=tmp_path / "private.pem")
    assert (canonical(plain)["sign_key"], canonical(signed)["sign_key"]) == (None, "signed")
    assert canonical(signed) == canonical(config(sign_key="/elsewhere/another.pem"))
    assert signed.sign_key == tmp_path / "private.pem", "the stage itself knows"


@pytest.mark.parametrize(
    "uri",
    [
        "http://user:secret@mlflow:5000",
        "postgresql+psycopg2://user@db/mlflow",
        "postgresql://u:p/w@h/db",
        "postgresql://u:p w@h/db",
        "postgresql+psycopg2://h/db?user=u&password=x",
    ],
)
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


def test_a_key_that_signs_must_be_there_before_anything_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(register, "git_state", lambda: {"commit": "0123456789abcdef", "dirty": False})
    with pytest.raises(BadRequest, match=r"none\.pem"):
        check(config(sign_key=tmp_path / "none.pem"))


# -- the gate says no --------------------------------------------------------------------------------------------------


@pytest.fixture
def no_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "register_chosen", lambda *_, **__: pytest.fail("something was registered"))


@pytest.mark.usefixtures("no_registry")
def test_a_gate_that_fails_keeps_its_verdict_and_registers_nothing(
    artifacts: dict[str, Artifact], tools: Tools
) -> None:
    worse = {name: {**figures, "accuracy": 0.5 if name != TEACHER else 0.9} for name, figures in FIGURES.items()}

    facts, out = run(config(), measured(artifacts, figures=worse), tools)

    assert (facts["registered"], facts["promoted"], facts["why"]) == (None, False, "no variant passed its own rules")
    assert (facts["verdict"]["verdict"], facts["verdict"]["chosen"]) == ("FAIL", None)
    assert facts["verdict"]["reason"].startswith("no variant passes: student-onnx-fp32: accuracy 0.5 is not >= 0.855")
    assert json.loads((out / "verdict.json").read_text()) == json.loads(json.dumps(facts["verdict"]))
    assert {each.name for each in out.iterdir()} == {"verdict.json", EVIDENCE}
    assert not list(tools.workspace.glob("ml*"))


@pytest.mark.usefixtures("no_registry")
def test_a_figure_that_is_not_known_passes_nothing(artifacts: dict[str, Artifact], tools: Tools) -> None:
    without = {name: {"accuracy": figures["accuracy"]} for name, figures in FIGURES.items()}

    facts, _ = run(config(), measured(artifacts, figures=without), tools)

    assert facts["registered"] is None
    assert facts["verdict"]["verdict"] == "INCONCLUSIVE"


# -- the gate says yes -------------------------------------------------------------------------------------------------


class Handed:
    """What the stage handed on to be registered."""

    def __init__(self) -> None:
        self.label, self.verdict = "", Verdict("FAIL", "", None, ())

    def __call__(self, config: Any, inputs: Any, verdict: Verdict, *, label: str, out: Path, tools: Any) -> Outcome:
        self.label, self.verdict = label, verdict
        return Outcome(verdict, None, promoted=True, why="it was first")


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> Handed:
    found = Handed()
    monkeypatch.setattr(registration, "register_chosen", found)
    return found


def test_of_the_variants_that_pass_the_fastest_is_handed_on(
    artifacts: dict[str, Artifact], tools: Tools, handed: Handed
) -> None:
    facts, _ = run(config(), artifacts, tools)
    assert (facts["verdict"]["chosen"], handed.label) == (INT8, "quantize-student")
    assert (facts["promoted"], facts["why"]) == (True, "it was first")
    assert msgspec.convert(json.loads(json.dumps(facts)), Outcome).verdict == handed.verdict, "a manifest holds it"


def test_the_slower_variant_is_handed_on_when_it_alone_passes(
    artifacts: dict[str, Artifact], tools: Tools, handed: Handed
) -> None:
    run(config(), measured(artifacts, figures={**FIGURES, INT8: {"accuracy": 0.1, "p95_ms": 2.0}}), tools)
    assert handed.label == "export-student"


RIVALRY = (*GATE, "accuracy >= 1 * champion")


def test_rules_against_the_champion_decide_its_promotion_and_not_the_verdict(
    artifacts: dict[str, Artifact], tools: Tools, handed: Handed
) -> None:
    better = {**FIGURES, "champion": {"accuracy": 0.95}}
    run(config(gate=RIVALRY), measured(artifacts, figures=better, champion="f" * 64), tools)
    assert (handed.verdict.verdict, handed.verdict.promotion) == ("PASS", "FAIL")
    assert handed.verdict.promotion_reason == "accuracy 0.87 is not >= 0.95 (1 * 0.95 of champion)"


def test_where_there_is_no_champion_yet_both_questions_are_answered_with_yes(
    artifacts: dict[str, Artifact], tools: Tools, handed: Handed
) -> None:
    run(config(gate=RIVALRY), measured(artifacts, champion=NOBODY), tools)
    assert (handed.verdict.verdict, handed.verdict.promotion) == ("PASS", "PASS")


def test_of_several_students_the_fastest_that_passes_is_handed_on(
    artifacts: dict[str, Artifact], tools: Tools, handed: Handed
) -> None:
    """Names with hyphens, too; what is no student's bundle is no candidate."""
    several = {label: artifact for label, artifact in artifacts.items() if "student" not in label}
    figures: dict[str, Any] = {TEACHER: FIGURES[TEACHER]}
    for name, p95_ms in (("small", 4.0), ("wide-one", 3.0), ("bad", 1.0)):
        for step, variant, bias in (("export", "onnx-fp32", 0.0), ("quantize", "onnx-int8", 0.5)):
            path = tools.workspace / "several" / f"{step}-{name}"
            tiny_bundle(path / "bundle", name=f"{name}-{variant}", bias=bias + p95_ms)
            several[f"{step}-{name}"] = seal(path, label=f"{step}-{name}")
        accuracy = 0.1 if name == "bad" else 0.88
        figures[f"{name}-onnx-fp32"] = {"accuracy": accuracy, "p95_ms": p95_ms + 5}
        figures[f"{name}-onnx-int8"] = {"accuracy": accuracy, "p95_ms": p95_ms}

    facts, _ = run(config(), measured(several, figures=figures), tools)

    assert (facts["verdict"]["chosen"], handed.label) == ("wide-one-onnx-int8", "quantize-wide-one")
    judged = [candidate["variant"] for candidate in facts["verdict"]["candidates"]]
    assert judged == [name for name in figures if name != TEACHER]


# -- several targets ---------------------------------------------------------------------------------------------------

EDGE_FIGURES = {
    TEACHER: {"accuracy": 0.9, "p95_ms": 30.0},
    SMALL: {"accuracy": 0.88, "p95_ms": 9.0},
    INT8: {"accuracy": 0.87, "p95_ms": 20.0},
}
NEEDS = "it needs an NVIDIA GPU: buy one"


def with_edge(artifacts: dict[str, Artifact], **facts: Any) -> dict[str, Artifact]:
    """And a session at `edge`, and one at `gpu` that was skipped."""
    root, found = artifacts["benchmark"].path.parent, dict(artifacts)
    told = {"edge": {**CIRCUMSTANCES, "target": "edge", "figures": EDGE_FIGURES, **facts}}
    told["gpu"] = {"target": "gpu", "skipped": NEEDS, "disturbed": {}}
    for target, each in told.items():
        path = root / f"benchmark-{target}"
        path.mkdir()
        found[f"benchmark-{target}"] = seal(path, label=f"benchmark-{target}", facts=each)
    return found


def test_a_rule_is_held_against_the_session_of_its_target(
    artifacts: dict[str, Artifact], tools: Tools, handed: Handed
) -> None:
    """Here int8 is the faster one; at the edge it breaks the rule."""
    gate = (*GATE, "p95_ms <= 0.5 * teacher at edge")
    facts, _ = run(config(gate=gate), with_edge(artifacts), tools)
    assert facts["verdict"]["chosen"] == SMALL
    targets = [check["target"] for check in facts["verdict"]["candidates"][0]["checks"]]
    assert targets == ["here", "here", "edge"]


@pytest.mark.usefixtures("no_registry")
def test_what_disturbed_one_session_leaves_the_rules_at_its_target_open(
    artifacts: dict[str, Artifact], tools: Tools
) -> None:
    gate = (*GATE, "p95_ms <= 0.5 * teacher at edge")
    facts, _ = run(config(gate=gate), with_edge(artifacts, disturbed={"edge": "a neighbour"}), tools)
    outcomes = [check["outcome"] for check in facts["verdict"]["candidates"][0]["checks"]]
    assert outcomes == ["PASS", "PASS", "INCONCLUSIVE"]


@pytest.mark.usefixtures("no_registry")
def test_nothing_is_judged_by_a_first_target_that_was_skipped(artifacts: dict[str, Artifact], tools: Tools) -> None:
    found = with_edge(artifacts)
    found = {**found, "benchmark": found["benchmark-gpu"]}
    with pytest.raises(BadRequest) as refused:
        run(config(), found, tools)
    assert str(refused.value) == (
        "nothing was measured at 'gpu', the target that rules without `at` speak of: it needs an NVIDIA GPU: buy one; "
        "run the benchmark on such a machine, or make another target the first one (benchmark.first)"
    )
