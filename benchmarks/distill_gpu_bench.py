"""The distillation engine on a CUDA device; `distill_bench --gpu` runs this in a process of its own.

    python -m benchmarks.distill_gpu_bench [--quick] [--device cpu]

gpu_relation_*_L   milliseconds of forward and backward of three relations in bf16, 384 wide, 48 relation heads: stored
                   whole, eager and under torch.compile, over ours. Refused unless all compute the same.
gpu_step_*_L       whole steps of BERT-base's shape (12x768, random weights) -> 6x384 on packed batches of documents of
                   L tokens, bf16, also with both models compiled: tokens per second; the share of the data sheet's bf16
                   peak, counting what gpu.py counts; the peak of allocated memory.

The clock waits for the device. The last line is the list of figures as JSON. `--quick --device cpu` tries the script
out where there is no GPU; its figures mean nothing.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, cast

import msgspec
import numpy as np
import torch
from rich.console import Console as Terminal

from benchmarks import gpu
from benchmarks.gpu import COMPILED, EAGER, TARGETS
from benchmarks.measure import Clock
from benchmarks.relation_race import OURS, Batch, Shape, flattened, race, require_equal, stored
from benchmarks.scoreboard import Figure, alone, build_table, less_is_better
from pipeline.checkpoints import Checkpoints
from pipeline.data.layout import Layout, TextBatch
from pipeline.distillation.attention_objectives import RelationObjective
from pipeline.distillation.relation_kl import relation_kl
from pipeline.distillation.train import How, Pupil, Teacher, distill
from pipeline.optimization import Optimization
from pipeline.progress import Console, Silent
from pipeline.training import Step

TOLERANCE = 0.05  # relatively: the stored relations' logits are rounded to bf16
VOCABULARY = 30_522


class Sizes(msgspec.Struct, frozen=True):
    """How much is measured: `positions` a step, `steps` of which every `block` are one sample."""

    relations: tuple[Shape, ...] = (Shape(32, 128), Shape(64, 512))
    repeats: int = 20
    teacher: gpu.Size = gpu.Size(12, 768, 3072)
    student: gpu.Size = gpu.Size(6, 384, 1536)
    lengths: tuple[int, ...] = (128, 512)
    positions: int = 32_768
    steps: int = 70
    block: int = 10


QUICK = Sizes(
    relations=(Shape(2, 8),),
    repeats=2,
    teacher=gpu.Size(2, 96, 192),
    student=gpu.Size(2, 48, 96),
    lengths=(8,),
    positions=32,
    steps=6,
    block=2,
)


def waiting_clock(device: str) -> Clock:
    """Nanoseconds, read when the device has done what it was given."""

    def clock() -> int:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter_ns()

    return clock


def relation_figures(shape: Shape, *, device: str, sizes: Sizes) -> Iterator[Figure]:
    """The stored relations, eager and compiled, over ours."""
    layout = Layout.padded((shape.length,) * shape.documents, columns=shape.length)
    sides = {
        EAGER: stored(shape),
        COMPILED: torch.compile(stored(shape)),
        OURS: flattened(relation_kl, layout, relation_heads=shape.relation_heads),
    }
    batch = Batch(shape, device=device, dtype=torch.bfloat16)
    keys = {name: f"gpu_relation_{name}_{shape.length}" for name in TARGETS}
    title = f"relation loss on a GPU, B={shape.documents}, L={shape.length}, bf16"
    try:
        require_equal(sides, batch, tolerance=TOLERANCE)
        found = race(sides, batch, repeats=sizes.repeats, clock=waiting_clock(device))
    except torch.OutOfMemoryError:
        yield from (Figure(key=key, name=title, note="stored relations do not fit this GPU") for key in keys.values())
        return
    times_ms = {name: median(samples) / 1e6 for name, samples in found.items()}
    for name, goal in TARGETS.items():
        over, ours_ms = f"{title}, over {name}", times_ms[OURS]
        yield less_is_better(keys[name], over, baseline=times_ms[name], ours=ours_ms, unit="ms", at_least=goal)


class Repeated:
    """A feed of one packed batch, again and again; reads the clock before every `block`-th step."""

    def __init__(self, length: int, *, sizes: Sizes, clock: Clock) -> None:
        layout = Layout.packed((length,) * (sizes.positions // length))
        ids_N = np.random.default_rng(0).integers(1, VOCABULARY, layout.positions)
        places_N = np.tile(np.arange(length), len(layout))
        batch = TextBatch(ids_N[None], None, places_N[None], layout, tuple(range(len(layout))))
        self._step = Step([batch], tokens=layout.tokens, positions=layout.positions, weight=len(layout))
        self._block, self._clock, self.times_ns = sizes.block, clock, list[int]()

    def step_at(self, step: int) -> Step:
        if step % self._block == 0:
            self.times_ns.append(self._clock())
        return self._step

    def position(self) -> dict[str, Any]:
        return {}

    def seek(self, position: dict[str, Any]) -> None:
        """Nothing: a trial is not resumed."""


def step_figures(length: int, *, compiled: bool, device: str, sizes: Sizes) -> Iterator[Figure]:
    """Tokens per second, share of the peak and memory of whole steps."""
    feed = Repeated(length, sizes=sizes, clock=waiting_clock(device))
    tokens = sizes.steps * sizes.positions
    student = Pupil(encoder(sizes.student), RelationObjective(relation_heads=48), Optimization(), tokens)
    torch.cuda.reset_peak_memory_stats() if device == "cuda" else None
    with tempfile.TemporaryDirectory() as folder:
        distill(
            Teacher(encoder(sizes.teacher)),
            {"student": student},
            cast(Any, feed),
            how=How("bf16", compiled),
            checkpoints=Checkpoints(Path(folder), every_s=float("inf")),
            reporter=Silent(),
        )
    blocks_ns = [after - before for before, after in pairwise(feed.times_ns)][1:]
    tokens_per_s = sizes.block * sizes.positions / (median(blocks_ns) / 1e9)
    key = f"gpu_step{'_compiled' if compiled else ''}_{length}"
    name = f"whole step on a GPU, 12x768 -> 6x384, L={length}{', compiled' if compiled else ''}"
    yield alone(key, name, ours=tokens_per_s, unit="tokens/s")
    peak = gpu.peak_flops(torch.cuda.get_device_name()) if device == "cuda" else None
    if peak:
        share = tokens_per_s * gpu.step_flops(sizes.teacher, sizes.student, length=length) / peak
        yield alone(f"{key}_peak_share", f"{name}: share of {peak / 1e12:g} TFLOP/s", ours=share, unit="share")
    memory_gb = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 0.0
    yield alone(f"{key}_memory", f"{name}: peak memory", ours=memory_gb, unit="GB")


def encoder(size: gpu.Size) -> Any:
    """A BERT with random weights; heads of 64 channels where the width allows, else of 32 or less."""
    from transformers import BertConfig, BertModel

    layers, width, feed_forward = size
    config = BertConfig(
        vocab_size=VOCABULARY,
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=12,
        intermediate_size=feed_forward,
    )
    torch.manual_seed(0)
    return BertModel(config).eval()


def measure(device: str, sizes: Sizes) -> Iterator[Figure]:
    """Every figure, with a bar."""
    with Console().bar("on the GPU", total=len(sizes.relations) + 2 * len(sizes.lengths), unit="races") as bar:
        for shape in sizes.relations:
            yield from relation_figures(shape, device=device, sizes=sizes)
            bar.advance()
        for length in sizes.lengths:
            for compiled in (False, True):
                yield from step_figures(length, compiled=compiled, device=device, sizes=sizes)
                bar.advance()


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    asked = parser.parse_args()
    figures = list(measure(asked.device, QUICK if asked.quick else Sizes()))
    Terminal(stderr=True, width=140).print(build_table(figures, title="On a GPU"))
    print(msgspec.json.encode(figures).decode())


if __name__ == "__main__":
    main()
