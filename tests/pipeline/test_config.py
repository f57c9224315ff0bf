"""A run's YAML and its `--set`: what is wrong is said at once, in the words of the file, with what would be right."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from written import WRITTEN

from benchmarks.targets import OpenVino, OrtCpu
from pipeline.config import RunConfig, load_config
from pipeline.distillation.objectives import HiddenObjective, NoObjective, RelationObjective
from pipeline.errors import BadRequest
from pipeline.runner import plan
from pipeline.tuning import TuneConfig
from pipeline.workspace import Workspace

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "run.yaml", WRITTEN)


def write(path: Path, values: Any) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def refused(path: Path, *settings: str) -> str:
    """The whole message, which must end a process with 64."""
    with pytest.raises(BadRequest) as caught:
        load_config(path, settings)
    assert caught.value.exit_code == 64
    return str(caught.value)


def mistakes(path: Path, **changes: Any) -> list[str]:
    """The lines below `config PATH:`."""
    first, *lines = refused(write(path, WRITTEN | changes)).splitlines()
    assert first == f"config {path}:"
    return [line.removeprefix("  ") for line in lines]


def test_what_is_not_written_has_its_default(path: Path) -> None:
    config = load_config(path)
    assert config.teacher.source == "teachers/bert"
    assert config.distill.objective == RelationObjective()
    assert (config.distill.student.layers, config.distill.student.width) == (3, None)
    assert config.register.alias == "champion"


def test_a_run_is_frozen_at_every_depth(path: Path) -> None:
    config = load_config(path)
    for holder, name in ((config, "name"), (config.distill, "seed"), (config.distill.student, "layers")):
        with pytest.raises(ValidationError, match="Instance is frozen"):
            setattr(holder, name, 1)


@pytest.mark.parametrize("missing", ["name", "teacher", "text", "task", "register"])
def test_what_is_required_and_missing_is_named(path: Path, missing: str) -> None:
    write(path, {key: value for key, value in WRITTEN.items() if key != missing})
    assert refused(path) == f"config {path}:\n  {missing}: required and not given"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"distil": {}}, "distil: unknown key; did you mean 'distill'?"),
        ({"distill": {"tokns": 5}}, "distill.tokns: unknown key; did you mean 'tokens'?"),
        ({"distill": {"student": {"layer": 2}}}, "distill.student.layer: unknown key; did you mean 'layers'?"),
        (
            {"distill": {"student": {"xyz": 2}}},
            "distill.student.xyz: unknown key; known keys: feed_forward, heads, init, init_mapping, layers, width",
        ),
        (
            {"distill": {"objective": {"kind": "relation", "relation_head": 2}}},
            "distill.objective.relation_head: unknown key; did you mean 'relation_heads'?",
        ),
        (
            {"task": WRITTEN["task"] | {"data": {"kind": "files", "train": "a.csv", "tset": "b.csv"}}},
            "task.data.tset: unknown key; did you mean 'test'?",
        ),
        ({"teacher": {"source": "a", "revison": "b"}}, "teacher.revison: unknown key; did you mean 'revision'?"),
        (
            {"task": WRITTEN["task"] | {"threshold": "shared"}},
            "task.threshold: unknown key; known keys: class_weights, data, dev_share, kind, label, label_smoothing, "
            "labels, max_dev, max_test, max_train, metric, refusal, text",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_or_all_known(
    path: Path, changes: dict[str, Any], line: str
) -> None:
    assert mistakes(path, **changes) == [line]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"text": {"kind": "wiki"}}, "text.kind: unknown kind 'wiki'; known kinds: 'hub', 'files', 'docstrings'"),
        ({"text": {"files": "a.txt"}}, "text: no `kind` given; known kinds: 'docstrings', 'files', 'hub'"),
        (
            {"task": WRITTEN["task"] | {"kind": "tagging"}},
            "task.kind: unknown kind 'tagging'; known kinds: 'classification', 'multi-label', 'regression', "
            "'token-classification', 'embedding'",
        ),
        (
            {"task": {"kind": "regression", "data": {"kind": "csv"}}},
            "task.data.kind: unknown kind 'csv'; known kinds: 'hub', 'files', 'docstrings'",
        ),
        (
            {"distill": {"objective": {"kind": "mse"}}},
            "distill.objective.kind: unknown kind 'mse'; known kinds: 'relation', 'hidden', 'direct', 'output', 'sum', "
            "'none'",
        ),
        (
            {"distill": {"objective": {"relation_heads": 12}}},
            "distill.objective: no `kind` given; known kinds: 'direct', 'hidden', 'none', 'output', 'relation', 'sum'",
        ),
        (
            {"quantize": {"kind": "statik"}},
            "quantize.kind: unknown kind 'statik'; known kinds: 'fp32', 'fp16', 'dynamic', 'static', 'mixed', "
            "'smoothquant', 'aware', 'openvino', 'search'",
        ),
        (
            {"benchmark": {"targets": {"here": {"kind": "torch"}}}},
            "benchmark.targets.here.kind: unknown kind 'torch'; known kinds: 'ort-cpu', 'ort-cuda', 'openvino'",
        ),
        (
            {"benchmark": {"targets": {"here": {"threads": 1}}}},
            "benchmark.targets.here: no `kind` given; known kinds: 'openvino', 'ort-cpu', 'ort-cuda'",
        ),
    ],
)
def test_an_unknown_or_missing_kind_is_answered_with_the_right_ones(
    path: Path, changes: dict[str, Any], line: str
) -> None:
    assert mistakes(path, **changes) == [line]


OBJECTIVE_KINDS = "'relation', 'hidden', 'direct', 'output', 'sum', 'none'"


@pytest.mark.parametrize(
    ("own", "line"),
    [
        ({"tokns": 5}, "tokns: unknown key; did you mean 'tokens'?"),
        ({"seed": 5}, "seed: unknown key; known keys: objective, optimization, student, tokens"),
        ({"student": {"layer": 2}}, "student.layer: unknown key; did you mean 'layers'?"),
        (
            {"optimization": {"learning_rat": 1}},
            "optimization.learning_rat: unknown key; did you mean 'learning_rate'?",
        ),
        ({"objective": {"kind": "mse"}}, f"objective.kind: unknown kind 'mse'; known kinds: {OBJECTIVE_KINDS}"),
        (
            {"objective": {"mapping": "last"}},
            "objective: no `kind` given; known kinds: 'direct', 'hidden', 'none', 'output', 'relation', 'sum'",
        ),
        (
            {"objective": {"kind": "relation", "relation_head": 2}},
            "objective.relation_head: unknown key; did you mean 'relation_heads'?",
        ),
        ({"tokens": 0}, "tokens: Input should be greater than or equal to 1 (given: 0)"),
    ],
)
def test_a_mistake_inside_one_of_several_students_is_named_with_the_student(
    path: Path, own: dict[str, Any], line: str
) -> None:
    written = {"students": {"small": {}, "tiny": own}}
    assert mistakes(path, distill=written) == [f"distill.students.tiny.{line}"]


@pytest.mark.parametrize("name", ["Small", "1st", "a_b", "a.b", "-a", ""])
def test_a_student_s_name_must_be_fit_for_a_label(path: Path, name: str) -> None:
    assert mistakes(path, distill={"students": {name: {}}}) == [
        f"distill.students.{name}: String should match pattern '^[a-z][a-z0-9-]*$' (given: {name!r})"
    ]


def test_students_are_set_one_by_one(path: Path) -> None:
    config = load_config(path, ["distill.students.small.student.layers=2", "distill.students.tiny.tokens=5"])
    assert {name: each.tokens for name, each in config.distill.each().items()} == {"small": 2_000_000, "tiny": 5}
    assert config.distill.each()["small"].student.layers == 2


@pytest.mark.parametrize(
    ("pretrain", "line"),
    [
        ({"tokns": 5}, "pretrain.tokns: unknown key; did you mean 'tokens'?"),
        (
            {"start": {"kind": "scrach"}},
            "pretrain.start.kind: unknown kind 'scrach'; known kinds: 'continued', 'scratch'",
        ),
        ({"start": {"layers": 2}}, "pretrain.start: no `kind` given; known kinds: 'continued', 'scratch'"),
        ({"start": {"kind": "scratch", "layer": 2}}, "pretrain.start.layer: unknown key; did you mean 'layers'?"),
        ({"start": {"kind": "continued", "layers": 2}}, "pretrain.start.layers: unknown key; known keys: kind"),
        ({"masked_share": 1.0}, "pretrain.masked_share: Input should be less than 1 (given: 1.0)"),
        (3, "pretrain: Input should be a valid dictionary or instance of PretrainConfig (given: 3)"),
    ],
)
def test_a_mistake_in_the_section_that_may_be_left_out_is_told_like_any_other(
    path: Path, pretrain: Any, line: str
) -> None:
    assert mistakes(path, pretrain=pretrain) == [line]


@pytest.mark.parametrize(
    ("distill", "line"),
    [
        (
            {"student": {"init_mapping": "best"}},
            "distill.student.init_mapping: Input should be 'uniform' or 'last', or a valid tuple (given: 'best')",
        ),
        (
            {"student": {"init_mapping": [1, 0]}},
            "distill.student.init_mapping.1: Input should be greater than or equal to 1 (given: 0)",
        ),
        (
            {"objective": {"kind": "sum", "terms": [{"objective": {"kind": "hidden", "mappin": 1}}]}},
            "distill.objective.terms.0.objective.mappin: unknown key; did you mean 'mapping'?",
        ),
        (
            {"objective": {"kind": "sum", "terms": [{"weigt": 2, "objective": {"kind": "hidden"}}]}},
            "distill.objective.terms.0.weigt: unknown key; did you mean 'weight'?",
        ),
        (
            {"objective": {"kind": "sum", "terms": [{"objective": {"kind": "none"}}]}},
            "distill.objective.terms.0.objective.kind: unknown kind 'none'; known kinds: 'relation', 'hidden', "
            "'direct', 'output'",
        ),
    ],
)
def test_a_mistake_in_a_list_or_in_a_value_of_several_forms_is_one_line(
    path: Path, distill: dict[str, Any], line: str
) -> None:
    assert mistakes(path, distill=distill) == [line]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"finetune": {"epochs": "many"}},
            "finetune.epochs: Input should be a valid integer, unable to parse string as an integer (given: 'many')",
        ),
        ({"finetune": {"epochs": -1}}, "finetune.epochs: Input should be greater than or equal to 0 (given: -1)"),
        (
            {"finetune": {"epochs": None}},
            "finetune.epochs: Input should be a valid integer (given: None)",
        ),
        (
            {"name": "A run"},
            "name: String should match pattern '^[a-z0-9][a-z0-9._-]*$' (given: 'A run')",
        ),
        (
            {"distill": {"student": {"init": "xavier"}}},
            "distill.student.init: Input should be 'random' or 'teacher-layers' (given: 'xavier')",
        ),
        (
            {"distill": 3},
            "distill: Input should be a valid dictionary or instance of DistillConfig (given: 3)",
        ),
        (
            {"register": WRITTEN["register"] | {"gate": []}},
            "register.gate: Tuple should have at least 1 item after validation, not 0 (given: [])",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_was_given(path: Path, changes: dict[str, Any], line: str) -> None:
    assert mistakes(path, **changes) == [line]


def test_a_gate_that_cannot_be_read_is_refused_with_the_grammar(path: Path) -> None:
    lines = mistakes(path, register=WRITTEN["register"] | {"gate": ["accuracy is high"]})
    assert lines[0] == "register.gate: rule 'accuracy is high' cannot be read."
    assert lines[1].lstrip().startswith("grammar:  metric op bound [* baseline]")
    assert lines[-1].lstrip() == "example:  accuracy >= 0.95 * teacher with confidence (given: ['accuracy is high'])"


def test_a_password_in_a_wrong_value_is_not_repeated(path: Path) -> None:
    told = refused(path, "register.tracking_uri=postgresql://ann:s3cret@ss@db/mlflow")
    assert told.endswith("(for a database, its driver's own variables) (given: 'postgresql://db/mlflow')")
    assert "s3cret" not in told


def test_all_mistakes_are_told_at_once(path: Path) -> None:
    lines = mistakes(
        path,
        name="NO",
        text={"kind": "wiki"},
        distill={"tokens": 0, "student": {"layer": 2}},
        register={"gate": ["size_mb <= 30"]},
        qantize={},
    )
    assert lines == [
        "name: String should match pattern '^[a-z0-9][a-z0-9._-]*$' (given: 'NO')",
        "text.kind: unknown kind 'wiki'; known kinds: 'hub', 'files', 'docstrings'",
        "distill.tokens: Input should be greater than or equal to 1 (given: 0)",
        "distill.student.layer: unknown key; did you mean 'layers'?",
        "register.name: required and not given",
        "qantize: unknown key; did you mean 'quantize'?",
    ]


def test_a_file_that_is_not_there_is_said_with_where_to_look(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    assert refused(path) == f"config {path}: No such file or directory; `ls configs` shows the ones that ship"
    assert refused(tmp_path) == f"config {tmp_path}: Is a directory; `ls configs` shows the ones that ship"


@pytest.mark.parametrize(("content", "found"), [("", "NoneType"), ("- a\n- b", "list"), ("hello", "str")])
def test_a_file_that_holds_no_mapping_is_refused(path: Path, content: str, found: str) -> None:
    path.write_text(content)
    assert refused(path) == f"config {path}: expected a mapping at the top, found {found}"


def test_a_file_that_is_no_yaml_is_refused_with_the_place(path: Path) -> None:
    path.write_text("name: a\n  b: [")
    assert refused(path) == (
        f'config {path} is not YAML: mapping values are not allowed here in "<byte string>", line 2, column 4: b: [ ^'
    )


def test_a_binary_file_is_refused_and_is_no_bug(path: Path) -> None:
    path.write_bytes(b"\x7fELF\xf0\x00")
    assert refused(path).startswith(f"config {path} is not YAML: ")


def test_yaml_that_would_run_code_is_refused(path: Path) -> None:
    path.write_text("name: !!python/object/apply:os.system ['true']")
    assert refused(path).startswith(f"config {path} is not YAML: could not determine a constructor for the tag")


def test_set_changes_one_value_and_keeps_the_others(path: Path) -> None:
    config = load_config(path, ["finetune.seed=7", "distill.student.layers=2", "distill.student.width=48"])
    assert config.finetune.seed == 7
    assert (config.distill.student.layers, config.distill.student.width) == (2, 48)
    assert config.distill.tokens == load_config(path).distill.tokens


@pytest.mark.parametrize(
    ("setting", "value"),
    [("true", True), ("yes", True), ("false", False), ("no", False)],
)
def test_set_reads_its_value_as_yaml(path: Path, setting: str, value: bool) -> None:
    assert load_config(path, [f"register.allow_dirty={setting}"]).register.allow_dirty is value


def test_set_reads_numbers_lists_and_equal_signs_in_values(path: Path) -> None:
    settings = ["register.gate=[accuracy >= 0.5, size_mb <= 9]", "distill.optimization.learning_rate=1e-3"]
    config = load_config(path, settings)
    assert config.register.gate == ("accuracy >= 0.5", "size_mb <= 9")
    assert config.distill.optimization.learning_rate == 1e-3


def test_the_last_set_of_a_key_wins(path: Path) -> None:
    assert load_config(path, ["finetune.seed=1", "finetune.seed=2"]).finetune.seed == 2


@pytest.mark.parametrize(
    ("written", "objective"),
    [
        ("{kind: none}", NoObjective()),
        ("{kind: hidden, mapping: last}", HiddenObjective(mapping="last")),
        ("{kind: relation, relation_heads: 6}", RelationObjective(relation_heads=6)),
    ],
)
def test_set_replaces_a_whole_variant(path: Path, written: str, objective: object) -> None:
    write(path, WRITTEN | {"distill": {"objective": {"kind": "relation", "teacher_layer": 2}, "seed": 3}})
    config = load_config(path, [f"distill.objective={written}"])
    assert config.distill.objective == objective
    assert config.distill.seed == 3


def test_set_of_a_kind_alone_leaves_the_keys_of_the_old_variant_to_be_refused(path: Path) -> None:
    write(path, WRITTEN | {"distill": {"objective": {"kind": "relation", "relation_heads": 2}}})
    assert refused(path, "distill.objective.kind=hidden").splitlines()[1] == (
        "  distill.objective.relation_heads: unknown key; known keys: kind, mapping"
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("finetune.seed", "--set finetune.seed: expected a.b=value, as in --set finetune.seed=1"),
        ("=1", "--set =1: expected a.b=value, as in --set finetune.seed=1"),
        ("", "--set : expected a.b=value, as in --set finetune.seed=1"),
        (
            "teacher.revision=abc",
            "--set teacher.revision=abc: 'teacher' holds the value 'teachers/bert', which has no keys; "
            "set teacher as a whole",
        ),
        (
            "register.gate=[a, b",
            '--set register.gate=[a, b: the value is not YAML: while parsing a flow sequence in "<unicode string>", '
            "line 1, column 1: [a, b ^ expected ',' or ']', but got '<stream end>' in \"<unicode string>\", line 1, "
            "column 6: [a, b ^",
        ),
    ],
)
def test_a_set_that_cannot_be_applied_is_refused_with_an_example(path: Path, setting: str, message: str) -> None:
    assert refused(path, setting) == message


def test_an_unknown_key_in_set_is_refused_like_one_in_the_file(path: Path) -> None:
    assert refused(path, "finetune.sed=1") == (f"config {path}:\n  finetune.sed: unknown key; did you mean 'seed'?")


def test_settings_of_a_lesson_without_a_teacher_are_refused(path: Path) -> None:
    assert mistakes(path, finetune={"distillation": {"weight": 0.9}}) == [
        "finetune: distillation is set and distill_from is not: nobody teaches; set distill_from: teacher "
        "(given: {'distillation': {'weight': 0.9}})"
    ]


def test_every_field_of_a_run_can_be_written_back_and_read_again(path: Path) -> None:
    config = load_config(path)
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")


def test_relation_heads_that_do_not_divide_both_widths_are_refused_by_plan(workspace: Workspace) -> None:
    config = load_config(CONFIGS / "smoke.yaml", ["distill.objective.relation_heads=7"])
    with pytest.raises(BadRequest) as caught:
        plan(config, workspace)
    assert str(caught.value) == (
        "distill.objective.relation_heads: 7 does not divide both the student's width 384 and the teacher's 384; "
        "these do: 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 384"
    )


def test_relation_heads_must_divide_the_width_of_a_narrow_student_too(workspace: Workspace) -> None:
    settings = ["distill.objective.relation_heads=12", "distill.student.width=32", "distill.student.heads=4"]
    config = load_config(CONFIGS / "smoke.yaml", settings)
    with pytest.raises(BadRequest) as caught:
        plan(config, workspace)
    assert str(caught.value) == (
        "distill.objective.relation_heads: 12 does not divide both the student's width 32 and the teacher's 384; "
        "these do: 1, 2, 4, 8, 16, 32"
    )


def test_heads_that_do_not_divide_the_student_s_width_are_refused_by_plan(workspace: Workspace) -> None:
    config = load_config(CONFIGS / "smoke.yaml", ["distill.student.width=50", "distill.student.heads=12"])
    with pytest.raises(BadRequest) as caught:
        plan(config, workspace)
    assert str(caught.value) == (
        "distill.student: width 50 does not divide into 12 heads; heads may be 1, 2, 5, 10, 25, 50"
    )


# -- targets of the benchmark ------------------------------------------------------------------------------------------

EDGE = {"kind": "openvino", "precision": "fp32"}


def test_a_run_that_names_no_target_measures_on_this_machine_s_cpu(path: Path) -> None:
    asked = load_config(path).benchmark
    assert asked.targets == {"here": OrtCpu()}
    assert (asked.first, asked.target) == ("here", OrtCpu())
    assert asked.each() == {"here": asked}


def test_the_first_target_is_the_first_one_given_unless_it_is_named(path: Path) -> None:
    targets = {"node": {"kind": "ort-cpu", "threads": 2}, "edge": EDGE}
    assert load_config(write_targets(path, targets)).benchmark.first == "node"
    assert load_config(path, ["benchmark.first=edge"]).benchmark.first == "edge"
    assert load_config(path, ["benchmark.targets.edge.threads=1"]).benchmark.first == "node"


def test_which_target_is_the_first_survives_in_what_decides_a_run(path: Path) -> None:
    """Mappings are compared, and hashed, without their order."""
    one = load_config(write_targets(path, {"node": {"kind": "ort-cpu"}, "edge": EDGE})).model_dump(mode="json")
    other = load_config(write_targets(path, {"edge": EDGE, "node": {"kind": "ort-cpu"}})).model_dump(mode="json")
    assert one != other
    assert RunConfig.model_validate(one).benchmark.first == "node"


def test_each_target_has_a_session_with_its_own_settings_and_pytorch_is_in_the_first(path: Path) -> None:
    targets = {"edge": EDGE, "node": {"kind": "ort-cpu"}}
    asked = load_config(write_targets(path, targets), ["benchmark.first=node", "benchmark.samples=50"]).benchmark
    each = asked.each()
    assert list(each) == ["node", "edge"]
    assert [(one.targets, one.first, one.torch, one.samples) for one in each.values()] == [
        ({"node": OrtCpu()}, "node", True, 50),
        ({"edge": OpenVino(precision="fp32")}, "edge", False, 50),
    ]


def test_only_targets_that_the_server_runs_are_tuned(path: Path) -> None:
    targets = {"node": {"kind": "ort-cpu"}, "edge": EDGE}
    assert load_config(path).benchmark.tune is None
    each = load_config(write_targets(path, targets), ["benchmark.tune.bound_ms=20"]).benchmark.each()
    assert (each["node"].tune, each["edge"].tune) == (TuneConfig(bound_ms=20), None)


@pytest.mark.parametrize(
    ("benchmark", "line"),
    [
        ({"first": "node"}, "benchmark.first: there is no such target; targets are: here (given: 'node')"),
        (
            {"targets": {}},
            "benchmark.targets: Dictionary should have at least 1 item after validation, not 0 (given: {})",
        ),
        ({"target": {"kind": "ort-cpu"}}, "benchmark.target: unknown key; did you mean 'targets'?"),
        (
            {"targets": {"here": {"kind": "ort-cpu", "thread": 1}}},
            "benchmark.targets.here.thread: unknown key; did you mean 'threads'?",
        ),
        (
            {"targets": {"my laptop": {"kind": "ort-cpu"}}, "first": "my laptop"},
            "benchmark.targets.my laptop: String should match pattern '^[A-Za-z][A-Za-z0-9_.-]*$' (given: 'my laptop')",
        ),
    ],
)
def test_what_is_wrong_with_the_targets_is_said(path: Path, benchmark: dict[str, Any], line: str) -> None:
    assert mistakes(path, benchmark=benchmark) == [line]


def write_targets(path: Path, targets: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(WRITTEN | {"benchmark": {"targets": targets}}, sort_keys=False))
    return path
