"""Forwards at shapes of batch and length, a variant in a process of its own: `python -m benchmarks.shapes JOB RESULT`.

Tokenization is outside of what is timed. Inputs are real texts cut to exactly the length (see lengths.py), so no token
is padding; `race` gives every variant the same ones. It speaks to its parent as worker.py does.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import msgspec
from tokenizers import Tokenizer

from benchmarks.child import child_main, tell
from benchmarks.children import run_child
from benchmarks.lengths import exact_length_items, read_tokenizer
from benchmarks.machine import affinity
from benchmarks.measure import Latency, WarmUp, sample, summarize, warm_up
from benchmarks.session import Variant, interleaved
from benchmarks.targets import TARGET, Facts, Runner
from serving.bundle import Item
from serving.cpu import usable_threads
from serving.errors import BadArtifact, BadRequest

FORWARD: Final = "forward"
BATCHES: Final = 8  # different ones of a shape, taken in turn, as far as the texts reach
LIMIT_S: Final = 600.0  # a process that takes longer is stuck: it takes seconds, a compiled model a minute
Tell = Callable[[int, int], None]


class Shape(NamedTuple):
    batch: int
    length: int


class ShapesJob(msgspec.Struct, frozen=True, tag="shapes", forbid_unknown_fields=True):
    """Time `n` forwards at each shape; `items` are real texts of any length."""

    variant: str
    target: dict[str, Any]
    path: str
    cores: tuple[int, ...]
    shapes: tuple[Shape, ...]
    n: int
    items: tuple[Item, ...]


class TimedShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One shape in one process: nanoseconds a forward of the whole batch; `inputs` is the digest of its tokens."""

    shape: Shape
    inputs: str
    warm_up: WarmUp
    samples_ns: list[int]


class ShapesResult(msgspec.Struct, frozen=True, tag="shapes", forbid_unknown_fields=True):
    variant: str
    facts: Facts
    shapes: tuple[TimedShape, ...]


class RacedShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One shape over all processes: milliseconds a forward of the whole batch, and the samples by process."""

    shape: Shape
    median_ms: float
    latency: Latency
    warm_ups: tuple[WarmUp, ...]
    samples_ns: tuple[list[int], ...]


class Raced(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    facts: Facts
    shapes: tuple[RacedShape, ...]

    def at(self, batch: int, length: int) -> RacedShape:
        return next(each for each in self.shapes if each.shape == (batch, length))


def race(
    variants: Sequence[Variant],
    *,
    shapes: Sequence[tuple[int, int]],
    items: Sequence[Item],
    n: int,
    processes: int,
    threads: int | None = None,
    progress: Callable[[str], None] = lambda _what: None,
) -> tuple[Raced, ...]:
    """Each variant at each shape in `processes` processes of its own, in the order A B C, C B A, ... on the same cores;
    `threads` are those of every target, whatever it asks for.

    Raises:
        BadArtifact: a variant reads other tokens than the rest, or its files changed meanwhile.
        BadRequest: nothing to race, or more threads than cores.
    """
    cores, threads = affinity(), threads or usable_threads()
    _require_a_race(variants, shapes=shapes, items=items, threads=threads, cores=len(cores))
    found: dict[str, list[ShapesResult]] = {variant.name: [] for variant in variants}
    for repeat, variant in interleaved(variants, processes=processes):
        progress(f"shapes of {variant.name}, process {repeat + 1} of {processes}")
        job = ShapesJob(
            variant=variant.name,
            target={**variant.target.model_dump(), "threads": threads},
            path=str(variant.path.resolve()),
            cores=cores[:threads],
            shapes=tuple(Shape(*shape) for shape in shapes),
            n=n,
            items=tuple(items),
        )
        found[variant.name].append(_run(job, threads=threads))
    _require_same(found)
    return tuple(_collect(results) for results in found.values())


def _run(job: ShapesJob, *, threads: int) -> ShapesResult:
    return run_child(
        job,
        result_type=ShapesResult,
        threads=threads,
        tell=lambda _done: None,
        module="benchmarks.shapes",
        limit_s=LIMIT_S,
    )


def measure_shapes(job: ShapesJob, *, tell: Tell) -> ShapesResult:
    runner = TARGET.validate_python(job.target).open(Path(job.path))
    tokenizer = read_tokenizer(Path(job.path))
    timed: list[TimedShape] = []
    for shape in job.shapes:
        timed.append(_measure(runner, _batches(runner, job, shape, tokenizer), shape=shape, n=job.n))
        tell(len(timed) * job.n, len(job.shapes) * job.n)
    return ShapesResult(job.variant, runner.facts, tuple(timed))


def _measure(runner: Runner, batches: Sequence[Sequence[Any]], *, shape: Shape, n: int) -> TimedShape:
    forever = cycle(batches)
    warm = warm_up(lambda: runner.infer_batch(next(forever)), clock=time.perf_counter_ns)
    samples = sample({FORWARD: runner.infer_batch}, batches, n=n)
    return TimedShape(shape=shape, inputs=_digest(batches), warm_up=warm, samples_ns=samples[FORWARD])


def _batches(runner: Runner, job: ShapesJob, shape: Shape, tokenizer: Tokenizer) -> list[list[Any]]:
    """Up to BATCHES different ones; where the texts give fewer items than one batch has, some are in it twice."""
    items = exact_length_items(job.items, tokenizer, length=shape.length, most=shape.batch * BATCHES)
    tokens = [runner.encode(item) for item in items]
    if (found := {len(one.ids) for one in tokens}) != {shape.length}:
        raise BadArtifact(
            f"{job.variant} reads items of {shape.length} tokens as {sorted(found)}: its max_length must reach it"
        )
    forever = cycle(tokens)
    return [list(islice(forever, shape.batch)) for _ in range(max(1, len(tokens) // shape.batch))]


def _digest(batches: Sequence[Sequence[Any]]) -> str:
    ids = [[list(one.ids) for one in batch] for batch in batches]
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def _require_a_race(
    variants: Sequence[Variant],
    *,
    shapes: Sequence[tuple[int, int]],
    items: Sequence[Item],
    threads: int,
    cores: int,
) -> None:
    names = [variant.name for variant in variants]
    if not names or len(set(names)) < len(names) or not items or not shapes:
        raise BadRequest(
            f"a race needs shapes, items and differently named variants: got {len(shapes)} shapes, {len(items)} items, "
            f"{names}"
        )
    if threads > cores:
        raise BadRequest(f"{threads} threads on {cores} cores would time each other: choose at most {cores}")


def _require_same(found: dict[str, list[ShapesResult]]) -> None:
    """One digest a variant, and one set of inputs for all of them."""
    everything = [result for results in found.values() for result in results]
    inputs = [each.inputs for each in everything[0].shapes]
    for result in everything:
        if result.facts.digest != found[result.variant][0].facts.digest:
            raise BadArtifact(f"{result.variant} changed during the race; leave the files alone and run it again")
        if [each.inputs for each in result.shapes] != inputs:
            raise BadArtifact(
                f"{result.variant} reads other tokens than {everything[0].variant}: "
                "variants are raced on the same inputs, so they need the same tokenizer"
            )


def _collect(results: Sequence[ShapesResult]) -> Raced:
    by_shape = zip(*(result.shapes for result in results), strict=True)
    return Raced(results[0].variant, results[0].facts, tuple(_raced(timed) for timed in by_shape))


def _raced(timed: Sequence[TimedShape]) -> RacedShape:
    samples_ns = tuple(each.samples_ns for each in timed)
    return RacedShape(
        shape=timed[0].shape,
        median_ms=median(ns for run in samples_ns for ns in run) / 1e6,
        latency=summarize(samples_ns),
        warm_ups=tuple(each.warm_up for each in timed),
        samples_ns=samples_ns,
    )


def main(arguments: Sequence[str]) -> int:
    return child_main(arguments, ShapesJob, partial(measure_shapes, tell=tell))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
