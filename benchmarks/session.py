"""A measuring session: every variant in processes of its own, interleaved, on the same cores, inputs and threads.

First each variant's raw outputs on all items (what the gate judges), then latency in the order A B C D, D C B A, ... so
that a machine that slows down over the session slows every variant alike. The process that is timed must give the gated
outputs.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.children import run_child
from benchmarks.lengths import exact_length_items, read_tokenizer
from benchmarks.machine import affinity, disturbance, read
from benchmarks.measure import summarize
from benchmarks.outputs import Floats, read_outputs
from benchmarks.receipt import How, Load, Measured, Receipt, write_receipt
from benchmarks.targets import Target
from benchmarks.worker import LatencyJob, LatencyResult, QualityJob, QualityResult
from serving.bundle import Item, TaskKind
from serving.errors import BadArtifact, BadRequest

Progress = Callable[[int, str], None]  # requests answered since the last call, and what is being measured
Buckets = Mapping[int, Sequence[Item]]


@dataclass(frozen=True)
class Variant:
    """One thing to compare: `path` is a bundle folder for `ort-cpu`, a model folder for `torch`."""

    name: str
    target: Target
    path: Path


def run_session(
    variants: Sequence[Variant],
    *,
    items: Sequence[Item],
    out: Path,
    load: Load | None = None,
    task: TaskKind = "classification",
    progress: Progress = lambda _done, _what: None,
) -> Receipt:
    """Measure quality and latency; write `receipt.json` and `logits/NAME.npy` into `out`.

    `items` are the examples to score; the timed inputs are cut from the same texts. All variants must do `task`, and
    all targets ask for the same number of threads. The total of the progress is
    `load.requests(variants=..., items=...)`.
    """
    load = load or Load()
    start, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    before = disturbance()
    bench = _prepare(variants, items=items, out=out, load=load, task=task, progress=progress)
    quality = {variant.name: _measure_quality(bench, variant) for variant in variants}
    order = interleaved(variants, processes=load.processes)
    results = [_measure_latency(bench, variant, repeat, quality[variant.name]) for repeat, variant in order]
    receipt = Receipt(
        started=started,
        seconds=time.perf_counter() - start,
        machine=read(),
        disturbance=disturbance().since(before),
        how=bench.how(order),
        variants=tuple(collect(v, [r for r in results if r.variant == v.name], quality[v.name]) for v in variants),
    )
    write_receipt(receipt, out)
    return receipt


def interleaved(variants: Sequence[Variant], *, processes: int) -> tuple[tuple[int, Variant], ...]:
    """(repeat, variant) in the order A B C D, D C B A, A B C D, ..."""
    turns = (variants if repeat % 2 == 0 else tuple(reversed(variants)) for repeat in range(processes))
    return tuple((repeat, variant) for repeat, turn in enumerate(turns) for variant in turn)


def collect(variant: Variant, results: Sequence[LatencyResult], quality: QualityResult) -> Measured:
    """One variant's processes as a record with figures."""
    lengths = list(results[0].buckets)
    series = list(results[0].buckets[lengths[0]].samples_ns)
    samples_ns = {
        length: {name: tuple(result.buckets[length].samples_ns[name] for result in results) for name in series}
        for length in lengths
    }
    return Measured(
        name=variant.name,
        kind=variant.target.kind,
        facts=results[0].facts,
        logits_file=_logits_file(variant),
        cold_start_ms=tuple(result.cold_start_ms for result in results),
        peak_mb=tuple(result.peak_mb for result in results),
        preempted=tuple(result.preempted for result in results),
        warm_ups={length: tuple(result.buckets[length].warm_up for result in results) for length in lengths},
        latency={n: {name: summarize(runs) for name, runs in each.items()} for n, each in samples_ns.items()},
        samples_ns=samples_ns,
        invariance=quality.invariance,
    )


@dataclass(frozen=True)
class _Bench:
    """What stays the same through a session."""

    items: tuple[Item, ...]
    buckets: Buckets
    out: Path
    load: Load
    task: TaskKind
    threads: int
    cores: tuple[int, ...]
    progress: Progress

    def target(self, variant: Variant) -> dict[str, object]:
        return {**variant.target.model_dump(), "threads": self.threads}

    def inputs(self, repeat: int) -> dict[int, tuple[Item, ...]]:
        """The same inputs for every variant of one repeat, others in the next one as far as there are any."""
        n = self.load.n
        return {
            length: tuple(items[(repeat * n + i) % len(items)] for i in range(min(n, len(items))))
            for length, items in self.buckets.items()
        }

    def tell(self, what: str) -> Callable[[int], None]:
        """Turn a child's "so many done in all" into steps."""
        done = 0

        def advance(now: int) -> None:
            nonlocal done
            self.progress(now - done, what)
            done = now

        return advance

    def how(self, order: Sequence[tuple[int, Variant]]) -> How:
        return How(
            load=self.load,
            threads=self.threads,
            cores=self.cores,
            order=tuple(variant.name for _, variant in order),
            items=len(self.items),
            distinct={length: len(items) for length, items in self.buckets.items()},
        )


