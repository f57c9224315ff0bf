"""What a config asks for as steps: one teacher, one student or several, a teacher that is made first."""

from typing import Any

import pytest
from written import config, steps

from benchmarks.targets import OpenVino
from pipeline.encoders.teachers import TeacherConfig
from pipeline.graph import STAGES, expand, sessions_of, variants_of
from pipeline.keys import step_key
from pipeline.quantization import SearchRecipe
from pipeline.quantizing.dynamic import DynamicRecipe
from pipeline.quantizing.features import computes_with
from pipeline.tasking.base import ALL, TUNING
from serving.cpu import usable_threads
from serving.machine import machine_identity


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


@pytest.mark.parametrize("changes", [{}, {"pretrain": {}, "distill": {"students": {"a": {}, "student": {}}}}])
def test_every_step_reads_only_what_comes_before_it_and_labels_are_unique(changes: dict[str, Any]) -> None:
    seen: set[str] = set()
    for step in expand(config(**changes)):
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
        "register",  # for the card
    }
    assert "test" not in TUNING


def test_the_benchmark_measures_the_four_variants_by_their_names() -> None:
    assert list(steps()["benchmark"].inputs) == [
        "teacher-torch-fp32",
        "teacher-onnx-fp32",
        "student-onnx-fp32",
        "student-onnx-int8",
    ]


STUDENTS = {"small": {"student": {"layers": 2}}, "wide-one": {"tokens": 5000}}


def test_every_student_is_distilled_fine_tuned_exported_and_quantized_under_its_name() -> None:
    found = expand(config(distill={"students": STUDENTS}))
    assert [(step.label, tuple(step.inputs.values())) for step in found[:-2]] == [
        ("distill-small", ()),
        ("distill-wide-one", ()),
        ("finetune-teacher", ()),
        ("finetune-small", ("distill-small",)),
        ("finetune-wide-one", ("distill-wide-one",)),
        ("export-teacher", ("finetune-teacher",)),
        ("export-small", ("finetune-small",)),
        ("export-wide-one", ("finetune-wide-one",)),
        ("quantize-small", ("export-small",)),
        ("quantize-wide-one", ("export-wide-one",)),
    ]
    assert [step.label for step in found[-2:]] == ["benchmark", "register"]
    assert list(found[-1].inputs) == [step.label for step in found[:-1]]


def test_the_teacher_in_torch_is_left_out_where_the_benchmark_says_so() -> None:
    measured = variants_of(config(benchmark={"torch": False}))
    assert list(measured) == ["teacher-onnx-fp32", "student-onnx-fp32", "student-onnx-int8"]


def test_a_search_belongs_to_its_machine_and_a_recipe_to_what_the_cpu_computes_with() -> None:
    place = STAGES["quantize"].place
    assert place is not None
    assert place(SearchRecipe()) == f"{machine_identity()},{usable_threads()}"
    assert place(DynamicRecipe()) == ",".join(computes_with())


def test_the_quantized_variant_is_called_by_its_recipe() -> None:
    names = {"dynamic": "onnx-int8", "openvino": "openvino-fp32", "fp32": "onnx-fused", "search": "onnx-best"}
    for kind, name in names.items():
        assert list(variants_of(config(quantize={"kind": kind})))[-1] == f"student-{name}"


def test_every_student_is_measured_in_both_precisions() -> None:
    run = config(distill={"students": STUDENTS})
    assert variants_of(run) == {
        "teacher-torch-fp32": "finetune-teacher",
        "teacher-onnx-fp32": "export-teacher",
        "small-onnx-fp32": "export-small",
        "small-onnx-int8": "quantize-small",
        "wide-one-onnx-fp32": "export-wide-one",
        "wide-one-onnx-int8": "quantize-wide-one",
    }
    assert {step.label: step for step in expand(run)}["benchmark"].inputs == variants_of(run)


def test_a_student_s_step_holds_what_it_has_of_its_own_and_what_is_beside_the_students() -> None:
    found = steps(distill={"students": STUDENTS, "seed": 3, "tokens": 7})
    small, wide = found["distill-small"].config, found["distill-wide-one"].config
    assert small == config(distill={"student": {"layers": 2}, "seed": 3, "tokens": 7}).distill
    assert wide == config(distill={"seed": 3, "tokens": 5000}).distill


def test_students_of_one_text_share_a_pass_and_those_that_mask_it_have_one_for_each_way() -> None:
    output = {"objective": {"kind": "output"}}
    more = {"objective": {"kind": "output", "masked_share": 0.3}}
    relation, hidden = {"objective": {"kind": "relation"}}, {"objective": {"kind": "hidden"}}
    students = {"a": relation, "b": output, "c": hidden, "d": more, "e": {**output, "tokens": 5}}
    groups = {step.label: step.group for step in expand(config(distill={"students": students}))}
    assert groups["distill-a"] == groups["distill-c"] != ""
    assert groups["distill-b"] == groups["distill-e"]
    assert len({groups[f"distill-{name}"] for name in "abd"}) == 3
    assert {group for label, group in groups.items() if not label.startswith("distill")} == {""}


def test_a_teacher_that_is_pretrained_first_is_the_teacher_of_all_that_follows() -> None:
    found = steps(pretrain={"tokens": 5000})
    assert next(iter(found)) == "pretrain"
    assert (found["pretrain"].inputs, set(found["pretrain"].sources)) == ({}, {"teacher", "text"})
    assert found["pretrain"].config == config(pretrain={"tokens": 5000}).pretrain
    assert (found["distill"].inputs, set(found["distill"].sources)) == ({"teacher": "pretrain"}, {"text"})
    teacher = found["finetune-teacher"]
    assert (teacher.inputs, set(teacher.sources)) == ({"model": "pretrain"}, {"task"})
    assert next(iter(found["register"].inputs)) == "pretrain"
    made = {label: step.inputs for label, step in found.items() if label not in ("pretrain", "register")}
    plain = {label: step.inputs for label, step in steps().items() if label != "register"}
    assert {label for label in made if made[label] != plain[label]} == {"distill", "finetune-teacher"}


