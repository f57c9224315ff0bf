"""How far apart the quality of two runs is, item by item: of two runs that were judged on the same texts the answers
themselves are at hand, and the interval of a paired difference is much narrower than what two intervals leave."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from pipeline.artifact import Artifact
from pipeline.errors import Failure
from pipeline.naming import BENCHMARK
from pipeline.tasking.base import ALL
from pipeline.tasks import AnyTask, Task, TaskSplits
from pipeline.workspace import RECORD, Workspace, read_record

if TYPE_CHECKING:
    from benchmarks.comparison import QualityChange
    from pipeline.judging import Answered
    from pipeline.tasking.base import TaskData


@dataclass(frozen=True)
class Run:
    """What a run of a workspace did last: its task, its artifacts by label, and which of them is the session that its
    gate judges by."""

    task: AnyTask
    artifacts: Mapping[str, Artifact]
    session: Artifact
    cache: Path

    @property
    def judged_on(self) -> str | None:
        """The identity of the task and the texts that its benchmark judged."""
        return self.session.manifest.inputs.get("task")

    @property
    def bundles(self) -> dict[str, Path]:
        """Variant -> the bundle that was measured; PyTorch is none, and a champion is not the run's own."""
        from serving.bundle import read_bundle

        folders = [artifact.path / "bundle" for artifact in self.artifacts.values()]
        made = [read_bundle(folder) for folder in folders if folder.is_dir()]
        return {bundle.spec.name: bundle.path for bundle in made}

    def answered(self, variant: str, data: "TaskData") -> "Answered":
        from benchmarks.session import Variant
        from benchmarks.targets import OrtCpu
        from pipeline.judging import answered

        return answered(Variant(variant, OrtCpu(), self.bundles[variant]), self.session.path, self.task, data)


def paired_quality(a: Path, b: Path, *, pairs: Sequence[tuple[str, str]]) -> "dict[str, QualityChange]":
    """By B's variant the metric of `pairs` (A's, B's) in B less that in A, `a` and `b` being folders RETORT/runs/NAME.

    Nothing where one is no run that was measured, where the two judged other texts, and where the texts are others
    today; nor for variants that are no bundle of their run.
    """
    from pipeline.data.progress import silent

    one, other = run_in(a), run_in(b)
    if one is None or other is None:
        return {}
    mine, theirs = one.bundles, other.bundles
    both = [pair for pair in pairs if pair[0] in mine and pair[1] in theirs]
    task = TaskSplits(one.task, ALL)
    if not both or {one.judged_on, other.judged_on} != {_identity_today(task, one.cache)}:
        return {}
    data = task.load(one.cache, silent)
    return {pair[1]: _change(one, other, pair, data) for pair in both}


def run_in(folder: Path) -> Run | None:
    """The run that a folder tells of, if it got as far as its benchmark, which was not removed since, and if this
    version knows its task."""
    record = folder / RECORD
    if not record.is_file():
        return None
    told = read_record(record)
    place = Workspace.open(folder.resolve().parents[1])
    found = {label: place.store.get(step["key"]) for label, step in told["steps"].items()}
    artifacts = {label: artifact for label, artifact in found.items() if artifact is not None}
    try:
        task: AnyTask = TypeAdapter(Task).validate_python(told["config"].get("task"))
    except ValidationError:
        return None
    session = artifacts.get(session_label(told))
    return None if session is None else Run(task, artifacts, session, place.cache)


def session_label(record: Mapping[str, Any]) -> str:
    """Of what a run did the step whose session its gate judges by: its one benchmark, or that at the first target."""
    first = record["config"].get("benchmark", {}).get("first")
    return BENCHMARK if BENCHMARK in record["steps"] else f"{BENCHMARK}-{first}"


def _identity_today(task: TaskSplits, cache: Path) -> str | None:
    """None where the texts cannot be had any more."""
    try:
        return task.identity(cache)
    except Failure:
        return None


def _change(a: Run, b: Run, pair: tuple[str, str], data: "TaskData") -> "QualityChange":
    from benchmarks.comparison import QualityChange
    from pipeline.quality import paired_difference

    mine, theirs = a.answered(pair[0], data).first, b.answered(pair[1], data).first
    less = paired_difference(mine.metric, theirs.answers, mine.answers, mine.labels)
    return QualityChange(less.metric, less.estimate, less.low, less.high, paired=True)
