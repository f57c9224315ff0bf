"""Which steps a config asks for: a list, no engine. A stage is a row here, a module and a field of the config."""

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pipeline import places
from pipeline.artifact import Artifact
from pipeline.champion import Champion
from pipeline.config import RunConfig
from pipeline.encoders.teachers import TeacherConfig
from pipeline.gates import names_champion, parse_rules
from pipeline.naming import BENCHMARK, CHAMPION
from pipeline.progress import Reporter, track_items
from pipeline.records import Record
from pipeline.tasking.base import ALL, TUNING
from pipeline.tasks import TaskSplits
from pipeline.team import Team

T = TypeVar("T")


class Source(Protocol):
    """Something that exists before the run: teacher, text, task."""

    def identity(self, cache: Path) -> str: ...


@dataclass(frozen=True)
class Inputs:
    """What a stage reads: sealed artifacts and sources, by role."""

    artifacts: Mapping[str, Artifact]
    sources: Mapping[str, Any]

    def model_folder(self, role: str, cache: Path) -> Path:
        """The folder of a model that an earlier step made, or that was there before the run."""
        made = self.artifacts.get(role)
        folder: Path = made.path if made is not None else self.sources[role].folder(cache)
        return folder


@dataclass(frozen=True)
class Tools:
    """What the runner lends a stage: its key, the workspace, a cache that may vanish, a folder for checkpoints, a
    reporter, what identifies its code and libraries, the team, its run's outbox, if any, and `who` runs it."""

    key: str
    workspace: Path
    cache: Path
    checkpoints: Path
    reporter: Reporter
    label: str = ""
    code: str = ""
    team: Team = field(default_factory=Team)
    outbox: Path | None = None
    who: str = ""

    def progress(self, items: Iterable[T], what: str, total: int | None) -> Iterable[T]:
        """`items`, with a bar: what data loading takes."""
        return track_items(self.reporter, items, what, total)


@dataclass(frozen=True)
class Step:
    """One run of a stage. `inputs` maps a role to the label of an earlier step; `sources` to what exists before the
    run. Steps of one `group` read the same and are run together: what each makes is the same as alone."""

    stage: str
    label: str
    config: Record
    inputs: Mapping[str, str]
    sources: Mapping[str, Source]
    group: str = ""

    @property
    def modules(self) -> tuple[str, ...]:
        """Where its code is: the stage's own module, and those that read its sources."""
        return (f"pipeline.stages.{self.stage}", *sorted({type(source).__module__ for source in self.sources.values()}))


@dataclass(frozen=True)
class Stage:
    """A stage's module. `fresh_for` limits the age of what it made, and `open` says of its facts that they settle
    nothing and are worth another try; `place` is what the machine adds to its key;
    `teamed` says that a team of processes runs it together; `libraries` are what it computes with beside those that all
    stages share (keys.py)."""

    name: str
    fresh_for: Callable[[Any], float] | None = None
    open: Callable[[Mapping[str, Any]], bool] = lambda _: False
    place: Callable[[Any], str] | None = None
    teamed: bool = False
    libraries: tuple[str, ...] = ()

    @property
    def run(self) -> Callable[[Any, Inputs, Path, Tools], dict[str, Any]]:
        """The stage's function; its module is imported here, and not before."""
        function: Callable[[Any, Inputs, Path, Tools], dict[str, Any]] = importlib.import_module(
            f"pipeline.stages.{self.name}"
        ).run
        return function

    def run_jobs(self, jobs: "Sequence[tuple[Any, Path, Tools]]", inputs: Inputs) -> list[dict[str, Any]]:
        """Run (config, out, tools) of one step, or of the steps of a group at once; the facts of each."""
        if len(jobs) == 1:
            config, out, tools = jobs[0]
            return [self.run(config, inputs, out, tools)]
        together: Callable[..., list[dict[str, Any]]] = importlib.import_module(f"pipeline.stages.{self.name}").together
        return together(jobs, inputs)


def _fresh_for(config: Any) -> float:
    return float(config.max_age_hours * 3600)


def _disturbed(facts: Mapping[str, Any]) -> bool:
    return bool(facts["disturbed"])


STAGES = {
    stage.name: stage
    for stage in (
        Stage("pretrain", teamed=True),
        Stage("distill", teamed=True),
        Stage("finetune"),
        Stage("export", libraries=("onnxscript",)),
        Stage("quantize", place=places.instructions, libraries=("onnxscript", "numpy", "openvino", "nncf")),
        Stage("benchmark", fresh_for=_fresh_for, open=_disturbed, place=places.target, libraries=("openvino",)),
        Stage("register"),
    )
}


def sessions_of(config: RunConfig) -> dict[str, str]:
    """The benchmark's steps by target, the first one first."""
    several = len(config.benchmark.targets) > 1
    return {name: f"{BENCHMARK}-{name}" if several else BENCHMARK for name in config.benchmark.each()}


