"""finetune as a stage, for the student (an artifact) and for the teacher (a source), alone or with a teacher."""

import json
from pathlib import Path
from typing import Any

import pytest
from kinds import task_over
from models import LABELS
from pydantic import ValidationError
from safetensors.torch import load_file

from pipeline.artifact import Artifact
from pipeline.encoders.teachers import TeacherConfig, load_tokenizer
from pipeline.errors import BadRequest
from pipeline.graph import Inputs, Tools
from pipeline.progress import Silent
from pipeline.stages import finetune
from pipeline.stages.finetune import FinetuneConfig
from pipeline.tasking.base import TUNING
from pipeline.tasking.fitted import Fitted, read_fitted
from pipeline.tasks import TaskSplits

TAUGHT = {"epochs": 1, "distill_from": "teacher"}


def test_it_leaves_a_classifier_with_labels_and_the_length_it_was_trained_for(chain: Any) -> None:
    path = chain.finetuned.path

    config = json.loads((path / "config.json").read_text())
    assert list(config["id2label"].values()) == list(LABELS)
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert load_tokenizer(path).model_max_length == 20
    assert (path / "evidence" / "curve.png").is_file()
    assert read_fitted(path) == Fitted("classification", LABELS)


def test_its_facts_are_counts_and_dev_scores_and_nothing_of_the_test_split(chain: Any) -> None:
    """The chain's task names a test split whose file does not exist."""
    facts = chain.finetuned.manifest.facts

    assert (facts["metric"], facts["train_texts"], facts["dev_texts"]) == ("accuracy", 230, 40)
    assert len(facts["dev_scores"]) == 2
    assert facts["best_epoch"] == 1 + facts["dev_scores"].index(max(facts["dev_scores"]))
    batches = {"batch_tokens": 128, "micro_batches": 1, "max_length": 20}
    assert facts["schedule"] == {"epochs": 2, "patience": 2, "seed": 0, "precision": "auto", **batches}
    assert set(facts["data"]["splits"]) == {"train", "dev"}


def test_the_same_step_leaves_the_same_bytes(chain: Any, tmp_path: Path) -> None:
    inputs = Inputs({"model": chain.distilled}, {"task": chain.task})
    again: Artifact = chain.finetune(inputs, "finetune-student", tmp_path)
    assert again.digest == chain.finetuned.digest


def test_a_teacher_is_fine_tuned_from_its_own_folder(chain: Any) -> None:
    left: Artifact = chain.tuned_teacher

    assert json.loads((left.path / "config.json").read_text())["num_hidden_layers"] == 3
    assert left.manifest.facts["parameters"] > chain.finetuned.manifest.facts["parameters"]


@pytest.mark.parametrize("settings", [{"epochs": -1}, {"patience": 0}, {"max_length": 513}, {"batch": 5}])
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FinetuneConfig.model_validate(settings)


# -- with a teacher ----------------------------------------------------------------------------------------------------


def taught(chain: Any, label: str, root: Path, *, teacher: Artifact | None = None, **settings: Any) -> Artifact:
    """A student fine-tuned with a teacher, by default the chain's own."""
    inputs = Inputs({"model": chain.distilled, "teacher": teacher or chain.tuned_teacher}, {"task": chain.task})
    made: Artifact = chain.finetune(inputs, label, root, **{**TAUGHT, **settings})
    return made


def lessons_in(root: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in (root / "cache" / "lessons").iterdir()}


def test_a_teacher_is_asked_once_for_all_who_learn_the_same_from_it(chain: Any, tmp_path: Path) -> None:
    """Students, seeds and repeated runs share a file; another length or another teacher has its own."""
    first = taught(chain, "finetune-a", tmp_path)
    known = lessons_in(tmp_path)
    taught(chain, "finetune-b", tmp_path, seed=1)
    taught(chain, "finetune-c", tmp_path, distillation={"temperature": 4.0, "weight": 0.1})
    assert len(known) == 1
    assert lessons_in(tmp_path) == known

    taught(chain, "finetune-d", tmp_path, max_length=12)
    assert len(lessons_in(tmp_path)) == 2
    taught(chain, "finetune-e", tmp_path, teacher=chain.finetuned)
    assert len(lessons_in(tmp_path)) == 3
    again = taught(chain, "finetune-f", tmp_path)
    assert again.digest == first.digest  # from what was kept, the same student
    assert len(lessons_in(tmp_path)) == 3


def test_a_students_teacher_may_be_a_folder_that_was_there_before(chain: Any, tmp_path: Path) -> None:
    source = TeacherConfig(source=str(chain.tuned_teacher.path))
    inputs = Inputs({"model": chain.distilled}, {"task": chain.task, "teacher": source})

    made: Artifact = chain.finetune(inputs, "finetune-a", tmp_path, epochs=1, distill_from=source.source)

    assert made.digest == taught(chain, "finetune-b", tmp_path).digest


