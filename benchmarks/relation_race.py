"""Ways to compute one loss, raced: the three relations of a batch, forward and backward, in turn A B A B.

A side is a function (student (B, L, D), teacher (B, L, E)) -> summed loss. Sides are raced only after their values and
gradients have been found equal. Memory is what one call adds at its peak, in a process that did nothing else before.
`ours` comes from outside: a function that can be found by name, so that a fresh process finds it too.
"""

import gc
import multiprocessing
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import TypeVar

import msgspec
import torch
from torch import Tensor

from benchmarks.distill_naive import materialised_kl
from benchmarks.measure import TOTAL, Clock, Step, sample
from benchmarks.scoreboard import Figure, Notes, less_is_better
from serving.errors import Failure

T = TypeVar("T")
Side = Callable[[Tensor, Tensor], Tensor]
Advance = Callable[[], object]
STORED, OURS = "stored", "ours"
TOLERANCE = 1e-4
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Shape(msgspec.Struct, frozen=True):
    """One batch of full length: no padding, so that nothing but the loss is compared."""

    documents: int
    length: int
    width: int = 384
    relation_heads: int = 48


Maker = Callable[[Shape], Side]


class Batch:
    """Q, K and V of student and teacher, drawn alike in every process."""

    def __init__(self, shape: Shape, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(0)
        size = (2, 3, shape.documents, shape.length, shape.width)
        student, teacher = torch.randn(size, generator=generator).to(device=device, dtype=dtype)
        self.student = [x_BLD.clone().requires_grad_() for x_BLD in student]
        self.teacher = list(teacher)

    def forward_backward(self, side: Side) -> Tensor:
        """The summed loss of the three relations; their gradients are in `student` afterwards."""
        for x_BLD in self.student:
            x_BLD.grad = None
        loss = torch.stack([side(s, t) for s, t in zip(self.student, self.teacher, strict=True)]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def stored(shape: Shape) -> Side:
    """The baseline: B x A x L x L of both models."""

    def side(student_BLD: Tensor, teacher_BLE: Tensor) -> Tensor:
        lengths_B = torch.full((shape.documents,), shape.length, device=student_BLD.device)
        return materialised_kl(student_BLD, teacher_BLE, lengths_B=lengths_B, relation_heads=shape.relation_heads)

    return side


def flattened(relation_kl: Callable[..., Tensor], layout: object, *, relation_heads: int) -> Side:
    """The engine's form of the loss, which takes flat positions and their layout, as a side."""

    def side(student_BLD: Tensor, teacher_BLE: Tensor) -> Tensor:
        student_ND, teacher_NE = student_BLD.flatten(0, 1), teacher_BLE.flatten(0, 1)
        return relation_kl(student_ND, teacher_NE, layout=layout, relation_heads=relation_heads)

    return side


def relation_figure(ours: Maker, shape: Shape, *, at_least: float | None, repeats: int, notes: Notes) -> Figure:
    """Seconds of the loss, stored over ours, after both were found to compute the same."""
    batch, sides, key = Batch(shape), {STORED: stored(shape), OURS: ours(shape)}, f"relation_{shape.length}"
    differences = require_equal(sides, batch)
    samples_ns = race(sides, batch, repeats=repeats, advance=notes.advance)
    notes.raw[key] = {"shape": shape, "relative_difference": differences, "samples_ns": samples_ns}
    stored_s, ours_s = (median(samples_ns[name]) / 1e9 for name in (STORED, OURS))
    name = f"relation loss, forward + backward, B={shape.documents}, L={shape.length}"
    return less_is_better(key, name, baseline=stored_s, ours=ours_s, unit="s", at_least=at_least)


def memory_figure(ours: Maker, shape: Shape, *, at_least: float | None, processes: int, notes: Notes) -> Figure:
    """Extra peak memory of the loss, each side in processes of its own."""
    makers, key = {STORED: stored, OURS: ours}, f"memory_{shape.length}"
    found: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(processes):
        for name, make in makers.items():
            found[name].append(in_fresh_process(added_mb, make, shape))
            notes.advance()
    notes.raw[key] = {"shape": shape, "rise_mb": found}
    name = f"relation loss, extra peak memory, B={shape.documents}, L={shape.length}"
    stored_mb, ours_mb = median(found[STORED]), median(found[OURS])
    return less_is_better(key, name, baseline=stored_mb, ours=ours_mb, unit="MB", at_least=at_least)


def added_mb(make: Maker, shape: Shape) -> float:
    """What one side adds to the memory of this process, whose libraries a tiny batch has warmed up."""
    tiny = Shape(2, 4, shape.width, shape.relation_heads)
    Batch(tiny).forward_backward(make(tiny))
    batch, side = Batch(shape), make(shape)
    return rise_mb(lambda: batch.forward_backward(side))


def require_equal(sides: Mapping[str, Side], batch: Batch, *, tolerance: float = TOLERANCE) -> dict[str, float]:
    """How far value and gradients of the others are from the first side's, relatively.

    Raises Failure above `tolerance`: a race of two different things says nothing.
    """
    found = {}
    for name, side in sides.items():
        value = batch.forward_backward(side)
        found[name] = [value, *(x.grad for x in batch.student if x.grad is not None)]
    first = next(iter(found))
    return {
        name: checked_difference(values, found[first], what=f"{name} and {first}", tolerance=tolerance)
        for name, values in found.items()
        if name != first
    }


def checked_difference(values: list[Tensor], wanted: list[Tensor], *, what: str, tolerance: float) -> float:
    """The largest relative difference (of norms) of paired tensors; Failure above `tolerance`."""
    if any(float(b.norm()) == 0.0 for b in wanted):
        raise Failure(f"{what} cannot be compared: a loss or gradient is 0, as where student and teacher are the same")
    pairs = zip(values, wanted, strict=True)
    off = max(float((a.double() - b.double()).norm() / b.double().norm()) for a, b in pairs)
    if not off <= tolerance:
        raise Failure(
            f"{what} do not compute the same: value or gradient differ by {off:.3g} (relatively), more than "
            f"{tolerance:g}; nothing was measured: run the tests of relation_kl first"
        )
    return off


def race(
    sides: Mapping[str, Side],
    batch: Batch,
    *,
    repeats: int,
    advance: Advance = lambda: None,
    clock: Clock = time.perf_counter_ns,
) -> dict[str, list[int]]:
    """Nanoseconds of forward and backward by side: one round to warm up, then `repeats` rounds, all sides in each."""

    def step(side: Side) -> Step:
        def run(_: object) -> None:
            batch.forward_backward(side)
            advance()

        return run

    steps = {name: step(side) for name, side in sides.items()}
    sample(steps, [None], n=1, clock=clock)
    found = sample(steps, [None], n=repeats, clock=clock)
    del found[TOTAL]
    return found


def rise_mb(call: Callable[[], object]) -> float:
    """By how much the peak of resident memory while calling is above the level before (MB)."""
    gc.collect()
    try:
        _CLEAR.write_text("5")  # the peak starts anew from the present level
    except OSError:  # not permitted here: the process is fresh, so its peak so far is little above its level
        before = _resident_mb("VmHWM")
    else:
        before = _resident_mb("VmRSS")
    call()
    return _resident_mb("VmHWM") - before


def in_fresh_process(function: Callable[..., T], *arguments: object) -> T:
    """The function's result from a process that was started for it; it must be importable by name."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *arguments).result()


def _resident_mb(field: str) -> float:
    match = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise Failure(f"{_STATUS} has no {field}: memory is measured on Linux only")
    return int(match.group(1)) * 1024 / 1e6