def variants_of(config: RunConfig, target: str | None = None) -> dict[str, str]:
    """What is measured and judged at a target (None: the first), and the step each comes from."""
    asked = config.benchmark.each()[target or config.benchmark.first]
    return {
        **({"teacher-torch-fp32": "finetune-teacher"} if asked.torch else {}),
        "teacher-onnx-fp32": "export-teacher",
        **{
            f"{name}-{variant}": f"{step}-{name}"
            for name in config.distill.each()
            for variant, step in (("onnx-fp32", "export"), (config.quantize.variant, "quantize"))
        },
    }


def expand(config: RunConfig) -> tuple[Step, ...]:
    """The steps of a run, in the order they run.

    finetune and export run for the teacher and for each student, quantize for each student, benchmark over all
    variants for each target. With `pretrain` its model is the teacher of all that follows.
    """
    tuning, reported = TaskSplits(config.task, TUNING), TaskSplits(config.task, ALL)
    distills = _distills(config)
    models = (_finetune_teacher(config, tuning), *_finetune_students(config, distills, tuning))
    exports = {step.label: f"export-{step.label.removeprefix('finetune-')}" for step in models}
    steps = (
        *_pretrains(config),
        *distills.values(),
        *models,
        *(Step("export", label, config.export, {"model": of}, {"task": tuning}) for of, label in exports.items()),
        *(_quantize(config, name, tuning) for name in distills),
    )
    first, *others = _benchmarks(config, reported)
    read = {step.label: step.label for step in (*steps, *others)} | {BENCHMARK: first.label}
    sources: dict[str, Source] = {"teacher": config.teacher, "text": config.text, "task": tuning}
    return (*steps, first, *others, Step("register", "register", config.register, read, sources))


def _benchmarks(config: RunConfig, reported: TaskSplits) -> tuple[Step, ...]:
    """The first target's session comes first, and is what register reads as BENCHMARK: which one that is decides the
    verdict, and so register's key."""
    sources: dict[str, Source] = {"task": reported, **_champion(config)}
    labels = sessions_of(config)
    return tuple(
        Step("benchmark", labels[name], alone, variants_of(config, name), sources)
        for name, alone in config.benchmark.each().items()
    )


def _champion(config: RunConfig) -> dict[str, Source]:
    """Read where a rule compares with it, so that no other run's key depends on it."""
    asked = config.register
    if not names_champion(parse_rules(asked.gate)):
        return {}
    return {CHAMPION: Champion(asked.name, asked.alias, asked.tracking_uri)}


def _quantize(config: RunConfig, name: str, tuning: TaskSplits) -> Step:
    """What a recipe does not need it does not read, so that its key does not depend on it."""
    needs: frozenset[str] = config.quantize.needs
    made = {"bundle": f"export-{name}", **({"model": f"finetune-{name}"} if "model" in needs else {})}
    sources: dict[str, Source] = {"task": tuning} if needs else {}
    return Step("quantize", f"quantize-{name}", config.quantize, made, sources)


def _pretrains(config: RunConfig) -> tuple[Step, ...]:
    if config.pretrain is None:
        return ()
    return (Step("pretrain", "pretrain", config.pretrain, {}, {"teacher": config.teacher, "text": config.text}),)


def _distills(config: RunConfig) -> dict[str, Step]:
    """By the student's name. Students whose text is masked in one way share a pass of the teacher."""
    made = {"teacher": "pretrain"} if config.pretrain else {}
    sources: dict[str, Source] = {"text": config.text} if made else {"teacher": config.teacher, "text": config.text}
    return {
        name: Step(
            "distill",
            f"distill-{name}" if config.distill.students else "distill",
            each,
            made,
            sources,
            group=f"distill {each.objective.masking}",
        )
        for name, each in config.distill.each().items()
    }


def _finetune_teacher(config: RunConfig, tuning: TaskSplits) -> Step:
    alone = config.finetune.alone()
    if config.pretrain is not None:
        return Step("finetune", "finetune-teacher", alone, {"model": "pretrain"}, {"task": tuning})
    return Step("finetune", "finetune-teacher", alone, {}, {"model": config.teacher, "task": tuning})


def _finetune_students(config: RunConfig, distills: Mapping[str, Step], tuning: TaskSplits) -> tuple[Step, ...]:
    """With a teacher to learn the task from: this run's own, or a folder that is there before it."""
    named: str | None = config.finetune.distill_from
    made: dict[str, str] = {}
    sources: dict[str, Source] = {"task": tuning}
    if named == "teacher":
        made = {"teacher": "finetune-teacher"}
    elif named is not None:
        sources["teacher"] = TeacherConfig(source=named)
    return tuple(
        Step("finetune", f"finetune-{name}", config.finetune, {"model": step.label, **made}, sources)
        for name, step in distills.items()
    )
