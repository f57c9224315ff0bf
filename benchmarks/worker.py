"""The child process that measures one variant: `python -m benchmarks.worker JOB.json RESULT.json`.

A job is `latency` (warm-up, samples, cold start, memory) or `quality` (the raw outputs of all items, as .npy).
Progress goes to stdout, one `{"done": i, "total": n}` per line; an expected failure's message goes to stderr, with its
exit code.
"""

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.child import await_turn, child_main, tell
from benchmarks.invariance import ITEMS as INVARIANCE_ITEMS
from benchmarks.invariance import Invariance
from benchmarks.measure import TOTAL, Step, WarmUp, no_garbage_collection, sample, warm_up
from benchmarks.memory import memory
from benchmarks.outputs import Floats, write_outputs
from benchmarks.readings import Readings, Watch
from benchmarks.targets import TARGET, Facts, Runner
from benchmarks.turns import REAL, SETTLE, Turn, parts
from serving.answers import probabilities
from serving.bundle import Item, TaskKind
from serving.errors import BadArtifact

_CHUNK = 16  # items between two looks at the clock
_TELL_EVERY_S = 0.25


class LatencyJob(msgspec.Struct, frozen=True, tag="latency", forbid_unknown_fields=True):
    """Time `n` requests per length, and each of the `real` items once; `buckets` holds real items of exactly that many
    tokens, `probes` are compared."""

    variant: str
    target: dict[str, Any]
    path: str
    task: TaskKind
    cores: tuple[int, ...]
    buckets: dict[int, tuple[Item, ...]]
    probes: tuple[Item, ...]
    n: int
    real: tuple[Item, ...] = ()


class QualityJob(msgspec.Struct, frozen=True, tag="quality", forbid_unknown_fields=True):
    """Write the raw outputs of all items to `logits_file` (see outputs.py)."""

    variant: str
    target: dict[str, Any]
    path: str
    task: TaskKind
    cores: tuple[int, ...]
    items: tuple[Item, ...]
    logits_file: str


Job = LatencyJob | QualityJob


