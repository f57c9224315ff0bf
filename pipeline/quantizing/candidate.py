"""Making and judging one candidate, in a process: `python -m pipeline.quantizing.candidate JOB.json RESULT.json`.

It seals the candidate's bundle, computes the dev items with the engine that serves, each alone, in batches and padded,
and compares them with the fp32 graph's. `trial` starts it.
"""

import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from msgspec.structs import replace
from pydantic import Field, TypeAdapter

from benchmarks.invariance import ITEMS as INVARIANCE_ITEMS
from benchmarks.invariance import Invariance, labels_of, measure
from benchmarks.outputs import Floats, read_outputs, write_outputs
from pipeline.errors import BadArtifact
from pipeline.quality import Difference, paired_difference, require_finite
from pipeline.quantizing.pareto import Figures, relative
from pipeline.quantizing.trials import child_main, in_process

if TYPE_CHECKING:
    from pipeline.quantizing.given import Given
    from pipeline.tasks import AnyTask
    from serving.bundle import Bundle
    from serving.engine import Engine


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`recipe` None: `target` is the exported bundle itself, which all are compared with. `called` is the name in the
    new bundle. `outputs` is where the dev items' raw outputs go, `reference` where those of fp32 are; `folder` what
    relative paths of the task's data start from."""

    name: str
    called: str
    recipe: dict[str, Any] | None
    bundle: str
    target: str
    task: dict[str, Any]
    folder: str
    cache: str
    scratch: str
    checkpoints: str
    outputs: str
    threads: int
    reference: str | None = None
    model: str | None = None


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of a candidate before it is timed. `value` is the task's first metric on `items` dev items,
    `difference` that less fp32's, `flips` how many are answered otherwise than by fp32."""

    name: str
    recipe: dict[str, Any] | None
    digest: str
    size_mb: float
    metric: str
    value: float
    items: int
    difference: Difference
    flips: int
    invariance: tuple[Invariance, ...]
    facts: dict[str, Any]
    cpu_features: tuple[str, ...]
    providers: tuple[str, ...]
    threads: int
    seconds: float

    def figures(self, ms: Mapping[str, float], baseline: Mapping[str, float]) -> Figures:
        """With its times and the baseline's, by shape, what it can be chosen by."""
        return Figures(
            name=self.name,
            metric=self.value,
            drop=0.0 - self.difference.estimate,
            size_mb=self.size_mb,
            batch_difference=max((each.max_difference for each in self.invariance), default=0.0),
            batch_flips=max((each.flips for each in self.invariance), default=0),
            ms=dict(ms),
            relative_ms=relative(ms, baseline),
        )


def run(job: Job) -> Receipt:
    """Build, answer, compare."""
    from serving.bundle import read_bundle
    from serving.engine import Engine

    started = time.perf_counter()
    task, given = task_of(job), given_of(job)
    facts = _build(job, given)
    bundle = read_bundle(Path(job.target))
    engine = Engine(bundle, threads=job.threads)
    outputs = engine.logits(given.data.dev.items)
    require_finite(outputs)
    write_outputs(Path(job.outputs), outputs)
    reference = read_outputs(Path(job.reference)) if job.reference else outputs
    return Receipt(
        name=job.name,
        recipe=job.recipe,
        digest=bundle.digest,
        size_mb=(bundle.path / "model.onnx").stat().st_size / 1e6,
        metric=task.metrics[0],
        value=given.metric_of(outputs),
        items=len(given.data.dev.items),
        difference=_difference(task, given, outputs, reference),
        flips=_flips(outputs, reference, bundle),
        invariance=_invariance(engine, given),
        facts=facts,
        cpu_features=bundle.spec.cpu_features,
        providers=engine.providers,
        threads=job.threads,
        seconds=time.perf_counter() - started,
    )


def task_of(job: Job) -> "AnyTask":
    """The task as the job's JSON describes it."""
    from pipeline.tasks import Task

    task: AnyTask = TypeAdapter(Task).validate_python(job.task)
    return task


def given_of(job: Job) -> "Given":
    """What the recipe may ask for, from the job's paths."""
    from pipeline.data.progress import silent
    from pipeline.quantizing.given import Given
    from pipeline.tasking.base import TUNING
    from serving.bundle import read_bundle

    task = task_of(job)
    return Given(
        bundle=read_bundle(Path(job.bundle)),
        scratch=Path(job.scratch),
        task=task,
        load=lambda: task.load(Path(job.cache), silent, TUNING),
        model=Path(job.model) if job.model else None,
        threads=job.threads,
        checkpoints=Path(job.checkpoints),
    )


def _build(job: Job, given: "Given") -> dict[str, Any]:
    """The candidate's bundle, called as the winner's will be; nothing for fp32 as it was exported."""
    from pipeline.quantization import AnyRecipe
    from pipeline.quantizing.building import build
    from serving.bundle import read_bundle, seal_core

    if job.recipe is None:
        return {}
    one_of: TypeAdapter[AnyRecipe] = TypeAdapter(Annotated[AnyRecipe, Field(discriminator="kind")])
    target, recipe = Path(job.target), one_of.validate_python(job.recipe)
    facts = build(recipe, given, target)
    made = read_bundle(target)
    facts["bundle_digest"] = seal_core(target, spec=replace(made.spec, name=job.called), golden=made.golden)
    return facts


def _difference(task: "AnyTask", given: "Given", outputs: Sequence[Floats], reference: Sequence[Floats]) -> Difference:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(given.bundle.path / "tokenizer.json"))
    places = task.places(given.data.dev, tokenizer, max_length=given.spec.reach)
    mine, theirs = (task.answers(each, given.fitted, places) for each in (outputs, reference))
    found = paired_difference(task.metrics[0], mine, theirs, task.truths(given.data.dev, given.fitted))
    if not isfinite(found.estimate):
        raise BadArtifact(f"its answers, or fp32's, are all the same: {task.metrics[0]} is undefined for them")
    return found


def _flips(outputs: Sequence[Floats], reference: Sequence[Floats], bundle: "Bundle") -> int:
    """Items that are answered otherwise; none where answers are numbers."""
    pairs = zip(outputs, reference, strict=True)
    return sum(not np.array_equal(*(labels_of(each, spec=bundle.spec) for each in pair)) for pair in pairs)


def _invariance(engine: "Engine", given: "Given") -> tuple[Invariance, ...]:
    tokens = engine.fed(given.data.dev.items[:INVARIANCE_ITEMS])
    return measure(lambda batch, length: engine.run(batch, length=length), tokens, spec=engine.bundle.spec)


def trial(job: Job, *, seconds: float | None = None, module: str = "pipeline.quantizing.candidate") -> Receipt:
    """Make and judge a candidate in a process of its own, with the job's threads; Failure where there is none."""
    with tempfile.TemporaryDirectory(dir=job.scratch) as scratch:  # here: a process that is killed removes nothing
        own = replace(job, scratch=scratch)
        return in_process(module, own, result_type=Receipt, threads=job.threads, scratch=Path(scratch), seconds=seconds)


def main(arguments: Sequence[str]) -> int:
    def work(job: Job) -> Receipt:
        os.chdir(job.folder)
        return run(job)

    return child_main(arguments, Job, work)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
