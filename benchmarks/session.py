"""A measuring session: every variant in processes of its own, interleaved, on the same cores, inputs and threads.

First each variant's raw outputs on all items (what the gate judges), then latency, the processes of a repeat in turns
of a few requests (turns.py), so that what slows the machine slows every variant alike. The process that is timed must
give the gated outputs. A repeat in which noise was found is measured again, with all its variants, up to a budget; what
is still disturbed then is told as it is.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from benchmarks.children import Child, child, run_child
from benchmarks.collect import Kept, Repeat, collect, keep, missing, require_finite, require_same
from benchmarks.machine import Disturbance, disturbance, read
from benchmarks.noise import unknown
from benchmarks.openloop.results import ServerResult, both
from benchmarks.outputs import read_outputs
from benchmarks.pinning import unpinned
from benchmarks.plan import Progress, SessionPlan, Variant, logits_file, plan_session
from benchmarks.readings import without_each_other
from benchmarks.receipt import FILE, Load, Measured, Receipt, sealed, write_receipt
from benchmarks.turns import take_turns
from benchmarks.worker import LatencyResult, QualityResult
from serving.bundle import Item, TaskKind

__all__ = ["Progress", "Serve", "SessionPlan", "Variant", "interleaved", "run_session"]

WORKER = "benchmarks.worker"
CALIBRATE = BEGIN = END = 0  # turns of the first round, in which nothing is timed
Serve = Callable[[SessionPlan, Variant], ServerResult | None]  # the server scenario of one variant


def run_session(
    variants: Sequence[Variant],
    *,
    items: Sequence[Item],
    out: Path,
    load: Load | None = None,
    task: TaskKind = "classification",
    target: str = "here",
    progress: Progress = lambda _done, _what: None,
    serve: Serve | None = None,
    worker: str = WORKER,
) -> Receipt:
    """Measure quality and latency, and with `serve` the rate that each variant keeps up with; write `receipt.json` and
    `logits/NAME.npy` into `out`.

    `items` are the examples to score; the timed inputs are taken from the same texts. All variants must do `task`, and
    all targets ask for the same number of threads. Where no repeat is measured again, the total of the progress is
    `load.requests(variants=..., items=...)`. `worker` is the module whose processes measure.

    Raises:
        BadRequest: what is asked for cannot be measured here.
        BadArtifact: a variant cannot be opened, answers NaN, or answers otherwise when timed.
    """
    begun = _Begun(time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds"), disturbance())
    plan = plan_session(variants, items=items, out=out, load=load or Load(), task=task, progress=progress)
    (plan.out / FILE).unlink(missing_ok=True)  # an earlier session's, which must not lie beside what is found now
    receipt = _receipt(plan, _measure(plan, serve, worker), begun, target=target)
    write_receipt(receipt, plan.out)
    return receipt


class _Begun(NamedTuple):
    """When a session began, and what others had taken by then."""

    clock: float
    told: str
    before: Disturbance


class _Found(NamedTuple):
    """What a session measured, and in which order of processes."""

    variants: tuple[Measured, ...]
    kept: Kept
    attempts: int
    order: Sequence[str]


def _measure(plan: SessionPlan, serve: Serve | None, worker: str) -> _Found:
    variants = plan.variants
    quality = {variant.name: _measure_quality(plan, variant, worker) for variant in variants}
    timing = _Timing(plan, quality, worker)
    kept, attempts = measure_until_quiet(timing.repeat, load=plan.load)
    measured = [collect(v, [repeat[v.name] for repeat in kept.repeats], quality[v.name]) for v in variants]
    if serve is not None:
        served = _served_twice(plan, serve)
        measured = [replace(each, server=served[each.name]) for each in measured]
    return _Found(tuple(measured), kept, attempts, timing.order)


def _receipt(plan: SessionPlan, found: _Found, begun: _Begun, *, target: str) -> Receipt:
    machine, readings = read(), [readings for each in found.variants for readings in each.readings]
    receipt = Receipt(
        started=begun.told,
        seconds=time.monotonic() - begun.clock,
        machine=machine,
        disturbance=disturbance().since(begun.before),
        how=plan.how(found.order),
        variants=found.variants,
        target=target,
        findings=found.kept.findings,
        set_aside=found.kept.set_aside,
        unknown=(*unknown(machine, readings), *unpinned()),
        attempts=found.attempts,
    )
    return sealed(receipt)


def measure_until_quiet(
    measure: Callable[[int], Repeat], *, load: Load, clock: Callable[[], float] = time.monotonic
) -> tuple[Kept, int]:
    """Repeats 0, 1, ... until as many as the load wants are quiet, or its budget is spent; and in how many attempts.

    An attempt that would not end in time is not begun: it could not be waited for.
    """
    start = clock()
    repeats = [measure(i) for i in range(load.processes)]
    first_s, attempts = clock() - start, 1
    while (more := missing(repeats, wanted=load.processes)) and attempts < load.attempts:
        spent_s = clock() - start
        if spent_s - first_s + more * spent_s / len(repeats) > load.again_s:
            break
        attempts += 1
        repeats += [measure(i) for i in range(len(repeats), len(repeats) + more)]
    return keep(repeats, wanted=load.processes), attempts


def interleaved(variants: Sequence[Variant], *, processes: int) -> tuple[tuple[int, Variant], ...]:
    """(repeat, variant) in the order A B C D, D C B A, A B C D, ..."""
    return tuple((repeat, variant) for repeat in range(processes) for variant in _turn(variants, repeat))


def _turn(variants: Sequence[Variant], repeat: int) -> Sequence[Variant]:
    return variants if repeat % 2 == 0 else tuple(reversed(variants))


@dataclass
class _Timing:
    """Runs the timed processes; `order` grows with them."""

    plan: SessionPlan
    quality: Mapping[str, QualityResult]
    worker: str
    order: list[str] = field(default_factory=list)

    def repeat(self, number: int) -> Repeat:
        """All variants' processes at once: opened one after the other, then in turns of a few requests."""
        plan, variants = self.plan, _turn(self.plan.variants, number)
        with ExitStack() as stack:
            children = {each.name: stack.enter_context(self._opened(each, number)) for each in variants}
            take_turns([one.step for one in children.values()], (CALIBRATE, BEGIN, *plan.rounds, END))
            results = {name: one.last() for name, one in children.items()}
        readings = without_each_other({k: each.readings for k, each in results.items()}, cores=len(plan.cores))
        return {v.name: self._checked(v, number, replace(results[v.name], readings=readings[v.name])) for v in variants}

    @contextmanager
    def _opened(self, variant: Variant, number: int) -> Iterator[Child[LatencyResult]]:
        self._tell(variant, number)(0)
        job, threads = self.plan.latency_job(variant, repeat=number), self.plan.threads
        with child(job, result_type=LatencyResult, threads=threads, module=self.worker, turns=True) as one:
            one.ready()
            yield one

    def _checked(self, variant: Variant, number: int, result: LatencyResult) -> LatencyResult:
        plan = self.plan
        gated = read_outputs(plan.out / logits_file(variant))[: plan.load.probes]
        require_same(result, self.quality[variant.name], gated=gated, tolerance=plan.load.probe_tolerance)
        self.order.append(variant.name)
        self._tell(variant, number)(plan.load.requests_a_process)
        return result

    def _tell(self, variant: Variant, number: int) -> Callable[[int], None]:
        wanted = self.plan.load.processes
        count = f"of {wanted}" if number < wanted else "(another was disturbed)"
        return self.plan.tell(f"latency of {variant.name}, process {number + 1} {count}")


def _served_twice(plan: SessionPlan, serve: Serve) -> dict[str, ServerResult | None]:
    """Each variant's rate, asked for on the way there and on the way back."""
    there = {each.name: serve(plan, each) for each in plan.variants}
    back = {each.name: serve(plan, each) for each in reversed(plan.variants)}
    return {
        name: both(one, other) if one is not None and (other := back[name]) is not None else None
        for name, one in there.items()
    }


def _measure_quality(plan: SessionPlan, variant: Variant, worker: str) -> QualityResult:
    tell, job = plan.tell(f"quality of {variant.name}"), plan.quality_job(variant)
    result = run_child(job, result_type=QualityResult, threads=plan.threads, tell=tell, module=worker)
    require_finite(variant.name, read_outputs(plan.out / logits_file(variant)))
    return result
