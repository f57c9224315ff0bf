"""What a config asks for as steps, and what a step's key holds: nothing too much, nothing too little."""

import ast
from pathlib import Path
from typing import Any

import pytest

from pipeline import graph
from pipeline.config import RunConfig
from pipeline.graph import ROOT, STAGES, Step, canonical, code_identity, expand, step_key
from pipeline.tasks import ALL, TUNING

WRITTEN: dict[str, Any] = {
    "name": "a-run",
    "teacher": "teachers/bert",
    "text": {"kind": "files", "files": "text.txt"},
    "task": {"kind": "classification", "data": {"kind": "files", "train": "train.csv", "test": "test.csv"}},
    "register": {"name": "model", "gate": ["accuracy >= 0.95 * teacher"]},
}
DIGESTS = {"teacher": "t", "text": "x"}


def config(**changes: Any) -> RunConfig:
    return RunConfig.model_validate(WRITTEN | changes)


def steps(**changes: Any) -> dict[str, Step]:
    return {step.label: step for step in expand(config(**changes))}


def test_a_run_expands_into_these_steps_in_this_order() -> None:
    assert [(step.stage, step.label, tuple(step.inputs.values())) for step in expand(config())] == [
        ("distill", "distill", ()),
        ("finetune", "finetune-teacher", ()),
        ("finetune", "finetune-student", ("distill",)),
        ("export", "export-teacher", ("finetune-teacher",)),
        ("export", "export-student", ("finetune-student",)),
        ("quantize", "quantize-student", ("export-student",)),
        ("benchmark", "benchmark", ("finetune-teacher", "export-teacher", "export-student", "quantize-student")),
        (
            "register",
            "register",
            (
                *("distill", "finetune-teacher", "finetune-student", "export-teacher", "export-student"),
                *("quantize-student", "benchmark"),
            ),
        ),
    ]


def test_every_step_reads_only_what_comes_before_it_and_labels_are_unique() -> None:
    seen: set[str] = set()
    for step in expand(config()):
        assert set(step.inputs.values()) <= seen
        assert step.label not in seen
        assert step.stage in STAGES
        seen.add(step.label)


def test_each_step_holds_the_config_of_its_own_stage_alone() -> None:
    run = config()
    assert all(step.config == getattr(run, step.stage) for step in expand(run))


def test_only_the_benchmark_is_given_the_reported_split() -> None:
    given = {label: step.sources["task"].splits for label, step in steps().items() if "task" in step.sources}
    assert given.pop("benchmark") == ALL
    assert set(given.values()) == {TUNING}
    assert set(given) == {
        "finetune-teacher",
        "finetune-student",
        "export-teacher",
        "export-student",
    }
    assert "test" not in TUNING


def test_the_benchmark_measures_the_four_variants_by_their_names() -> None:
    assert list(steps()["benchmark"].inputs) == [
        "teacher-torch-fp32",
        "teacher-onnx-fp32",
        "student-onnx-fp32",
        "student-onnx-int8",
    ]


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


def test_a_key_changes_with_the_code_and_with_a_locked_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = step_key(steps()["distill"], DIGESTS)
    with monkeypatch.context() as patch:
        patch.setattr(graph, "code_identity", lambda _: "other code")
        assert step_key(steps()["distill"], DIGESTS) != before
    with monkeypatch.context() as patch:
        patch.setattr(graph, "versions", lambda: {"torch": "0.1"})
        assert step_key(steps()["distill"], DIGESTS) != before
    assert step_key(steps()["distill"], DIGESTS) == before


def test_only_what_is_measured_depends_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {label: step_key(step, {}) for label, step in steps().items()}
    monkeypatch.setattr("benchmarks.machine.identity", lambda: "another machine")
    after = {label: step_key(step, {}) for label, step in steps().items()}
    assert [label for label in before if before[label] != after[label]] == ["benchmark"]


def test_only_figures_grow_old_after_the_hours_the_config_says() -> None:
    assert [name for name, stage in STAGES.items() if stage.fresh_for] == ["benchmark"]
    fresh_for = STAGES["benchmark"].fresh_for
    assert fresh_for is not None
    assert fresh_for(config(benchmark={"max_age_hours": 2}).benchmark) == 7200


def test_canonical_values_are_plain() -> None:
    values = canonical(config().register)
    assert values == {
        "name": "model",
        "alias": "champion",
        "gate": ["accuracy >= 0.95 * teacher"],
        "tracking_uri": None,
        "allow_dirty": False,
    }


def parsed_imports(path: Path) -> set[str]:
    """What the fast pattern in graph.py must find, read by a real parser: ours, and not under TYPE_CHECKING."""
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
        name for name in found if name.split(".")[0] in ("pipeline", "serving", "benchmarks") and graph._source_of(name)
    }


@pytest.mark.parametrize("room", ["pipeline", "serving", "benchmarks"])
def test_the_import_pattern_finds_what_a_parser_finds(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        found = {name for name in graph._imports(path) if graph._source_of(name)}
        assert found == parsed_imports(path), path


def reached(stage: str) -> set[str]:
    """Modules whose text is in a stage's code identity."""
    seen, waiting = set(), [f"pipeline.stages.{stage}"]
    while waiting:
        module = waiting.pop()
        path = graph._source_of(module)
        if path is not None and module not in seen:
            seen.add(module)
            waiting += parsed_imports(path)
    return seen


@pytest.fixture
def edit(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the sources read as if one of them had been edited; memories of the real ones come back afterwards."""

    def edited(module: str) -> None:
        path, read = graph._source_of(module), Path.read_bytes
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
        ("pipeline.tracking", {"register"}),
        ("pipeline.stages.distill", {"distill"}),
        ("pipeline.distillation.relation_kl.cpu", {"distill"}),
        ("pipeline.training", {"distill", "finetune"}),
        ("pipeline.quantization", {"quantize"}),
        ("benchmarks.session", {"benchmark"}),
        ("serving.engine", {"export", "quantize", "benchmark"}),
        ("pipeline.cli", set()),
        ("pipeline.runner", set()),
        ("pipeline.summary", set()),
        ("serving.app", set()),
    ],
)
def test_an_edit_runs_again_the_stages_that_import_it_and_no_other(module: str, stages: set[str], edit: Any) -> None:
    assert {name for name in STAGES if module in reached(name)} == stages
    before = {name: code_identity((f"pipeline.stages.{name}",)) for name in STAGES}
    edit(module)
    assert {name for name in STAGES if code_identity((f"pipeline.stages.{name}",)) != before[name]} == stages


def test_no_stage_s_code_holds_another_stage() -> None:
    for stage in STAGES:
        others = {f"pipeline.stages.{name}" for name in STAGES} - {f"pipeline.stages.{stage}"}
        assert reached(stage) & (others | {"pipeline.graph", "pipeline.config", "pipeline.runner"}) == set()


def test_the_code_that_reads_a_step_s_sources_is_in_its_key() -> None:
    found = steps()
    assert found["export-student"].modules == ("pipeline.stages.export", "pipeline.tasks")
    assert found["distill"].modules == ("pipeline.stages.distill", "pipeline.data.corpus", "pipeline.encoders.teachers")
    assert found["quantize-student"].modules == ("pipeline.stages.quantize",)
