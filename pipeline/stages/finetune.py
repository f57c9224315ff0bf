"""finetune: a model for the task from an encoder (teacher or student); leaves a model folder in the hub's format."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from pipeline.optimization import Optimization
from pipeline.schedule import Schedule
from pipeline.task_distillation import TaskDistillation

if TYPE_CHECKING:
    from pipeline.finetuning import Outcome
    from pipeline.graph import Inputs, Tools
    from pipeline.predicting import Seen
    from pipeline.task_distillation import Lessons
    from pipeline.tasking.base import TaskData

TEACHER = "teacher"


class FinetuneConfig(Schedule):
    """How long and how.

    `distill_from` makes students learn from a model fine-tuned for this task as well: `teacher` (this run's own), or a
    folder that a fine-tuning left.
    """

    optimization: Optimization = Optimization(learning_rate=1e-4)
    distill_from: str | None = None
    distillation: TaskDistillation = TaskDistillation()

    @model_validator(mode="after")
    def _lessons_have_a_teacher(self) -> "FinetuneConfig":
        if self.distill_from is None and self.distillation != TaskDistillation():  # what is written back has all fields
            raise ValueError("distillation is set and distill_from is not: nobody teaches; set distill_from: teacher")
        return self

    def alone(self) -> "FinetuneConfig":
        """The settings of one who has no teacher."""
        return self.model_copy(update={"distill_from": None, "distillation": TaskDistillation()})


def check(config: FinetuneConfig, data: "TaskData", *, kind: str) -> None:
    """BadRequest where a folder that is to teach the task learned another, or other labels."""
    from pipeline.task_distillation import check_teacher
    from pipeline.tasking.fitted import read_fitted

    if config.distill_from not in (None, TEACHER):
        check_teacher(read_fitted(Path(str(config.distill_from))), data.label_names, kind=kind)


def run(config: FinetuneConfig, inputs: "Inputs", out: Path, tools: "Tools") -> dict[str, Any]:
    """Train on the task's train split, keep the epoch that is best on dev, and save it with tokenizer and what was
    fitted."""
    from pipeline.curves import save_curve
    from pipeline.data.survey import table_of
    from pipeline.encoders.heads import load_for_task
    from pipeline.encoders.students import parameters_of, save_encoder
    from pipeline.encoders.teachers import load_tokenizer
    from pipeline.finetuning import checked_survey
    from pipeline.precision import precision_used
    from pipeline.predicting import seen_by

    folder, view = inputs.model_folder("model", tools.cache), inputs.sources["task"]
    teacher = inputs.model_folder(TEACHER, tools.cache) if config.distill_from is not None else None
    data = view.load(tools.cache, tools.progress)
    tokenizer = load_tokenizer(folder)
    tokenizer.model_max_length = config.max_length
    train, dev = (seen_by(view.task, part, tokenizer, max_length=config.max_length) for part in (data.train, data.dev))
    surveyed = checked_survey(view.task, data, train, dev, tokenizer)
    if tools.label == "finetune-teacher":  # the students' data is the same
        tools.reporter.show(table_of(surveyed))
    model = load_for_task(folder, view.task, data.label_names, seed=config.seed, teacher=teacher)
    lessons = _lessons(config, teacher, inputs, tools, train, data)
    outcome = _train(config, model, data, train, dev, lessons, tools, pad_id=tokenizer.pad_token_id)
    if outcome.history:
        save_curve(outcome.history, out, title="fine-tuning")
    save_encoder(model, tokenizer, out)
    outcome.fitted.write(out)
    return {
        "parameters": parameters_of(model),
        "precision": precision_used(config.precision, "cpu") if outcome.history else None,
        "metric": view.task.metrics[0],
        "train_texts": len(data.train.items),
        "dev_texts": len(data.dev.items),
        "dev_scores": outcome.dev_scores,
        "best_epoch": outcome.best_epoch,
        "schedule": config.model_dump(mode="json", include=set(Schedule.model_fields)),
        "data": surveyed,
    }


def _lessons(
    config: FinetuneConfig, teacher: "Path | None", inputs: "Inputs", tools: "Tools", train: "Seen", data: "TaskData"
) -> "Lessons | None":
    """What the teacher says of train, from the cache where it has been asked before."""
    if teacher is None:
        return None
    from pipeline.data.digests import json_digest
    from pipeline.task_distillation import lessons_from

    made, view = inputs.artifacts.get(TEACHER), inputs.sources["task"]
    who = made.digest if made is not None else inputs.sources[TEACHER].identity(tools.cache)
    asked = json_digest([who, view.identity(tools.cache), config.max_length, tools.code])
    return lessons_from(
        teacher,
        view.task,
        data,
        train,
        settings=config.distillation,
        max_length=config.max_length,
        kept_at=tools.cache / "lessons" / f"{asked}.npz",
    )


def _train(
    config: FinetuneConfig,
    model: Any,
    data: "TaskData",
    train: "Seen",
    dev: "Seen",
    lessons: "Lessons | None",
    tools: "Tools",
    *,
    pad_id: int,
) -> "Outcome":
    """Fine-tune; an embedding's teacher is only measured, as it has nobody to learn from."""
    from pipeline.checkpoints import Checkpoints
    from pipeline.finetuning import as_it_is, finetune

    task = train.task
    if lessons is None and not task.learns_labels:
        return as_it_is(model, data, dev, pad_id=pad_id)
    return finetune(
        model,
        data,
        train=train,
        dev=dev,
        pad_id=pad_id,
        schedule=config,
        optimization=config.optimization,
        checkpoints=Checkpoints(tools.checkpoints),
        reporter=tools.reporter,
        title=f"finetune {tools.label.removeprefix('finetune-')}",
        lessons=lessons,
    )
