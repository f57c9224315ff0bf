"""What a config asks for that can only fail is refused at plan time, with what is wrong and the way out."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from models import LABELS, Fitted, tuned_folder

from configs import WRITTEN, config, refusal
from pipeline import checks
from pipeline.checks import check, check_team
from pipeline.errors import BadArtifact, BadRequest
from pipeline.graph import expand


def test_a_config_that_can_work_passes(teacher: Path, tmp_path: Path) -> None:
    check(config(teacher), cache=tmp_path)


def test_a_metric_of_another_task_is_refused(teacher: Path, tmp_path: Path) -> None:
    assert refusal(config(teacher, gate=["spearman_low >= 0.5"]), tmp_path).startswith(
        "register.gate: 'spearman_low >= 0.5': spearman is no metric of this task; known here: accuracy, "
    )


def test_a_figure_beside_fp32_that_the_task_has_not_is_refused(teacher: Path, tmp_path: Path) -> None:
    numbers = {**WRITTEN["task"], "kind": "regression"}
    check(config(teacher, task=numbers, gate=["drop_high <= 0.01"]), cache=tmp_path)
    for figure in ("flips", "ece"):
        assert refusal(config(teacher, task=numbers, gate=[f"{figure} <= 0.02"]), tmp_path).startswith(
            f"register.gate: '{figure} <= 0.02': {figure} is no metric of this task; known here: "
        )


REFUSING = {**WRITTEN["task"], "refusal": {"data": {"kind": "files", "train": "in.csv", "test": "out.csv"}}}


@pytest.mark.parametrize("figure", ["oos_auroc", "oos_refused", "in_scope_refused"])
def test_what_a_refusal_reports_is_a_metric_of_a_task_that_refuses_and_of_no_other(
    teacher: Path, tmp_path: Path, figure: str
) -> None:
    rule = f"{figure}_low >= 0.5"
    check(config(teacher, gate=[rule], task=REFUSING), cache=tmp_path)
    assert refusal(config(teacher, gate=[rule]), tmp_path).startswith(
        f"register.gate: '{rule}': {figure} is no metric of this task; known here: accuracy, "
    )


def test_a_refusal_without_texts_outside_reports_what_it_refuses_inside_alone(teacher: Path, tmp_path: Path) -> None:
    task = {**WRITTEN["task"], "refusal": {"keep": 0.9}}
    check(config(teacher, gate=["in_scope_refused <= 0.2"], task=task), cache=tmp_path)
    assert "oos_auroc is no metric of this task" in refusal(
        config(teacher, gate=["oos_auroc >= 0.5"], task=task), tmp_path
    )


VECTORS = {**WRITTEN["task"], "kind": "embedding"}
NUMBERS = {**WRITTEN["task"], "kind": "regression"}


def test_vectors_without_a_teacher_are_refused(teacher: Path, tmp_path: Path) -> None:
    gate = ["spearman >= 0.9 * teacher"]
    assert refusal(config(teacher, gate=gate, task=VECTORS), tmp_path) == (
        "task embedding: vectors are learned from a teacher, not from labels; set finetune.distill_from: teacher, or "
        "finetune.epochs: 0 to take the student as distilled"
    )
    taught = {**WRITTEN["finetune"], "distill_from": "teacher"}
    check(config(teacher, gate=gate, task=VECTORS, finetune=taught), cache=tmp_path)


def test_only_an_untaught_embedding_may_go_without_an_epoch(teacher: Path, tmp_path: Path) -> None:
    gate, none = ["spearman >= 0.9 * teacher"], {**WRITTEN["finetune"], "epochs": 0}
    check(config(teacher, gate=gate, task=VECTORS, finetune=none), cache=tmp_path)
    assert refusal(config(teacher, finetune=none), tmp_path) == (
        "finetune.epochs is 0, and a head learns nothing in them; set it to 1 or more"
    )
    taught = {**none, "distill_from": "teacher"}
    assert refusal(config(teacher, gate=gate, task=VECTORS, finetune=taught), tmp_path) == (
        "finetune.epochs is 0, and 'teacher' has nobody to teach; set it to 1 or more"
    )


@pytest.mark.parametrize(
    ("task", "setting", "told"),
    [
        (VECTORS, {"weight": 0.9}, "weight does nothing for embedding: there are no labels to weigh against"),
        (VECTORS, {"temperature": 4}, "temperature does nothing for embedding: its answers are no probabilities"),
        (NUMBERS, {"temperature": 4}, "temperature does nothing for regression: its answers are no probabilities"),
    ],
)
def test_a_setting_of_the_lessons_that_would_do_nothing_is_refused(
    task: dict[str, object], setting: dict[str, float], told: str, teacher: Path, tmp_path: Path
) -> None:
    taught = {**WRITTEN["finetune"], "distill_from": "teacher", "distillation": setting}
    assert refusal(config(teacher, gate=["spearman >= 0.5"], task=task, finetune=taught), tmp_path) == (
        f"finetune.distillation.{told}; leave it out"
    )


def test_hidden_states_over_another_vocabulary_are_refused(teacher: Path, tmp_path: Path) -> None:
    taught = {**WRITTEN["finetune"], "distill_from": "teacher", "distillation": {"hidden": 1.0}}
    pruned = {**WRITTEN["distill"], "vocabulary": {"kind": "corpus"}}
    check(config(teacher, finetune=taught), cache=tmp_path)
    assert refusal(config(teacher, finetune=taught, distill=pruned), tmp_path) == (
        "finetune.distillation.hidden: student has a vocabulary of its own (distill.vocabulary) and reads other tokens "
        "than its teacher, so their states do not stand side by side; set it to 0"
    )


@pytest.mark.parametrize("named", ["Teacher", "somebody/some-model", "runs/none"])
def test_a_teacher_of_the_task_that_is_not_here_is_refused(named: str, teacher: Path, tmp_path: Path) -> None:
    taught = {**WRITTEN["finetune"], "distill_from": named}
    assert refusal(config(teacher, finetune=taught), tmp_path) == (
        f"finetune.distill_from: {named!r} is neither 'teacher', which is this run's own, nor a folder here"
    )


def test_texts_outside_that_nobody_would_report_on_are_refused(teacher: Path, tmp_path: Path) -> None:
    task = {**WRITTEN["task"], "refusal": {"data": {"kind": "files", "train": "out.csv"}}}
    assert refusal(config(teacher, task=task), tmp_path) == (
        "task.refusal.data names no test split, and only that is read of it: add one"
    )


def taught_by(folder: object) -> dict[str, object]:
    return {**WRITTEN["finetune"], "distill_from": str(folder)}


def test_a_folder_that_is_to_teach_the_task_must_have_learned_it(teacher: Path, tmp_path: Path) -> None:
    tuned = tuned_folder(tmp_path / "tuned", "bert", Fitted("classification", LABELS), layers=1)
    check(config(teacher, finetune=taught_by(tuned)), cache=tmp_path)

    other = tuned_folder(tmp_path / "other", "bert", Fitted("multi-label", LABELS, thresholds=(0.5, 0.5)), layers=1)
    assert refusal(config(teacher, finetune=taught_by(other)), tmp_path) == (
        "finetune.distill_from: the teacher was fine-tuned for multi-label, and the task is classification; name a "
        "teacher of this task"
    )
    with pytest.raises(BadArtifact, match="does not say what the model was fine-tuned for"):
        check(config(teacher, finetune=taught_by(teacher)), cache=tmp_path)


STUDENTS = {"small": {"tokens": 1000}, "tiny": {"tokens": 2000}}


def distilled(**changes: object) -> dict[str, object]:
    return {**WRITTEN["distill"], **changes}  # type: ignore[dict-item]


def test_a_baseline_may_be_any_student_and_one_nobody_measures_is_answered_with_all(
    teacher: Path, tmp_path: Path
) -> None:
    several = distilled(students=STUDENTS)
    check(config(teacher, distill=several, gate=["accuracy >= 1.0 * small-onnx-fp32"]), cache=tmp_path)
    assert refusal(config(teacher, distill=several, gate=["accuracy >= 1.0 * student-onnx-fp32"]), tmp_path) == (
        "register.gate: 'accuracy >= 1.0 * student-onnx-fp32': there is no variant 'student-onnx-fp32'; a baseline is "
        "'teacher' or one of teacher-torch-fp32, teacher-onnx-fp32, small-onnx-fp32, small-onnx-int8, tiny-onnx-fp32, "
        "tiny-onnx-int8"
    )


@pytest.mark.parametrize("source", ["a folder", "somebody/some-model"])
def test_the_teacher_s_name_is_free_for_no_student_wherever_the_teacher_is(
    teacher: Path, tmp_path: Path, source: str
) -> None:
    folder = teacher if source == "a folder" else Path(source)
    assert refusal(config(folder, distill=distilled(students={"teacher": {}})), tmp_path) == (
        "distill.students.teacher: that is the teacher's own name; call the student otherwise"
    )


def test_two_students_that_are_one_are_refused(teacher: Path, tmp_path: Path) -> None:
    """They would have one key, and the second would wait for the lock of the first."""
    same = {"small": {"tokens": 1000}, "tiny": {}, "little": {"tokens": 1000, "student": {"layers": 1}}}
    assert refusal(config(teacher, distill=distilled(students=same)), tmp_path) == (
        "distill.students: small and little ask for the very same; give one of them settings of its own, or remove it"
    )


def test_what_one_of_several_students_cannot_do_is_told_with_its_name(teacher: Path, tmp_path: Path) -> None:
    students = {**STUDENTS, "deep": {"student": {"layers": 5}}}
    assert refusal(config(teacher, distill=distilled(students=students)), tmp_path).startswith(
        "distill.students.deep: layer mapping 'uniform': the student has 5 layers and the teacher only 2; "
    )


def test_a_student_is_compared_with_the_teacher_that_will_be_pretrained(teacher: Path, tmp_path: Path) -> None:
    four = distilled(student={"layers": 4}, objective={"kind": "relation", "relation_heads": 8})
    assert "the teacher only 2" in refusal(config(teacher, distill=four), tmp_path)
    deep = {"start": {"kind": "scratch", "layers": 6}, "max_length": 64}
    check(config(teacher, distill=four, pretrain=deep), cache=tmp_path)


def test_an_output_objective_needs_a_head_or_a_teacher_that_is_given_one(teacher: Path, tmp_path: Path) -> None:
    output = distilled(objective={"kind": "output"})
    assert "retort pretrain" in refusal(config(teacher, distill=output), tmp_path)
    check(config(teacher, distill=output, pretrain={"max_length": 64}), cache=tmp_path)


def test_a_shape_that_a_teacher_from_scratch_cannot_have_is_refused_in_its_own_section(
    teacher: Path, tmp_path: Path
) -> None:
    start = {"kind": "scratch", "width": 50, "heads": 12}
    assert refusal(config(teacher, pretrain={"start": start, "max_length": 64}), tmp_path) == (
        "pretrain.start: width 50 does not divide into 12 heads; heads may be 1, 2, 5, 10, 25, 50"
    )


def test_a_team_must_divide_the_micro_batches_of_the_steps_it_makes_and_no_other(teacher: Path, tmp_path: Path) -> None:
    asked = config(teacher, pretrain={"micro_batches": 6, "max_length": 64}, distill=distilled(micro_batches=4))
    steps = expand(asked)
    check_team(steps, size=1)
    check_team(steps, size=2)
    check_team([step for step in steps if step.stage != "distill"], size=3)
    with pytest.raises(BadRequest) as refused:
        check_team(steps, size=3)
    assert str(refused.value) == (
        "distill.micro_batches is 4, which 3 processes cannot share evenly; make it a multiple of 3, or start a number "
        "of processes that divides it"
    )


def test_inputs_shorter_than_what_is_timed_are_refused(teacher: Path, tmp_path: Path) -> None:
    assert refusal(config(teacher, finetune={"max_length": 32}), tmp_path) == (
        "finetune.max_length: 32, but latency is measured at 64 tokens; set 64 or more"
    )


def test_windows_that_share_more_than_half_of_what_is_read_are_refused(teacher: Path, tmp_path: Path) -> None:
    asked = {"finetune": {"max_length": 64}, "export": {"long_texts": {"kind": "windows", "stride": 33}}}
    assert refusal(config(teacher, **asked), tmp_path) == (
        "export.long_texts.stride: 33, but windows of 64 tokens (finetune.max_length) may share half of them; set 32 "
        "or less"
    )
    asked["export"]["long_texts"]["stride"] = 32  # type: ignore[index]
    check(config(teacher, **asked), cache=tmp_path)


@pytest.mark.parametrize("stage", ["distill", "finetune", "pretrain"])
def test_inputs_longer_than_the_teacher_s_positions_are_refused(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(checks, "positions_in", lambda _folder: 80)
    changed = {**WRITTEN.get(stage, {}), "max_length": 81}  # type: ignore[dict-item]
    assert refusal(config(teacher, **{stage: changed}), tmp_path) == (
        f"{stage}.max_length: 81, but the teacher {str(teacher)!r} has positions for 80 tokens; set 80 or less"
    )


def test_inputs_longer_than_the_positions_of_who_teaches_the_task_are_refused(teacher: Path, tmp_path: Path) -> None:
    tuned = tuned_folder(tmp_path / "tuned", "bert", Fitted("classification", LABELS), layers=1)  # 80 positions
    asked = {"max_length": 81, "distill_from": str(tuned)}
    assert refusal(config(teacher, finetune=asked), tmp_path) == (
        f"finetune.max_length: 81, but the teacher {str(tuned)!r} has positions for 80 tokens; set 80 or less"
    )


@pytest.mark.parametrize(
    ("model_type", "positions", "pad_id", "most"), [("bert", 512, 0, 512), ("roberta", 514, 1, 512)]
)
def test_positions_are_counted_as_the_family_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str, positions: int, pad_id: int, most: int
) -> None:
    from pipeline.encoders import teachers

    written = {"model_type": model_type, "max_position_embeddings": positions, "pad_token_id": pad_id}
    monkeypatch.setattr(teachers, "read_config", lambda _folder: written)
    assert teachers.positions_in(tmp_path) == most


def test_a_teacher_that_is_not_here_yet_is_not_fetched_for_a_check(tmp_path: Path) -> None:
    away = SimpleNamespace(**vars(config(Path("somebody/some-model"))))
    check(away, cache=tmp_path)  # type: ignore[arg-type]
