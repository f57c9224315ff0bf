"""What a step's key holds: nothing too much, nothing too little."""

import ast
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from written import config, steps

from pipeline import keys
from pipeline.graph import STAGES
from pipeline.keys import ROOT, canonical, code_identity, step_key

DIGESTS = {"teacher": "t", "text": "x"}


def test_a_key_is_the_stage_and_a_hash_and_the_same_every_time() -> None:
    key = step_key(steps()["distill"], DIGESTS)
    assert key.startswith("distill-")
    assert len(key) == len("distill-") + 32
    assert key == step_key(steps()["distill"], dict(reversed(DIGESTS.items())))


def test_a_key_ignores_how_the_config_was_written() -> None:
    short, long = steps(), steps(distill={"seed": 0, "student": {"layers": 3}, "objective": {"kind": "relation"}})
    assert step_key(short["distill"], DIGESTS) == step_key(long["distill"], DIGESTS)


def test_a_key_does_not_depend_on_the_run_s_name_or_on_other_stages() -> None:
    other = steps(name="other", finetune={"seed": 3}, register={"name": "n", "gate": ["size_mb <= 1"]})
    assert step_key(steps()["distill"], DIGESTS) == step_key(other["distill"], DIGESTS)


@pytest.mark.parametrize(
    ("changes", "digests"),
    [
        ({"distill": {"seed": 1}}, DIGESTS),
        ({"distill": {"student": {"layers": 4}}}, DIGESTS),
        ({}, DIGESTS | {"teacher": "another"}),
        ({}, {"text": "t", "teacher": "x"}),
        ({}, {"teacher": "t"}),
    ],
)
def test_a_key_changes_with_config_and_inputs(changes: dict[str, Any], digests: dict[str, str]) -> None:
    assert step_key(steps(**changes)["distill"], digests) != step_key(steps()["distill"], DIGESTS)


SMALL, TINY = {"student": {"layers": 2}, "tokens": 5000}, {"objective": {"kind": "hidden"}}


def test_a_student_s_key_among_others_is_the_one_it_has_alone() -> None:
    together = steps(distill={"seed": 1, "students": {"small": SMALL, "tiny": TINY}})
    for name, own in (("small", SMALL), ("tiny", TINY)):
        alone = steps(distill={"seed": 1, **own})["distill"]
        assert step_key(together[f"distill-{name}"], DIGESTS) == step_key(alone, DIGESTS)


def test_a_student_s_key_stays_when_others_come_go_or_are_called_otherwise() -> None:
    found = {
        step_key(steps(distill={"students": students})["distill-small"], DIGESTS)
        for students in ({"small": SMALL}, {"tiny": TINY, "small": SMALL}, {"small": SMALL, "little": TINY})
    }
    assert len(found) == 1
    renamed = steps(distill={"students": {"other": SMALL}})["distill-other"]
    assert {step_key(renamed, DIGESTS)} == found


def test_what_is_beside_the_students_is_in_the_key_of_each_and_their_own_only_in_theirs() -> None:
    students = {"small": SMALL, "tiny": TINY}
    before = steps(distill={"students": students})
    for changed, stays in (
        ({"seed": 1, "students": students}, []),
        ({"tokens": 7, "students": students}, ["distill-small"]),  # it has tokens of its own
        ({"students": {**students, "tiny": {**TINY, "tokens": 7}}}, ["distill-small"]),
    ):
        after = steps(distill=changed)
        labels = [label for label in after if after[label].stage == "distill"]
        assert [
            label for label in labels if step_key(after[label], DIGESTS) == step_key(before[label], DIGESTS)
        ] == stays


def test_a_key_changes_with_the_code_and_with_a_locked_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = step_key(steps()["distill"], DIGESTS)
    with monkeypatch.context() as patch:
        patch.setattr(keys, "code_identity", lambda _: "other code")
        assert step_key(steps()["distill"], DIGESTS) != before
    with monkeypatch.context() as patch:
        patch.setattr(keys, "versions", lambda stage: {"torch": "0.1"})
        assert step_key(steps()["distill"], DIGESTS) != before
    assert step_key(steps()["distill"], DIGESTS) == before


def test_an_extra_that_is_installed_later_retrains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {label: step_key(step, DIGESTS) for label, step in steps().items()}
    monkeypatch.setattr(keys, "_version", lambda name: "new" if name in ("openvino", "nncf") else version(name))
    keys.versions.cache_clear()
    after = {label: step_key(step, DIGESTS) for label, step in steps().items()}
    keys.versions.cache_clear()
    assert [label for label in before if before[label] != after[label]] == ["quantize-student", "benchmark"]


