"""distill: students of the teacher's family, trained on unlabelled text, several from one pass of the teacher; each
leaves an encoder folder in the hub's format."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, StringConstraints

from pipeline.distillation.attention_objectives import RelationObjective
from pipeline.distillation.objectives import Objective
from pipeline.distillation.transfer import Pair
from pipeline.encoders.families import Shape, check_taps
from pipeline.encoders.students import StudentConfig
from pipeline.encoders.vocabulary import TeacherVocabulary, VocabularyConfig
from pipeline.errors import BadRequest
from pipeline.optimization import Optimization
from pipeline.passes import PassConfig
from pipeline.records import Record

if TYPE_CHECKING:
    from pipeline.graph import Inputs, Tools

StudentName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$", max_length=30)]
ALONE = "student"


class PupilConfig(Record):
    """What one of several students has of its own; what is not given, also inside `student` and `optimization`, is as
    beside `students`. An objective is given whole."""

    student: StudentConfig | None = None
    objective: Objective | None = None
    optimization: Optimization | None = None
    tokens: int | None = Field(default=None, ge=1)

    def over(self, common: "DistillConfig") -> dict[str, Any]:
        """What changes of the common settings."""
        changes = {name: value for name, value in self if value is not None}
        for name in changes.keys() & {"student", "optimization"}:
            own = changes[name]
            given = {field: getattr(own, field) for field in own.model_fields_set}
            changes[name] = getattr(common, name).model_copy(update=given)
        return changes


class DistillConfig(PassConfig):
    """Which student, by which objective, for how many real tokens; with `students`, several from one teacher pass, by
    name."""

    student: StudentConfig = StudentConfig()
    objective: Objective = RelationObjective()
    optimization: Optimization = Optimization()
    vocabulary: VocabularyConfig = TeacherVocabulary()
    students: dict[StudentName, PupilConfig] = Field(default_factory=dict)

    def each(self) -> "dict[str, DistillConfig]":
        """Every student by name with the settings it has alone: what its key, and so its artifact, depends on."""
        alone = self.model_copy(update={"students": {}})
        if not self.students:
            return {ALONE: alone}
        return {name: alone.model_copy(update=pupil.over(alone)) for name, pupil in self.students.items()}


def check(config: DistillConfig, fields: dict[str, Any], shape: Shape, *, teacher: str, masked_lm: bool) -> None:
    """Refuse before anything runs what this teacher (config.json's fields, its shape) and these students cannot do.

    BadRequest names the student where there are several.
    """
    for name, each in config.each().items():
        try:
            _check_student(name, each, fields, shape, teacher=teacher, masked_lm=masked_lm)
        except BadRequest as error:
            if not config.students:
                raise
            raise BadRequest(f"distill.students.{name}: {error}") from error


def _check_student(
    name: str, config: DistillConfig, fields: dict[str, Any], shape: Shape, *, teacher: str, masked_lm: bool
) -> None:
    from types import SimpleNamespace

    from pipeline.encoders.masked_lm import no_mlm_head

    if name == "teacher":
        raise BadRequest("that is the teacher's own name; call the student otherwise")
    config.check("distill", str(fields.get("model_type")))
    pair = Pair(student=config.student.shape(shape), teacher=shape)
    config.objective.check(pair)
    check_taps(SimpleNamespace(**fields), config.objective.taps(pair)[1])
    if config.objective.masking is not None and not masked_lm:
        raise no_mlm_head(teacher, str(fields.get("model_type")))


def _check_here(configs: "Mapping[str, DistillConfig]", folder: Path) -> None:
    """The same once the teacher is here: a teacher of the hub was not when the run was planned."""
    from pipeline.encoders.masked_lm import has_mlm_head
    from pipeline.encoders.teachers import read_config, shape_in

    fields, shape, masked_lm = read_config(folder), shape_in(folder), has_mlm_head(folder)
    for name, config in configs.items():
        _check_student(name, config, fields, shape, teacher=str(folder), masked_lm=masked_lm)


def run(config: DistillConfig, inputs: "Inputs", out: Path, tools: "Tools") -> dict[str, Any]:
    """Build the student, distil it, save it with its tokenizer; the loss curve goes to evidence/."""
    return together([(config, out, tools)], inputs)[0]


def together(jobs: "Sequence[tuple[DistillConfig, Path, Tools]]", inputs: "Inputs") -> list[dict[str, Any]]:
    """Several students from one pass of the teacher; each has settings of its own and leaves its own artifact.

    They share what `DistillConfig` has beside student, objective, optimization and tokens.
    """
    from pipeline.distillation import session

    tools, source = jobs[0][2], inputs.sources["text"]
    names = [each.label.removeprefix("distill-") if "-" in each.label else ALONE for _, _, each in jobs]
    configs = {name: config for name, (config, _, _) in zip(names, jobs, strict=True)}
    folder = inputs.model_folder("teacher", tools.cache)
    _check_here(configs, folder)
    ready = session.make_ready(configs, folder, source, tools)
    curves = session.train(configs, ready, source, tools)
    return [
        session.leave(name, config, ready, curves.get(name, []), out)
        | ({"in_one_pass_with": sorted(configs.keys() - {name})} if len(jobs) > 1 else {})
        for name, (config, out, _) in zip(names, jobs, strict=True)
    ]