def _prepare(
    variants: Sequence[Variant],
    *,
    items: Sequence[Item],
    out: Path,
    load: Load,
    task: TaskKind,
    progress: Progress,
) -> _Bench:
    names = [variant.name for variant in variants]
    if not names or len(set(names)) < len(names) or not items:
        raise BadRequest(f"a session needs items and differently named variants: got {len(items)} items, {names}")
    cores, threads = affinity(), _same_threads(variants)
    if threads > len(cores):
        raise BadRequest(f"{threads} threads on {len(cores)} cores would time each other: choose at most {len(cores)}")
    tokenizer = read_tokenizer(variants[0].path)
    most = load.n * load.processes
    buckets = {n: exact_length_items(items, tokenizer, length=n, most=most) for n in load.lengths}
    (out / "logits").mkdir(parents=True, exist_ok=True)
    return _Bench(tuple(items), buckets, out.resolve(), load, task, threads, cores[:threads], progress)


def _same_threads(variants: Sequence[Variant]) -> int:
    asked = {variant.name: variant.target.resolved_threads() for variant in variants}
    if len(set(asked.values())) > 1:
        raise BadRequest(
            f"variants are compared with the same number of threads, got {asked}: give all targets the same"
        )
    return next(iter(asked.values()))


def _measure_quality(bench: _Bench, variant: Variant) -> QualityResult:
    job = QualityJob(
        variant=variant.name,
        target=bench.target(variant),
        path=str(variant.path.resolve()),
        task=bench.task,
        cores=bench.cores,
        items=bench.items,
        logits_file=str(bench.out / _logits_file(variant)),
    )
    tell = bench.tell(f"quality of {variant.name}")
    return run_child(job, result_type=QualityResult, threads=bench.threads, tell=tell)


def _measure_latency(bench: _Bench, variant: Variant, repeat: int, quality: QualityResult) -> LatencyResult:
    job = LatencyJob(
        variant=variant.name,
        target=bench.target(variant),
        path=str(variant.path.resolve()),
        task=bench.task,
        cores=bench.cores,
        buckets=bench.inputs(repeat),
        probes=bench.items[: bench.load.probes],
        n=bench.load.n,
    )
    tell = bench.tell(f"latency of {variant.name}, process {repeat + 1} of {bench.load.processes}")
    result = run_child(job, result_type=LatencyResult, threads=bench.threads, tell=tell)
    gated = read_outputs(bench.out / _logits_file(variant))[: bench.load.probes]
    require_same(result, quality, gated=gated, tolerance=bench.load.probe_tolerance)
    return result


def require_same(result: LatencyResult, quality: QualityResult, *, gated: Sequence[Floats], tolerance: float) -> None:
    """What was timed is what was gated: the same digest, and the same raw outputs on the probes."""
    if result.facts.digest != quality.facts.digest:
        raise BadArtifact(
            f"{result.variant} changed during the session: its quality is of {quality.facts.digest[:12]}, "
            f"its latency of {result.facts.digest[:12]}; leave the files alone and run the benchmark again"
        )
    timed_sizes, gated_sizes = [len(row) for row in result.probe_logits], [output.size for output in gated]
    if timed_sizes != gated_sizes:
        raise BadArtifact(
            f"{result.variant} answers differently when timed: its probes have {timed_sizes} logits, "
            f"{gated_sizes} when gated; what was timed is not what was gated"
        )
    timed = np.concatenate([np.asarray(row) for row in result.probe_logits])
    off = float(np.abs(timed - np.concatenate([output.ravel() for output in gated])).max())
    if not off <= tolerance:
        raise BadArtifact(
            f"{result.variant} answers differently when timed: a probe's logit is off by {off:.3g}, more than "
            f"{tolerance:g}; what was timed is not what was gated"
        )


def _logits_file(variant: Variant) -> str:
    return f"logits/{variant.name}.npy"
