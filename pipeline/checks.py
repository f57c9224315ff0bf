"""What a config asks for that can only fail, refused before anything runs: an hour of training is a bad way to learn
it."""

from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path

from pipeline.benchmark_checks import check_benchmark, check_gate
from pipeline.config import RunConfig
from pipeline.encoders.families import FULL, Shape, family_of
from pipeline.encoders.masked_lm import has_mlm_head
from pipeline.encoders.teachers import TeacherConfig, positions_in, read_config, shape_in
from pipeline.errors import BadRequest
from pipeline.graph import STAGES, Step
from pipeline.long_texts import Windows
from pipeline.passes import PassConfig
from pipeline.stages import distill
from pipeline.stages.benchmark import LONG
from pipeline.stages.pretrain import PretrainConfig
from pipeline.task_distillation import TaskDistillation, check_kind
from pipeline.tasking.fitted import read_fitted


def check(config: RunConfig, *, cache: Path) -> None:
    """Raise BadRequest for the first thing in `config` that cannot work; reads config.json of a local teacher only."""
    _check_students(config, cache=cache)
    _check_lengths(config, cache=cache)
    _check_lessons(config, cache=cache)
    check_benchmark(config)
    check_gate(config)


def check_team(steps: Iterable[Step], *, size: int) -> None:
    """Raise BadRequest where `size` processes cannot share the micro-batches of a step that they make together."""
    for step in (step for step in steps if size > 1 and STAGES[step.stage].teamed):
        assert isinstance(step.config, PassConfig), "a team makes passes over text"
        asked = step.config.micro_batches
        if asked % size:
            raise BadRequest(
                f"{step.stage}.micro_batches is {asked}, which {size} processes cannot share evenly; make it a "
                f"multiple of {size}, or start a number of processes that divides it"
            )


def _check_students(config: RunConfig, *, cache: Path) -> None:
    """A teacher that is not here yet is not fetched for it."""
    _check_names(config)
    if not config.teacher.is_local():
        return
    folder = config.teacher.folder(cache)
    fields, shape = read_config(folder), shape_in(folder)
    if config.pretrain is not None:
        config.pretrain.check("pretrain", str(fields.get("model_type")))
        shape = _pretrained_shape(config.pretrain, shape)
        if shape.layers != shape_in(folder).layers:  # which of them will have windows is known when they are made
            fields |= {family_of(fields["model_type"]).layer_count: shape.layers, "layer_types": [FULL] * shape.layers}
    masked_lm = config.pretrain is not None or has_mlm_head(folder)
    distill.check(config.distill, fields, shape, teacher=config.teacher.source, masked_lm=masked_lm)


def _pretrained_shape(config: PretrainConfig, teacher: Shape) -> Shape:
    try:
        return config.start.shape(teacher)
    except BadRequest as error:
        raise BadRequest(str(error).replace("distill.student", "pretrain.start")) from error


def _check_names(config: RunConfig) -> None:
    """Every student is one of its own: names label the steps, and what is asked for decides their keys."""
    students = config.distill.each()
    if "teacher" in students:
        raise BadRequest("distill.students.teacher: that is the teacher's own name; call the student otherwise")
    for (one, asked), (other, also) in combinations(students.items(), 2):
        if asked == also:
            raise BadRequest(
                f"distill.students: {one} and {other} ask for the very same; give one of them settings of its own, or "
                "remove it"
            )


def _check_lengths(config: RunConfig, *, cache: Path) -> None:
    asked = {"distill.max_length": config.distill.max_length, "finetune.max_length": config.finetune.max_length}
    if config.pretrain is not None:
        asked["pretrain.max_length"] = config.pretrain.max_length
    if config.finetune.max_length < LONG:
        raise BadRequest(
            f"finetune.max_length: {config.finetune.max_length}, but latency is measured at {LONG} tokens; "
            f"set {LONG} or more"
        )
    _check_windows(config)
    if config.teacher.is_local():
        _check_positions(config.teacher, asked, cache=cache)


def _check_windows(config: RunConfig) -> None:
    """As `serving.spec_rules` asks of the bundle."""
    windows, most = config.export.long_texts, config.finetune.max_length
    if isinstance(windows, Windows) and 2 * windows.stride > most:
        raise BadRequest(
            f"export.long_texts.stride: {windows.stride}, but windows of {most} tokens (finetune.max_length) may share "
            f"half of them; set {most // 2} or less"
        )


def _check_positions(teacher: TeacherConfig, asked: Mapping[str, int], *, cache: Path) -> None:
    most = positions_in(teacher.folder(cache))
    for name, length in asked.items():
        if length > most:
            raise BadRequest(
                f"{name}: {length}, but the teacher {teacher.source!r} has positions for {most} tokens; set {most} or "
                "less"
            )


def _check_lessons(config: RunConfig, *, cache: Path) -> None:
    """A task that is learned from a teacher alone names one, or no epochs; a folder that is named holds one of this
    task."""
    named, epochs = config.finetune.distill_from, config.finetune.epochs
    if named is None and epochs and not config.task.learns_labels:
        raise BadRequest(
            f"task {config.task.kind}: vectors are learned from a teacher, not from labels; set "
            "finetune.distill_from: teacher, or finetune.epochs: 0 to take the student as distilled"
        )
    if not epochs and (config.task.learns_labels or named is not None):
        what = "a head learns nothing in them" if config.task.learns_labels else f"{named!r} has nobody to teach"
        raise BadRequest(f"finetune.epochs is 0, and {what}; set it to 1 or more")
    if named is not None:
        _check_distillation(config)
    if named not in (None, "teacher"):
        _check_tuned(str(named), config, cache=cache)


def _check_tuned(folder: str, config: RunConfig, *, cache: Path) -> None:
    if not Path(folder).is_dir():
        raise BadRequest(
            f"finetune.distill_from: {folder!r} is neither 'teacher', which is this run's own, nor a folder here"
        )
    teacher = TeacherConfig(source=folder)
    check_kind(read_fitted(teacher.folder(cache)), config.task.kind)
    _check_positions(teacher, {"finetune.max_length": config.finetune.max_length}, cache=cache)


def _check_distillation(config: RunConfig) -> None:
    """What is set has an effect, and can be learned."""
    asked, task = config.finetune.distillation, config.task
    for name, used in (("weight", task.learns_labels), ("temperature", not task.numeric)):
        if not used and getattr(asked, name) != TaskDistillation.model_fields[name].default:
            why = "there are no labels to weigh against" if name == "weight" else "its answers are no probabilities"
            raise BadRequest(f"finetune.distillation.{name} does nothing for {task.kind}: {why}; leave it out")
    pruned = [name for name, each in config.distill.each().items() if each.vocabulary.kind != "teacher"]
    if asked.hidden and pruned and config.finetune.distill_from == "teacher":
        raise BadRequest(
            f"finetune.distillation.hidden: {pruned[0]} has a vocabulary of its own (distill.vocabulary) and reads "
            "other tokens than its teacher, so their states do not stand side by side; set it to 0"
        )
