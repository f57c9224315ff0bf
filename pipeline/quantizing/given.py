"""What a recipe may ask for beside the graph: calibration texts, the dev split, milliseconds, the models behind it.

All of it is of the training half: the reported split is not in reach. Shapes: N items, L tokens, C outputs.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.errors import BadArtifact
from pipeline.progress import Reporter, Silent
from pipeline.quantizing.profile import NodeTimes, node_times
from pipeline.tasking.base import Places, TaskData
from pipeline.tasking.fitted import Fitted, fitted_of
from pipeline.tasks import AnyTask
from serving.bundle import Bundle, ServingSpec

Floats = npt.NDArray[np.float32]
Feed = dict[str, npt.NDArray[np.int64]]
TIMED_TOKENS: Final = 128
_RUNS: Final = 30


@dataclass
class Given:
    """`bundle` is the exported one, in fp32; `scratch` a folder that vanishes. What the recipe does not need is not
    there."""

    bundle: Bundle
    scratch: Path
    task: AnyTask | None = None
    load: Callable[[], TaskData] | None = None
    model: Path | None = None
    threads: int | None = None
    seed: int = 0
    checkpoints: Path | None = None
    reporter: Reporter = field(default_factory=Silent)

    @property
    def spec(self) -> ServingSpec:
        return self.bundle.spec

    @property
    def fitted(self) -> Fitted:
        return fitted_of(self.spec)

    @cached_property
    def data(self) -> TaskData:
        """Train and dev."""
        assert self.load is not None, "the recipe did not say that it needs data"
        return self.load()

    def calibration(self, samples: int) -> list[Feed]:
        """Training texts of real lengths, one an element, unpadded: arrays (1, L).

        Raises:
            BadArtifact: there are none, or all are of one length: ranges found on them hold for no other.
        """
        items = self.data.train.items
        chosen = np.random.default_rng(self.seed).permutation(len(items))[:samples]
        feeds = [self.feed(tokens) for tokens in self._engine.fed([items[row] for row in sorted(chosen)])]
        lengths = {feed["input_ids"].shape[1] for feed in feeds}
        if len(lengths) < 2 and lengths != {self.spec.max_length}:  # all cut there, as the server will cut them
            of = f"all of {lengths.pop()} tokens" if lengths else "none"
            raise BadArtifact(
                f"calibration needs training texts of several lengths, found {len(feeds)}, {of}: add texts"
            )
        return feeds

    def feed(self, tokens: Any) -> Feed:
        """One tokenized item as the graph reads it."""
        ids = np.array([tokens.ids], np.int64)
        every = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.array([tokens.type_ids], np.int64),
        }
        return {name: every[name] for name in self.spec.graph_inputs}

    def dev_logits(self, graph: Path, limit: int | None = None) -> list[Floats]:
        """Raw outputs of the dev items (of the first `limit`), each computed alone by the engine that serves."""
        with self._opened(graph) as engine:
            return list(engine.logits(self.data.dev.items[:limit]))

    def dev_metric(self, graph: Path) -> float:
        """The task's first metric on dev, with the thresholds the bundle has."""
        return self.metric_of(self.dev_logits(graph))

    def metric_of(self, outputs: Sequence[Floats]) -> float:
        """The task's first metric of the dev items' outputs."""
        task = self._task
        answers = task.answers(outputs, self.fitted, self._dev_places)
        return task.score(task.metrics[0], answers, task.truths(self.data.dev, self.fitted))

    def milliseconds(self, graph: Path, *, tokens: int = TIMED_TOKENS) -> float:
        """The median of one forward, batch 1, in this process: to rank graphs by, not to report."""
        batch = [self._timed(tokens)]
        with self._opened(graph) as engine:
            return median(_timed_ms(lambda: engine.run(batch)) for _ in range(_RUNS))

    def node_times(self, graph: Path) -> NodeTimes:
        """Milliseconds of each node in the same forward."""
        feed = self.feed(self._timed(TIMED_TOKENS))
        return node_times(graph, feed, threads=self.threads, scratch=self.scratch)

    def _timed(self, tokens: int) -> Any:
        """A text of so many tokens, or of as many as the model reads."""
        length = min(tokens, self.spec.max_length)
        one = self._engine.encode([self.bundle.golden.items[0]])[0]
        return type(one)((one.ids * length)[:length], [0] * length)

    @property
    def _task(self) -> AnyTask:
        assert self.task is not None, "the recipe did not say that it needs data"
        return self.task

    @cached_property
    def _engine(self) -> Any:
        from serving.engine import Engine

        return Engine(self.bundle, threads=self.threads)

    @cached_property
    def _dev_places(self) -> Places | None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.bundle.path / "tokenizer.json"))
        return self._task.places(self.data.dev, tokenizer, max_length=self.spec.reach)

    @contextmanager
    def _opened(self, graph: Path) -> Iterator[Any]:
        """An engine over a graph that is not sealed yet, with the bundle's tokenizer and contract."""
        from serving.engine import Engine

        with tempfile.TemporaryDirectory(dir=self.scratch) as name:
            folder = Path(name)
            (folder / "model.onnx").symlink_to(graph.resolve())
            shutil.copyfile(self.bundle.path / "tokenizer.json", folder / "tokenizer.json")
            yield Engine(Bundle(folder, self.spec, self.bundle.golden, digest=""), threads=self.threads)


def _timed_ms(call: Callable[[], object]) -> float:
    started = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - started) / 1e6