def test_a_teacher_changes_what_is_learnt_and_hidden_states_do_too(chain: Any, tmp_path: Path) -> None:
    inputs = Inputs({"model": chain.distilled}, {"task": chain.task})
    alone: Artifact = chain.finetune(inputs, "finetune-a", tmp_path, epochs=1)
    with_hidden = taught(chain, "finetune-c", tmp_path, distillation={"hidden": 1.0})

    assert len({alone.digest, taught(chain, "finetune-b", tmp_path).digest, with_hidden.digest}) == 3
    kept = load_file(alone.path / "model.safetensors")
    left = load_file(with_hidden.path / "model.safetensors")
    assert {name: tuple(weight.shape) for name, weight in left.items()} == {
        name: tuple(weight.shape) for name, weight in kept.items()
    }  # the student is narrower than its teacher; the projections are gone
    first = json.loads((with_hidden.path / "evidence" / "curve.jsonl").read_text().splitlines()[0])
    assert {"task", "teacher", "hidden"} <= set(first)


def test_a_teacher_of_another_task_is_refused_before_anything_is_trained(chain: Any, tmp_path: Path) -> None:
    view = TaskSplits(task_over(tmp_path, "regression", train=20, dev=8), TUNING)
    inputs = Inputs({"model": chain.distilled, "teacher": chain.tuned_teacher}, {"task": view})

    with pytest.raises(BadRequest) as refused:
        chain.finetune(inputs, "finetune-a", tmp_path, **TAUGHT)
    assert str(refused.value) == (
        "finetune.distill_from: the teacher was fine-tuned for classification, and the task is regression; name a "
        "teacher of this task"
    )


def test_a_teacher_of_vectors_is_measured_and_its_weights_are_left_as_they_were(chain: Any, tmp_path: Path) -> None:
    view = TaskSplits(task_over(tmp_path, "embedding", train=20, dev=20), TUNING)

    made: Artifact = chain.finetune(Inputs({}, {"model": chain.teacher, "task": view}), "finetune-teacher", tmp_path)

    before, after = (load_file(Path(path) / "model.safetensors") for path in (chain.teacher.source, made.path))
    assert before.keys() - after.keys() == {"pooler.dense.weight", "pooler.dense.bias"}
    assert all((weight == before[name]).all() for name, weight in after.items())
    assert made.manifest.facts["best_epoch"] == 0
    assert len(made.manifest.facts["dev_scores"]) == 1
    assert not (made.path / "evidence" / "curve.png").exists()


def test_a_student_of_vectors_pools_as_its_teacher_and_comes_nearer_to_it(chain: Any, tmp_path: Path) -> None:
    view = TaskSplits(task_over(tmp_path, "embedding", train=60, dev=20, pooling="as-teacher"), TUNING)
    teacher: Artifact = chain.finetune(Inputs({}, {"model": chain.teacher, "task": view}), "finetune-teacher", tmp_path)
    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (teacher.path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))

    inputs = Inputs({"model": chain.distilled, "teacher": teacher}, {"task": view})
    made: Artifact = chain.finetune(inputs, "finetune-student", tmp_path, distill_from="teacher")

    assert json.loads((made.path / "1_Pooling" / "config.json").read_text()) == {
        **pooling,
        "word_embedding_dimension": 32,
    }
    assert read_fitted(made.path) == Fitted("embedding", dimensions=32)
    assert read_fitted(teacher.path) == Fitted("embedding", dimensions=48)


# -- the config --------------------------------------------------------------------------------------------------------


def test_a_distillation_without_a_teacher_is_refused() -> None:
    with pytest.raises(ValidationError) as refused:
        FinetuneConfig.model_validate({"distillation": {"temperature": 3.0}})
    assert "distillation is set and distill_from is not: nobody teaches; set distill_from: teacher" in str(
        refused.value
    )


def test_one_who_has_no_teacher_has_the_same_settings_but_for_that() -> None:
    config = FinetuneConfig.model_validate({**TAUGHT, "seed": 3, "distillation": {"hidden": 0.5}})

    assert config.alone() == FinetuneConfig(epochs=1, seed=3)
    assert FinetuneConfig.model_validate(config.alone().model_dump()) == config.alone()  # as a key's file is read back


# -- the survey --------------------------------------------------------------------------------------------------------


class Shown(Silent):
    """Remembers the tables it is shown."""

    def __init__(self) -> None:
        self.tables: list[Any] = []

    def show(self, table: Any) -> None:
        self.tables.append(table)


@pytest.mark.parametrize(("label", "tables"), [("finetune-teacher", 1), ("finetune-small", 0)])
def test_the_data_is_shown_once_with_the_teacher(label: str, tables: int, chain: Any, tmp_path: Path) -> None:
    """Its students' is the same; the facts of all keep it."""
    view, shown = TaskSplits(task_over(tmp_path, "embedding", train=8, dev=8), TUNING), Shown()
    tools = Tools("key", tmp_path, tmp_path / "cache", tmp_path / "checkpoints", shown, label=label)
    (tmp_path / "out").mkdir()

    inputs = Inputs({}, {"model": chain.teacher, "task": view})
    facts = finetune.run(FinetuneConfig(max_length=20), inputs, tmp_path / "out", tools)

    assert len(shown.tables) == tables
    assert facts["data"]["splits"]["dev"]["texts"] == 16
    assert facts["precision"] is None, "nothing was trained"