class Bucket(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One length in one process: nanoseconds per series (`tokenize`, `infer`, `score`, `end_to_end`)."""

    warm_up: WarmUp
    samples_ns: dict[str, list[int]]


class LatencyResult(msgspec.Struct, frozen=True, tag="latency", forbid_unknown_fields=True):
    """`cold_start_ms` runs from opening to the first answer: import the runtime, load, create the session, answer.

    `peak_mb` is the process's own high-water mark, `rss_mb` what is resident after the last sample; `readings` are of
    the timed block. `real_ns` has the series of the real items, `probe_logits` one flat list per probe.
    """

    variant: str
    facts: Facts
    cold_start_ms: float
    peak_mb: float
    rss_mb: float
    readings: Readings
    buckets: dict[int, Bucket]
    real_ns: dict[str, list[int]]
    probe_logits: list[list[float]]


class QualityResult(msgspec.Struct, frozen=True, tag="quality", forbid_unknown_fields=True):
    variant: str
    facts: Facts
    n: int
    seconds: float
    invariance: tuple[Invariance, ...] = ()


Tell = Callable[[int, int], None]
Series = dict[str, list[int]]  # nanoseconds per step, and for the whole request


def measure_latency(
    job: LatencyJob, *, tell: Tell, turn: Turn = lambda: None, opened: Callable[[Runner], Runner] = lambda it: it
) -> LatencyResult:
    """Open, answer once (cold start) and warm up at every length; then, a turn at a time, start to watch, time each of
    `turns.parts`, and stop. `turn` waits for ours, `opened` may wrap what was opened."""
    start = time.perf_counter_ns()
    runner = opened(_open(job))
    probed = runner.logits(job.probes[:1])
    cold_start_ms = (time.perf_counter_ns() - start) / 1e6
    probed += runner.logits(job.probes[1:])
    warm_ups = {length: _warm_up(runner, items, job=job, length=length) for length, items in job.buckets.items()}
    _see_every_length(runner, job.real)
    samples_ns, readings = _in_turns(runner, job, tell=tell, turn=turn)
    resident = memory()
    return LatencyResult(
        variant=job.variant,
        facts=runner.facts,
        cold_start_ms=cold_start_ms,
        peak_mb=resident.peak_mb,
        rss_mb=resident.rss_mb,
        readings=readings,
        buckets={length: Bucket(warm_ups[length], samples_ns[length]) for length in job.buckets},
        real_ns=samples_ns[REAL],
        probe_logits=[output.ravel().tolist() for output in probed],
    )


def _in_turns(runner: Runner, job: LatencyJob, *, tell: Tell, turn: Turn) -> tuple[dict[int, Series], Readings]:
    """The samples by length, and what there was to be read meanwhile. What ends a turn is the word to the parent, who
    would wake beside what is timed."""
    score: Step = partial(probabilities, task=job.task)
    steps: dict[str, Step] = {"tokenize": runner.encode, "infer": runner.infer, "score": score}
    items = {**job.buckets, REAL: job.real}
    found: dict[int, Series] = {length: {name: [] for name in (*steps, TOTAL)} for length in items}
    watch, done, total = Watch(), 0, len(job.buckets) * job.n + len(job.real)

    def next_turn() -> None:
        tell(done, total)
        turn()

    next_turn()
    watch.calibrate()
    next_turn()
    watch.begin()
    with no_garbage_collection():
        for part in parts(job.n, tuple(job.buckets), real=len(job.real)):
            next_turn()
            with watch.active():
                mine = items[part.length]
                sample(steps, _cyclic(mine, part.start - SETTLE, part.start), n=SETTLE)
                timed = sample(steps, _cyclic(mine, part.start, part.stop), n=part.stop - part.start)
            for name, samples in timed.items():
                found[part.length][name] += samples
            done += part.stop - part.start
    next_turn()
    watch.end()
    next_turn()
    watch.calibrate()
    return found, watch.readings()


def _cyclic(items: Sequence[Item], start: int, stop: int) -> list[Item]:
    return [items[i % len(items)] for i in range(start, stop)]


def measure_quality(job: QualityJob, *, tell: Tell) -> QualityResult:
    """The raw outputs of every item, each computed alone, from the same file and threads that are timed; and of the
    first of them also in batches and padded."""
    start = time.perf_counter()
    runner = _open(job)
    outputs: list[Floats] = []
    told = start
    for begin in range(0, len(job.items), _CHUNK):
        outputs += runner.logits(job.items[begin : begin + _CHUNK])
        if time.perf_counter() - told >= _TELL_EVERY_S:
            told = time.perf_counter()
            tell(min(begin + _CHUNK, len(job.items)), len(job.items))
    tell(len(job.items), len(job.items))
    write_outputs(Path(job.logits_file), outputs)
    invariance = runner.invariance(job.items[:INVARIANCE_ITEMS])
    seconds = time.perf_counter() - start
    return QualityResult(job.variant, runner.facts, n=len(job.items), seconds=seconds, invariance=invariance)


def _open(job: Job) -> Runner:
    runner = TARGET.validate_python(job.target).open(Path(job.path))
    if runner.task != job.task:
        raise BadArtifact(f"{job.variant} does {runner.task}, this session measures {job.task}: name the same task")
    return runner


def _warm_up(runner: Runner, items: Sequence[Item], *, job: LatencyJob, length: int) -> WarmUp:
    found = {len(runner.encode(item).ids) for item in items}
    if found != {length}:
        raise BadArtifact(
            f"{job.variant} reads items of {length} tokens as {sorted(found)}: "
            "variants compared at one length need the same tokenizer and a max_length that reaches it"
        )
    forever = cycle(items)

    def call() -> object:
        return probabilities(runner.infer(runner.encode(next(forever))), task=job.task)

    return warm_up(call, clock=time.perf_counter_ns)


def _see_every_length(runner: Runner, items: Sequence[Item]) -> None:
    """Compute one item of each length: the first one of a shape also pays for its memory."""
    tokens = (runner.encode(item) for item in items)
    for one in {len(each.ids): each for each in tokens}.values():
        runner.infer(one)


def main(arguments: Sequence[str]) -> int:
    return child_main(arguments, Job, _measure)


def _measure(job: Job) -> LatencyResult | QualityResult:
    if isinstance(job, LatencyJob):
        return measure_latency(job, tell=tell, turn=await_turn)
    return measure_quality(job, tell=tell)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
