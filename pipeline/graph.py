"""Which steps a config asks for: a list in order, no engine. A stage is one row here, one module and one field of the
config."""

import hashlib
import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from pipeline.artifact import Artifact
from pipeline.config import RunConfig
from pipeline.progress import Reporter, track_items
from pipeline.records import Record
from pipeline.tasks import ALL, TUNING, TaskSplits

T = TypeVar("T")
LOCKED = ("torch", "transformers", "tokenizers", "onnx", "onnxruntime")
ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("pipeline", "serving", "benchmarks")
_TYPES_ONLY = re.compile(r"^if TYPE_CHECKING:\n(?:[ \t]+.*\n|\n)+", re.MULTILINE)
_IMPORT = re.compile(r"^[ \t]*from ((?:pipeline|serving|benchmarks)[\w.]*) import (\([^)]*\)|.*)$", re.MULTILINE)


class Source(Protocol):
    """Something that exists before the run: teacher, text, task."""

    def identity(self, cache: Path) -> str: ...


@dataclass(frozen=True)
class Inputs:
    """What a stage reads: sealed artifacts and sources, by role."""

    artifacts: Mapping[str, Artifact]
    sources: Mapping[str, Any]


@dataclass(frozen=True)
class Tools:
    """What the runner lends a stage: its key, the workspace, a cache that may vanish, a folder for checkpoints, a
    reporter."""

    key: str
    workspace: Path
    cache: Path
    checkpoints: Path
    reporter: Reporter

    def progress(self, items: Iterable[T], what: str, total: int | None) -> Iterable[T]:
        """`items`, with a bar: what data loading takes."""
        return track_items(self.reporter, items, what, total)


@dataclass(frozen=True)
class Step:
    """One run of a stage. `inputs` maps a role to the label of an earlier step; `sources` to what exists before the
    run."""

    stage: str
    label: str
    config: Record
    inputs: Mapping[str, str]
    sources: Mapping[str, Source]

    @property
    def modules(self) -> tuple[str, ...]:
        """Where its code is: the stage's own module, and those that read its sources."""
        return (f"pipeline.stages.{self.stage}", *sorted({type(source).__module__ for source in self.sources.values()}))


@dataclass(frozen=True)
class Stage:
    """A stage's module. `fresh_for` limits the age of what it made; `place` is what the machine adds to its key."""

    name: str
    fresh_for: Callable[[Any], float] | None = None
    place: Callable[[], str] | None = None

    @property
    def run(self) -> Callable[[Any, Inputs, Path, Tools], dict[str, Any]]:
        """The stage's function; its module is imported here, and not before."""
        function: Callable[[Any, Inputs, Path, Tools], dict[str, Any]] = importlib.import_module(
            f"pipeline.stages.{self.name}"
        ).run
        return function


def _int8_features() -> str:
    from pipeline.quantization import qualified_features

    return ",".join(qualified_features())


def _here() -> str:
    from benchmarks.machine import identity

    return identity()


# What is measured and judged, and the step each comes from.
VARIANTS = {
    "teacher-torch-fp32": "finetune-teacher",
    "teacher-onnx-fp32": "export-teacher",
    "student-onnx-fp32": "export-student",
    "student-onnx-int8": "quantize-student",
}

STAGES = {
    stage.name: stage
    for stage in (
        Stage("distill"),
        Stage("finetune"),
        Stage("export"),
        Stage("quantize", place=_int8_features),
        Stage("benchmark", fresh_for=lambda config: config.max_age_hours * 3600, place=_here),
        Stage("register"),
    )
}


def expand(config: RunConfig) -> tuple[Step, ...]:
    """The steps of a run, in the order they run.

    finetune and export run for the teacher and for the student, quantize for the student, benchmark over all variants.
    """
    teacher, text = config.teacher, config.text
    tuning, reported = TaskSplits(config.task, TUNING), TaskSplits(config.task, ALL)
    models = {"finetune-teacher": "export-teacher", "finetune-student": "export-student"}
    earlier = ("distill", *models, *models.values(), "quantize-student", "benchmark")
    return (
        Step("distill", "distill", config.distill, {}, {"teacher": teacher, "text": text}),
        Step("finetune", "finetune-teacher", config.finetune, {}, {"model": teacher, "task": tuning}),
        Step("finetune", "finetune-student", config.finetune, {"model": "distill"}, {"task": tuning}),
        *(Step("export", label, config.export, {"model": model}, {"task": tuning}) for model, label in models.items()),
        Step("quantize", "quantize-student", config.quantize, {"bundle": "export-student"}, {}),
        Step("benchmark", "benchmark", config.benchmark, VARIANTS, {"task": reported}),
        Step("register", "register", config.register, {label: label for label in earlier}, {}),
    )


def step_key(step: Step, digests: Mapping[str, str]) -> str:
    """The name of what a step would make: its stage and a hash of stage, config, inputs, code, versions and place."""
    stage = STAGES[step.stage]
    asked = {
        "stage": step.stage,
        "config": canonical(step.config),
        "inputs": sorted(digests.items()),
        "code": code_identity(step.modules),
        "versions": versions(),
        "place": stage.place() if stage.place else None,
    }
    text = msgspec.json.encode(asked, order="deterministic")
    return f"{step.stage}-{hashlib.sha256(text).hexdigest()[:32]}"


def canonical(config: Record) -> Any:
    """A config as plain values in one form, whatever order or shorthand it was written in."""
    return config.model_dump(mode="json")


@cache
def versions() -> dict[str, str]:
    """The installed versions that decide what a stage computes."""
    return {name: _version(name) for name in LOCKED}


@cache
def code_identity(modules: tuple[str, ...]) -> str:
    """Hash of these modules and all of ours that they import, directly or not. A README change must not retrain."""
    seen: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        path = _source_of(module) if module.partition(".")[0] in ROOMS else None
        if module in seen or path is None:
            continue
        seen[module] = hashlib.sha256(path.read_bytes()).hexdigest()
        waiting.extend(_imports(path))
    return hashlib.sha256(repr(sorted(seen.items())).encode()).hexdigest()


@cache
def _imports(path: Path) -> tuple[str, ...]:
    """Modules of ours that a file imports, at its top or inside a function, but not for its types alone.

    By pattern: `plan` has no time to parse.
    """
    found: list[str] = []
    for module, names in _IMPORT.findall(_TYPES_ONLY.sub("", path.read_text(encoding="utf-8"))):
        found += [module, *(f"{module}.{name}" for name in re.findall(r"\w+", names))]
    return tuple(found)


def _source_of(module: str) -> Path | None:
    base = ROOT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
