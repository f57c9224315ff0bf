"""One bundle loaded as often as its setting says, behind one face: who answers, and how a request's items are batched.

Shapes: N items, L tokens of an item, C outputs.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np

from serving.answers import Floats, probabilities
from serving.bundle import Bundle, Item
from serving.engine import Answer, Engine, Tokens, check_golden
from serving.errors import BadArtifact
from serving.tuning import Setting, Together

INVARIANT: Final = 1e-3  # how far a raw output may move with its batch: what `invariant` asks of a search's variants


class Varies(BadArtifact):
    """Answers depend on what is computed beside them; each item alone is still fit."""


class Instances:
    """Engines of one bundle; a call goes to the one with the fewest calls under way. Safe from several threads."""

    def __init__(
        self, engines: Sequence[Engine], *, setting: Setting, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.bundle = engines[0].bundle
        self.setting = setting
        self._engines = tuple(engines)
        self._together = setting.batch.items if isinstance(setting.batch, Together) else 1
        self._busy = [0] * len(engines)
        self._lock = threading.Lock()
        self._clock = clock

    def answer(self, items: Sequence[Item]) -> Answer:
        with self._lent() as engine:
            if self._together == 1 or len(items) == 1:
                return engine.answer(items)
            return _answer_together(engine, items, most=self._together, clock=self._clock)

    @contextmanager
    def _lent(self) -> Iterator[Engine]:
        with self._lock:
            index = self._busy.index(min(self._busy))
            self._busy[index] += 1
        try:
            yield self._engines[index]
        finally:
            with self._lock:
                self._busy[index] -= 1


def open_instances(bundle: Bundle, *, setting: Setting) -> Instances:
    """Load, warm and check; what this returns is fit to answer.

    Raises:
        BadArtifact: as `Engine` and `check_golden`.
        Varies: items are to be computed together, and that moves their answers.
    """
    engines = [Engine(bundle, threads=setting.threads) for _ in range(setting.sessions)]
    for engine in engines:
        engine.warm()
    check_golden(engines[0])
    if isinstance(setting.batch, Together):
        require_invariance(engines[0], most=setting.batch.items)
    return Instances(engines, setting=setting)


def logits_together(engine: Engine, tokens: Sequence[Tokens], *, most: int) -> list[Floats]:
    """The raw output of every item, (C,) or (L, C), computed up to `most` at a time: those of like lengths, which pad
    each other least."""
    order = sorted(range(len(tokens)), key=lambda index: len(tokens[index].ids))
    found: dict[int, Floats] = {}
    for begin in range(0, len(order), most):
        group = order[begin : begin + most]
        rows = engine.run([tokens[index] for index in group])
        for index, row in zip(group, rows, strict=True):
            found[index] = row[: len(tokens[index].ids)] if row.ndim == 2 else row
    return [found[index] for index in range(len(tokens))]


def _answer_together(engine: Engine, items: Sequence[Item], *, most: int, clock: Callable[[], float]) -> Answer:
    """As `Engine.answer` does with each alone."""
    started = clock()
    tokens = engine.encode(items)
    encoded = clock()
    task = engine.bundle.spec.task
    scores = [probabilities(row, task=task) for row in logits_together(engine, tokens, most=most)]
    return Answer(
        scores=scores,
        offsets=[one.offsets for one in tokens],
        tokenize_ms=(encoded - started) * 1e3,
        infer_ms=(clock() - encoded) * 1e3,
    )


def require_invariance(engine: Engine, *, most: int) -> None:
    """Compute the golden inputs, each beside a neighbour twice as long as the longest, so that every one is padded.

    Raises:
        Varies: an answer moves by more than INVARIANT.
    """
    spec, items = engine.bundle.spec, [tuple(item) for item in engine.bundle.golden.items]
    tokens = engine.encode(items)
    longest = min(spec.max_length, 2 * max(len(one.ids) for one in tokens))
    neighbour = Tokens(ids=[spec.pad_id] * longest, type_ids=[0] * longest)
    together = [logits_together(engine, [one, neighbour], most=most)[0] for one in tokens]
    off = max(float(np.abs(alone - other).max()) for alone, other in zip(engine.logits(items), together, strict=True))
    if off > INVARIANT:
        raise Varies(
            f"{engine.bundle.path}: computed beside another item, a golden input is off by {off:.4g} from its answer "
            f"alone, more than {INVARIANT:g}; run this bundle with each item alone"
        )