def test_only_what_is_measured_depends_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {label: step_key(step, {}) for label, step in steps().items()}
    monkeypatch.setattr("serving.machine.machine_identity", lambda: "another machine")
    after = {label: step_key(step, {}) for label, step in steps().items()}
    assert [label for label in before if before[label] != after[label]] == ["benchmark"]


def test_canonical_values_are_plain() -> None:
    values = canonical(config().register)
    assert values == {
        "name": "model",
        "alias": "champion",
        "gate": ["accuracy >= 0.95 * teacher"],
        "tracking_uri": None,
        "sign_key": None,
        "license": None,
        "allow_dirty": False,
    }


@cache
def parsed_imports(path: Path) -> set[str]:
    """What the fast pattern in keys.py must find, read by a real parser: ours, and not under TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = (n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    skipped = {id(inner) for block in guarded for inner in ast.walk(block)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {
        name for name in found if name.split(".")[0] in ("pipeline", "serving", "benchmarks") and keys._source_of(name)
    }


@pytest.mark.parametrize("room", ["pipeline", "serving", "benchmarks"])
def test_the_import_pattern_finds_what_a_parser_finds(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        found = {name for name in keys._imports(path) if keys._source_of(name)}
        assert found == parsed_imports(path), path


def reached(stage: str) -> set[str]:
    """Modules whose text is in a stage's code identity."""
    seen, waiting = set(), [f"pipeline.stages.{stage}"]
    while waiting:
        module = waiting.pop()
        path = keys._source_of(module)
        if path is not None and module not in seen:
            seen.add(module)
            waiting += parsed_imports(path)
    return seen


@pytest.fixture
def edit(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the sources read as if one of them had been edited; memories of the real ones come back afterwards."""

    def edited(module: str) -> None:
        path, read = keys._source_of(module), Path.read_bytes
        assert path is not None
        monkeypatch.setattr(Path, "read_bytes", lambda self: read(self) + (b"#" if self == path else b""))
        code_identity.cache_clear()

    yield edited
    code_identity.cache_clear()


@pytest.mark.parametrize(
    ("module", "stages"),
    [
        ("pipeline.stages.register", {"register"}),
        ("pipeline.gates", {"register"}),
        ("pipeline.gate_rules", {"register"}),
        ("benchmarks.tune", {"benchmark"}),
        ("pipeline.naming", {"benchmark", "register"}),
        ("pipeline.tracking", {"register"}),
        ("pipeline.stages.distill", {"distill"}),
        ("pipeline.distillation.relation_kl.cpu", {"distill"}),
        ("pipeline.distillation.output_kl", {"distill", "pretrain"}),
        ("pipeline.stages.pretrain", {"pretrain"}),
        ("pipeline.training", {"distill", "finetune", "pretrain", "quantize"}),
        ("pipeline.quantization", {"quantize"}),
        ("benchmarks.session", {"benchmark", "quantize"}),  # a search measures
        ("serving.engine", {"export", "quantize", "benchmark", "register"}),
        ("pipeline.cli", set()),
        ("pipeline.runner", set()),
        ("pipeline.walk", set()),
        ("pipeline.keys", set()),
        ("pipeline.summary", set()),
        ("serving.app", set()),
    ],
)
def test_an_edit_runs_again_the_stages_that_import_it_and_no_other(module: str, stages: set[str], edit: Any) -> None:
    assert {name for name in STAGES if module in reached(name)} == stages
    before = {name: code_identity((f"pipeline.stages.{name}",)) for name in STAGES}
    edit(module)
    assert {name for name in STAGES if code_identity((f"pipeline.stages.{name}",)) != before[name]} == stages


def test_an_edit_of_a_kernel_in_c_plus_plus_distils_again_and_does_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {name: code_identity((f"pipeline.stages.{name}",)) for name in STAGES}
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read(self) + (b"//" if self.suffix == ".cpp" else b""))
    code_identity.cache_clear()
    after = {name: code_identity((f"pipeline.stages.{name}",)) for name in STAGES}
    code_identity.cache_clear()
    assert [name for name in STAGES if before[name] != after[name]] == ["distill"]


def test_no_stage_s_code_holds_another_stage() -> None:
    for stage in STAGES:
        others = {f"pipeline.stages.{name}" for name in STAGES} - {f"pipeline.stages.{stage}"}
        assert reached(stage) & (others | {"pipeline.graph", "pipeline.config", "pipeline.runner"}) == set()
