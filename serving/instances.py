"""One bundle loaded as often as its setting says, behind one face: who answers, and how a request's items are batched.

Shapes: N items, L tokens of an item, C outputs.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import accumulate, chain, pairwise
from typing import Final, TypeVar

import numpy as np

from serving.bundle import Bundle
from serving.engine import Answer, Engine, Given, Tokens, check_golden
from serving.errors import BadArtifact
from serving.packing import Fixed, Packing
from serving.tuning import Setting, Together

T = TypeVar("T")
INVARIANT: Final = 1e-3  # how far a raw output may move with its batch: what `invariant` asks of a search's variants


class Varies(BadArtifact):
    """Answers depend on what is computed beside them; each item alone is still fit."""


class Instances:
    """Engines of one bundle; a call goes to the one with the fewest calls under way. Safe from several threads."""

    def __init__(self, engines: Sequence[Engine], *, setting: Setting) -> None:
        self.bundle = engines[0].bundle
        self.setting = setting
        self.together = setting.batch.items if isinstance(setting.batch, Together) else 1  # proven to change nothing
        self._packing = Fixed(self.together)
        self._engines = tuple(engines)
        self._busy = [0] * len(engines)
        # A single one is lent to all: there is nothing to choose, and no lock to wait for.
        self._lent: AbstractContextManager[Engine] = (
            nullcontext(engines[0]) if len(engines) == 1 else _Lent(engines, self._busy)
        )

    @property
    def first(self) -> Engine:
        """One of them, to be timed and tried."""
        return self._engines[0]

    def answer(self, items: Sequence[Given]) -> Answer:
        """One request's items, as the setting says: each alone, or together. What calls cost is not known here.

        Raises:
            BadRequest: as `Encoder.encode`.
            BadArtifact: as `Engine.run`.
        """
        with self._lent as engine:
            return engine.answer(items, packing=self._packing)

    def answer_jobs(self, jobs: Sequence[Sequence[Given]], *, packing: Packing) -> list[Answer | Exception]:
        """The items of several requests, tokenized in one go and computed in the calls that `packing` makes of them;
        one answer a request, in order.

        A request that cannot be answered has what it failed with, and no other fails with it: one that cannot be read
        is set aside, and where computing all others fails, each is computed by itself. The phases of an answer are
        those of the call that gave it, which the requests in it share.
        """
        with self._lent as engine:
            if len(jobs) == 1:
                return [_tried(partial(engine.answer, jobs[0], packing=packing))]
            started = engine.clock()
            read = _encoded(engine, jobs)
            compute = partial(engine.computed, packing=packing, tokenize_ms=(engine.clock() - started) * 1e3)
            answers = iter(_computed(compute, [each for each in read if not isinstance(each, Exception)]))
            return [each if isinstance(each, Exception) else next(answers) for each in read]


class _Lent:
    """Lends the engine that has the fewest calls under way, which it counts in `busy`; each thread has one at most."""

    def __init__(self, engines: Sequence[Engine], busy: list[int]) -> None:
        self._engines, self._busy = engines, busy
        self._lock = threading.Lock()
        self._mine = threading.local()

    def __enter__(self) -> Engine:
        with self._lock:
            index = self._mine.index = self._busy.index(min(self._busy))
            self._busy[index] += 1
        return self._engines[index]

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._busy[self._mine.index] -= 1


def open_instances(bundle: Bundle, *, setting: Setting, gently: bool = False) -> Instances:
    """Load, warm (`gently`: as `Engine.warm`) and check; what this returns is fit to answer.

    Raises:
        BadArtifact: as `Engine` and `check_golden`.
        Varies: items are to be computed together, and that moves their answers.
    """
    engines = [Engine(bundle, threads=setting.threads) for _ in range(setting.sessions)]
    for engine in engines:
        engine.warm(gently=gently)
    check_golden(engines[0])
    if isinstance(setting.batch, Together):
        require_invariance(engines[0], most=setting.batch.items)
    return Instances(engines, setting=setting)


def _tried(call: Callable[[], T]) -> T | Exception:
    try:
        return call()
    except Exception as error:  # noqa: BLE001 whatever it is, its own request is told, and those beside it are not
        return error


def _encoded(engine: Engine, jobs: Sequence[Sequence[Given]]) -> Sequence[list[Tokens] | Exception]:
    """Each request as the model reads it, or why it does not."""
    read = _tried(partial(engine.encode, [*chain.from_iterable(jobs)]))
    if isinstance(read, Exception):
        return [_tried(partial(engine.encode, job)) for job in jobs]
    return [read[begin:end] for begin, end in _bounds(jobs)]


def _computed(compute: Callable[[Sequence[Tokens]], Answer], jobs: Sequence[list[Tokens]]) -> list[Answer | Exception]:
    answer = _tried(partial(compute, [*chain.from_iterable(jobs)]))
    if isinstance(answer, Answer):
        return _shares(answer, _bounds(jobs))
    return [answer] if len(jobs) == 1 else [_tried(partial(compute, job)) for job in jobs]


def _bounds(jobs: Sequence[Sequence[object]]) -> list[tuple[int, int]]:
    """Where each one's items begin and end among all."""
    ends = [*accumulate(map(len, jobs), initial=0)]
    return [*pairwise(ends)]


def _shares(answer: Answer, bounds: Sequence[tuple[int, int]]) -> list[Answer | Exception]:
    """The answer cut into those of requests."""
    return [
        Answer(
            answer.scores[begin:end],
            answer.offsets[begin:end],
            tokenize_ms=answer.tokenize_ms,
            infer_ms=answer.infer_ms,
        )
        for begin, end in bounds
    ]


def require_invariance(engine: Engine, *, most: int) -> None:
    """Raise Varies where `varies` says why."""
    if why := varies(engine, most=most):
        raise Varies(f"{engine.bundle.path}: {why}; run this bundle with each item alone")


def varies(engine: Engine, *, most: int) -> str | None:
    """Compute the golden inputs, each beside a neighbour twice as long as the longest, so that every one is padded: how
    far an answer moves; None where that is not more than INVARIANT."""
    spec, items = engine.bundle.spec, [tuple(item) for item in engine.bundle.golden.items]
    tokens = engine.encode(items)
    longest = min(spec.max_length, 2 * max(len(one.ids) for one in tokens))
    neighbour = Tokens(ids=[spec.pad_id] * longest, type_ids=[0] * longest)
    together = [engine.outputs([one, neighbour], packing=Fixed(most))[0] for one in tokens]
    off = max(float(np.abs(alone - other).max()) for alone, other in zip(engine.logits(items), together, strict=True))
    if off <= INVARIANT:
        return None
    from_alone = f"off by {off:.4g} from its answer alone, more than {INVARIANT:g}"
    return f"computed beside another item, a golden input is {from_alone}"