def test_all_students_read_the_pretrained_teacher() -> None:
    found = steps(pretrain={}, distill={"students": STUDENTS})
    assert [found[f"distill-{name}"].inputs for name in STUDENTS] == [{"teacher": "pretrain"}] * 2


TAUGHT: dict[str, Any] = {"distill_from": "teacher", "distillation": {"hidden": 0.5}, "epochs": 2}


def test_students_learn_the_task_from_this_runs_teacher_and_the_teacher_from_nobody() -> None:
    found = steps(finetune=TAUGHT, distill={"students": STUDENTS})
    for name in STUDENTS:
        step = found[f"finetune-{name}"]
        assert (step.inputs, set(step.sources)) == (
            {"model": f"distill-{name}", "teacher": "finetune-teacher"},
            {"task"},
        )
        assert step.config == config(finetune=TAUGHT).finetune
    alone = found["finetune-teacher"]
    assert (alone.inputs, set(alone.sources)) == ({}, {"model", "task"})
    assert alone.config == config(finetune={"epochs": 2}).finetune  # its key does not change with the students'


def test_students_may_learn_the_task_from_a_folder() -> None:
    step = steps(finetune={"distill_from": "tuned/bert"})["finetune-student"]
    assert (step.inputs, set(step.sources)) == ({"model": "distill"}, {"task", "teacher"})
    assert step.sources["teacher"] == TeacherConfig(source="tuned/bert")
    assert step.modules == ("pipeline.stages.finetune", "pipeline.encoders.teachers", "pipeline.tasks")


def test_a_teacher_that_is_pretrained_first_teaches_the_task_too() -> None:
    found = steps(pretrain={}, finetune=TAUGHT)
    assert found["finetune-student"].inputs == {"model": "distill", "teacher": "finetune-teacher"}
    assert found["finetune-teacher"].inputs == {"model": "pretrain"}


def test_a_team_of_processes_makes_what_passes_over_the_text_and_nothing_else() -> None:
    assert [name for name, stage in STAGES.items() if stage.teamed] == ["pretrain", "distill"]


def test_only_figures_grow_old_after_the_hours_the_config_says() -> None:
    assert [name for name, stage in STAGES.items() if stage.fresh_for] == ["benchmark"]
    fresh_for = STAGES["benchmark"].fresh_for
    assert fresh_for is not None
    assert fresh_for(config(benchmark={"max_age_hours": 2}).benchmark) == 7200


def test_the_code_that_reads_a_step_s_sources_is_in_its_key() -> None:
    found = steps()
    assert found["export-student"].modules == ("pipeline.stages.export", "pipeline.tasks")
    assert found["distill"].modules == ("pipeline.stages.distill", "pipeline.data.corpus", "pipeline.encoders.teachers")
    assert found["quantize-student"].modules == ("pipeline.stages.quantize",)


TARGETS: dict[str, Any] = {"node": {"kind": "ort-cpu"}, "edge": {"kind": "openvino"}}


def test_a_session_is_held_at_every_target_and_the_first_one_measures_pytorch_too() -> None:
    run = config(benchmark={"targets": TARGETS})
    found = expand(run)
    assert [step.label for step in found[-3:]] == ["benchmark-node", "benchmark-edge", "register"]
    node, edge = found[-3:-1]
    assert (node.config, edge.config) == tuple(run.benchmark.each().values())
    assert node.inputs == variants_of(run) == {"teacher-torch-fp32": "finetune-teacher", **edge.inputs}
    assert edge.inputs == variants_of(run, "edge")
    assert sessions_of(run) == {"node": "benchmark-node", "edge": "benchmark-edge"}
    assert sessions_of(config()) == {"here": "benchmark"}


def test_every_session_measures_one_and_the_same_champion() -> None:
    gate = ["p95_ms <= 1 * champion at edge"]
    found = steps(benchmark={"targets": TARGETS}, register={"name": "model", "gate": gate})
    champions = [found[label].sources["champion"] for label in ("benchmark-node", "benchmark-edge")]
    assert champions[0] is champions[1]


def test_register_reads_every_session_and_its_key_knows_which_is_the_first() -> None:
    def key(first: str) -> str:
        asked = {"targets": TARGETS, "first": first, "torch": False}
        register = steps(benchmark=asked)["register"]
        return step_key(register, {role: f"digest of {label}" for role, label in register.inputs.items()})

    read = steps(benchmark={"targets": TARGETS, "first": "edge"})["register"].inputs
    assert (read["benchmark"], read["benchmark-node"]) == ("benchmark-edge", "benchmark-node")
    assert "benchmark-edge" not in read
    assert key("node") != key("edge")


def test_a_session_that_is_skipped_here_is_held_where_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    place = STAGES["benchmark"].place
    assert place is not None
    (asked,) = config(benchmark={"targets": {"edge": TARGETS["edge"]}}).benchmark.each().values()
    monkeypatch.setattr(OpenVino, "missing", lambda _: "")
    assert place(asked) == machine_identity()
    monkeypatch.setattr(OpenVino, "missing", lambda _: "openvino")
    assert place(asked) == f"{machine_identity()}, without openvino"
