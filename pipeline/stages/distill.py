"""distill: a student of the teacher's family, trained on unlabelled text; leaves an encoder folder in the hub's
format."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline.distillation.objectives import HiddenObjective, NoObjective, Objective, Pair, RelationObjective
from pipeline.encoders.students import StudentConfig
from pipeline.encoders.teachers import TeacherConfig, shape_in
from pipeline.records import Record
from pipeline.training import Optimization, bf16_on

if TYPE_CHECKING:
    from pipeline.graph import Inputs, Tools


class DistillConfig(Record):
    """Which student, by which objective, for how many real tokens."""

    student: StudentConfig = StudentConfig()
    objective: Objective = RelationObjective()
    tokens: int = Field(default=2_000_000, ge=1)
    batch_tokens: int = Field(default=2048, ge=1)
    max_length: int = Field(default=128, ge=2)
    optimization: Optimization = Optimization()
    seed: int = Field(default=0, ge=0)


def check(config: DistillConfig, teacher: TeacherConfig, *, cache: Path) -> None:
    """Refuse before anything runs what this teacher and student cannot do; a teacher that is not here yet is not
    fetched for it."""
    if teacher.is_local():
        shape = shape_in(teacher.folder(cache))
        config.objective.check(Pair(student=config.student.shape(shape), teacher=shape))


def run(config: DistillConfig, inputs: "Inputs", out: Path, tools: "Tools") -> dict[str, Any]:
    """Build the student, distil it, save it with the teacher's tokenizer; the loss curve goes to evidence/."""
    from pipeline.curves import save_curve
    from pipeline.encoders.students import build_student, parameters_of, save_encoder
    from pipeline.encoders.teachers import load_encoder, load_tokenizer

    folder = inputs.sources["teacher"].folder(tools.cache)
    shape = shape_in(folder)
    pair = Pair(student=config.student.shape(shape), teacher=shape)
    config.objective.check(pair)
    teacher, tokenizer = load_encoder(folder), load_tokenizer(folder)
    student = build_student(teacher, config.student, seed=config.seed)
    history: list[dict[str, float]] = []
    if not isinstance(config.objective, NoObjective):
        history = _train(config, config.objective, inputs, tools, teacher=teacher, student=student, tokenizer=tokenizer)
        save_curve(history, out, title="distillation")
    save_encoder(student, tokenizer, out)
    return {
        "parameters": parameters_of(student),
        "teacher_parameters": parameters_of(teacher),
        "tokens": history[-1]["tokens"] if history else 0,
        "steps": history[-1]["step"] if history else 0,
        "final_loss": history[-1]["loss"] if history else None,
        "precision": "bf16" if bf16_on("cpu") else "fp32",
    }


def _train(
    config: DistillConfig,
    objective: RelationObjective | HiddenObjective,
    inputs: "Inputs",
    tools: "Tools",
    *,
    teacher: Any,
    student: Any,
    tokenizer: Any,
) -> list[dict[str, float]]:
    from pipeline.data.batches import tokenize
    from pipeline.distillation.train import Recipe, distill
    from pipeline.training import Checkpoints

    texts = inputs.sources["text"].texts(tools.cache, tools.progress)
    tokens = tokenize(((text,) for text in texts), tokenizer=tokenizer, max_length=config.max_length)
    recipe = Recipe(
        objective=objective,
        tokens=config.tokens,
        batch_tokens=config.batch_tokens,
        seed=config.seed,
        optimization=config.optimization,
    )
    return distill(
        teacher,
        student,
        tokens,
        recipe,
        pad_id=tokenizer.pad_token_id,
        checkpoints=Checkpoints(tools.checkpoints),
        reporter=tools.reporter,
    )
