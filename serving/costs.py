"""What a call of the model costs, told from a short calibration: t = c0 + c1 B L + c2 B L^2 seconds, for B items that
are padded to L tokens. Products of weights grow with the tokens, attention with their square, and a call costs time by
itself. With it the server knows what waits in its queue, and when two requests are cheaper in one call than in two.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Final, NamedTuple

import numpy as np

from serving.bundle import Item
from serving.engine import Engine, Given, Tokens
from serving.instances import Instances, varies
from serving.long_texts import Windows
from serving.tuning import WherePays

MOST: Final = 16  # items of one call: beyond it a batch gains little more, and everybody in it waits for all of it
PAYS: Final = 0.95  # together must cost less than this of apart: less is within what two measurements differ by
_REPEATS: Final = 7
_SHAPE_S: Final = 0.05
_BUDGET_S: Final = 1.0
_ITEMS: Final = (1, 4, 2, MOST)
_LENGTHS: Final = (16, 32, 64, 128)
_AT_LEAST: Final = 6  # shapes, however long they take


class Sample(NamedTuple):
    """A call of `items` items of `length` tokens each took so many seconds."""

    items: int
    length: int
    seconds: float


@dataclass(frozen=True)
class Costs:
    """Seconds of a call by itself, a token, and a token seeing another; `most` items fit in one call, and a text has
    about `tokens_per_character` tokens."""

    call_s: float
    token_s: float
    pair_s: float = 0.0
    most: int = 1
    tokens_per_character: float = 0.3
    max_length: int = 512
    reach: int | None = None  # tokens of an item that are read at all, in windows; None: those of one window
    shared: int = 0  # tokens that neighbouring windows share

    def of(self, items: int, length: int) -> float:
        """Seconds that `items` items, padded to `length` tokens, take."""
        calls = -(-items // self.most)
        return calls * self.call_s + items * length * (self.token_s + self.pair_s * length)

    def shape_of(self, items: Sequence[Given]) -> tuple[int, int]:
        """About what a request is for the model: how many items, windows counted, of how many tokens at most."""
        count = longest = 0
        for item in items:
            windows, length = self._windows_of(item)
            count, longest = count + windows, max(longest, length)
        return count, longest

    def cost_of(self, items: Sequence[Given]) -> float:
        """Seconds that a request takes: one by one, or in calls padded to its longest item, if that is less."""
        if len(items) == 1:
            windows, length = self._windows_of(items[0])
            return windows * self.of(1, length)
        shapes = [self._windows_of(item) for item in items]
        alone_s = sum(windows * self.of(1, length) for windows, length in shapes)
        if self.most == 1:
            return alone_s
        return min(alone_s, self.of(sum(windows for windows, _ in shapes), max((n for _, n in shapes), default=0)))

    def _windows_of(self, item: Given) -> tuple[int, int]:
        length = self._length_of(item)
        if length <= self.max_length:
            return 1, length
        return -(-length // (self.max_length - self.shared)), self.max_length

    def _length_of(self, item: Given) -> int:
        """Texts by their characters, tokens as they are."""
        if isinstance(item, Tokens):
            return len(item.ids)
        tokens = 2 + math.ceil(sum(map(len, item)) * self.tokens_per_character)
        return min(self.reach or self.max_length, tokens)

    def pays(self, items: int, length: int, *, more: int, of_length: int) -> bool:
        """Whether `more` items join a call of `items` rather than follow it: padding may cost more than it saves."""
        if items + more > self.most:
            return False
        longest = max(length, of_length)
        together_s = self.call_s + (items + more) * longest * (self.token_s + self.pair_s * longest)
        apart_s = 2 * self.call_s + items * length * (self.token_s + self.pair_s * length)
        apart_s += more * of_length * (self.token_s + self.pair_s * of_length)
        return together_s <= PAYS * apart_s


def fit(samples: Sequence[Sample]) -> tuple[float, float, float]:
    """(c0, c1, c2) >= 0 of least relative squares: of all choices of terms whose best weights are none negative."""
    terms = np.array([(1.0, s.items * s.length, s.items * s.length**2) for s in samples])
    seconds = np.array([sample.seconds for sample in samples])
    relative, ones = terms / seconds[:, None], np.ones(len(samples))
    best, least = (0.0, float(np.median(seconds / terms[:, 1])), 0.0), math.inf
    for count in (3, 2, 1):
        for chosen in combinations(range(3), count):
            weights, *_ = np.linalg.lstsq(relative[:, chosen], ones, rcond=None)
            error = float(((relative[:, chosen] @ weights - ones) ** 2).sum())
            if (weights >= 0).all() and error < least:
                found = [0.0, 0.0, 0.0]
                for place, weight in zip(chosen, weights.tolist(), strict=True):
                    found[place] = weight
                best, least = (found[0], found[1], found[2]), error
    return best


def calibrated(instances: Instances, *, gently: bool = False, clock: Callable[[], float] = time.perf_counter) -> Costs:
    """Time calls of a few shapes, about a second at most, and see how many tokens the golden texts have. `gently`:
    beside requests that are answered, with a pause after each call as long as it took."""
    engine, most = instances.first, _most(instances)
    longest = engine.bundle.spec.max_length
    samples: list[Sample] = []
    end = clock() + _BUDGET_S * (1 + gently)
    for items, length in _shapes(most, longest):
        if len(samples) >= _AT_LEAST and clock() > end:
            break
        batch = [Tokens(ids=[engine.bundle.spec.pad_id] * length, type_ids=[0] * length)] * items
        samples.append(Sample(items, length, _seconds(engine, batch, clock=clock, gently=gently)))
    call_s, token_s, pair_s = fit(samples)
    spec = engine.bundle.spec
    return Costs(
        call_s,
        token_s,
        pair_s,
        most=most,
        tokens_per_character=_density(engine),
        max_length=longest,
        reach=spec.reach,
        shared=spec.long_texts.stride if isinstance(spec.long_texts, Windows) else 0,
    )


def _most(instances: Instances) -> int:
    """How many items of several requests share a call: as the setting says, or where it says that costs decide, MOST if
    that is proven to move no answer."""
    if isinstance(instances.setting.batch, WherePays):
        return MOST if varies(instances.first, most=MOST) is None else 1
    return instances.together


def _shapes(most: int, longest: int) -> list[tuple[int, int]]:
    """Items and lengths, those first that tell most."""
    shapes = [(1, longest), (4, longest), *product(_ITEMS, _LENGTHS)]
    return list(dict.fromkeys((items, length) for items, length in shapes if items <= most and length <= longest))


def _seconds(engine: Engine, batch: Sequence[Tokens], *, clock: Callable[[], float], gently: bool) -> float:
    """The shortest of a few calls: what comes beside them on a machine with neighbours is not theirs."""
    engine.run(batch)  # the first of a shape allocates
    found: list[float] = []
    while len(found) < _REPEATS and sum(found) < _SHAPE_S:
        begun = clock()
        engine.run(batch)
        found.append(clock() - begun)
        if gently:
            time.sleep(found[-1])
    return max(min(found), 1e-9)


def _density(engine: Engine) -> float:
    """Tokens per character of real texts, special tokens left out."""
    items: list[Item] = [tuple(item) for item in engine.bundle.golden.items]
    tokens = sum(max(len(one.ids) - 2, 1) for one in engine.encode(items))
    return tokens / max(1, sum(len(text) for item in items for text in item))
