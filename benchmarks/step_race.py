"""Whole training steps, raced: one run of the engine, paused after so many tokens for the baseline's turn on as many.

So the order is A B A B, what is timed of the engine is the loop as it ships, and in the end both have seen the same
documents: the baseline in their order, a block at a time, the engine in batches of like lengths drawn from all blocks.
`StepRace` plays the engine's feed. The engine's time for a turn runs from the opening of its text (tokenization
included, as far as it is not hidden behind the steps) to the moment it asks for what comes next.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from statistics import median
from typing import Any, TypeVar
from unittest.mock import patch

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.measure import Clock
from benchmarks.scoreboard import Figure, alone, more_is_better
from serving.errors import BadRequest, Failure

R = TypeVar("R")
Ids = npt.NDArray[np.int32]
SHARES = ("teacher", "student", "relation loss", "backward")  # what is left of a step is optimizer and data


class Block(msgspec.Struct, frozen=True):
    """Documents to train on; `tokens` are the real ones, special tokens included."""

    texts: tuple[str, ...]
    documents: tuple[Ids, ...]

    @property
    def tokens(self) -> int:
        return sum(len(ids) for ids in self.documents)


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What one side did before it was the other's turn; `phases_s` splits its seconds."""

    tokens: int
    seconds: float
    steps: int = 0
    positions: int = 0
    phases_s: dict[str, float] = {}

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    def share(self, *phases: str) -> float:
        """The share of these phases in the time."""
        return sum(self.phases_s.get(phase, 0.0) for phase in phases) / self.seconds


class Result(msgspec.Struct, frozen=True):
    """The turns after the first pair, which warmed both sides up; every figure is a median over turns."""

    ours: tuple[Turn, ...]
    baseline: tuple[Turn, ...]

    @property
    def tokens_per_s(self) -> float:
        """Real tokens per second of the engine."""
        return median(turn.tokens_per_s for turn in self.ours)

    @property
    def baseline_tokens_per_s(self) -> float:
        """Real tokens per second of the baseline."""
        return median(turn.tokens_per_s for turn in self.baseline)

    def share(self, *phases: str) -> float:
        """The median share of these phases."""
        return median(turn.share(*phases) for turn in self.ours)

    @property
    def rest(self) -> float:
        """The share that is neither a forward, nor the loss, nor the backward: optimizer, data, and the loop itself."""
        return median(1.0 - turn.share(*SHARES) for turn in self.ours)

    @property
    def padding(self) -> float:
        """The share of padding in what the engine computed."""
        return 1.0 - sum(turn.tokens for turn in self.ours) / sum(turn.positions for turn in self.ours)


def figures_of(result: Result, *, length: int, at_least: float | None) -> list[Figure]:
    """Tokens per second of both sides, and the shares of ours."""
    name = f"whole step, L <= {length}"
    note = f"{result.padding:.1%} padding"
    loss, rest = result.share("relation loss"), result.rest
    speeds = {"ours": result.tokens_per_s, "baseline": result.baseline_tokens_per_s}
    return [
        more_is_better(f"step_{length}", name, unit="tokens/s", at_least=at_least, note=note, **speeds),
        alone(f"share_relation_{length}", f"{name}: relation loss", ours=loss, unit="share", at_most=0.25),
        alone(f"share_rest_{length}", f"{name}: optimizer and data", ours=rest, unit="share", at_most=0.10),
    ]


class Phases:
    """Nanoseconds spent in wrapped functions, by name."""

    def __init__(self, clock: Clock = time.perf_counter_ns) -> None:
        self.spent_ns: Counter[str] = Counter()
        self._clock = clock

    def timed(self, name: str, function: Callable[..., R]) -> Callable[..., R]:
        """The function, its time added to `name`. Phases must not lie in one another."""

        def run(*arguments: Any, **named: Any) -> R:
            start = self._clock()
            try:
                return function(*arguments, **named)
            finally:
                self.spent_ns[name] += self._clock() - start

        return run

    def wrap(self, owner: Any, attribute: str, name: str) -> Any:
        """A patch that times what is found there while it holds."""
        return patch.object(owner, attribute, self.timed(name, getattr(owner, attribute)))


class StepRace:
    """A feed over the first block, then over all the others as one text; `baseline` trains on a block at a time (None:
    the engine runs alone). When the engine has taken all tokens, `finish` ends its last turn and gives the result.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        *,
        open_feed: Callable[[Block], Any],
        baseline: Callable[[Block], object] | None,
        phases: Phases,
        advance: Callable[[], object] = lambda: None,
        clock: Clock = time.perf_counter_ns,
    ) -> None:
        self.tokens = sum(block.tokens for block in blocks)
        self._open_feed, self._baseline, self._phases = open_feed, baseline, phases
        self._advance, self._clock = advance, clock
        self._texts = iter((blocks[0], joined(blocks[1:])))
        self._blocks = list(blocks)
        self._feed: Any = None
        self._left = 0  # tokens that the open text still holds
        self._due = 0  # tokens that the engine is to take before the baseline's next turn
        self._tokens = self._steps = self._positions = self._start_ns = 0
        self._turns: tuple[list[Turn], list[Turn]] = ([], [])

    def step_at(self, step: int) -> Any:
        """The engine's next step."""
        if self._due <= 0:
            self._end()
            self._begin()
        taken = self._phases.timed("data", self._feed.step_at)(step)
        self._left -= int(taken.tokens)
        self._due -= int(taken.tokens)
        self._tokens += int(taken.tokens)
        self._positions += int(taken.positions)
        self._steps += 1
        if self._left < 0:
            raise Failure("the engine read more tokens than its text holds: its feed gives documents twice")
        return taken

    def position(self) -> dict[str, Any]:
        """Nothing to go on from: a race is not resumed."""
        return {}

    def seek(self, position: dict[str, Any]) -> None:
        """Nothing."""

    def finish(self) -> Result:
        """The result, without the first turns."""
        self._end()
        for block in self._blocks:  # where the engine's last steps were worth more than one turn
            self._run_baseline(block)
        ours, baseline = self._turns
        return Result(tuple(ours[1:]), tuple(baseline[1:]))

    def _begin(self) -> None:
        self._tokens = self._steps = self._positions = 0
        self._phases.spent_ns.clear()
        self._start_ns = self._clock()
        if self._left == 0:
            text = next(self._texts)
            self._left = text.tokens
            self._feed = self._phases.timed("data", self._open_feed)(text)
        self._due += self._blocks[0].tokens

    def _end(self) -> None:
        if self._feed is None:
            return
        seconds = (self._clock() - self._start_ns) / 1e9
        phases_s = {name: spent / 1e9 for name, spent in self._phases.spent_ns.items()}
        amounts = {"tokens": self._tokens, "steps": self._steps, "positions": self._positions}
        self._turns[0].append(Turn(seconds=seconds, phases_s=phases_s, **amounts))
        self._advance()
        if self._left == 0:
            self._feed.close()
        self._run_baseline(self._blocks.pop(0))

    def _run_baseline(self, block: Block) -> None:
        if self._baseline is None:
            return
        start_ns = self._clock()
        self._baseline(block)
        self._turns[1].append(Turn(tokens=block.tokens, seconds=(self._clock() - start_ns) / 1e9))
        self._advance()


def joined(blocks: Sequence[Block]) -> Block:
    """All of them as one."""
    texts = tuple(text for block in blocks for text in block.texts)
    return Block(texts, tuple(ids for block in blocks for ids in block.documents))


def blocks_of(texts: Sequence[str], documents: Sequence[Ids], *, size: int, count: int) -> list[Block]:
    """`count` blocks of `size` documents each, in the order of the corpus; BadRequest where there are too few."""
    pairs = iter(zip(texts, documents, strict=True))
    blocks = [Block(*zip(*part, strict=True)) for part in _parts(pairs, size=size, count=count)]
    if len(blocks) < count or len(blocks[-1].texts) < size:
        raise BadRequest(f"the corpus has {len(texts)} documents, and {size * count} are needed: give more text")
    return blocks


def _parts(pairs: Iterator[tuple[str, Ids]], *, size: int, count: int) -> Iterator[list[tuple[str, Ids]]]:
    for _ in range(count):
        if part := list(islice(pairs, size)):
            yield part
