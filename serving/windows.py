"""An item of more tokens than its model reads, as windows: cut, computed as items, and put together to one output.

Every window has the item's special tokens and is full but for the last. Of a pair the longer text is cut (of two that
are as long, the second), and the other is whole in every window: a question keeps meeting its document. A token that
two windows share is the one's in which it has more text on the side where that window ends; so every token of the text
counts once. For outputs of tokens that window answers; outputs of items are averaged by how many tokens are a window's
own, before they are made probabilities, and vectors of unit length are made so again.

Shapes: L tokens of the item, special ones included, W of one window, C outputs.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from serving.answers import Floats
from serving.bad_items import BadItem
from serving.bundle import ServingSpec, TaskKind
from serving.long_texts import Windows
from serving.tokens import Tokens, Window

UNIT: Final = 1e-3  # how far a vector that the graph normalises may be from unit length


class TooLong(BadItem):
    """An item has more tokens than its model may be asked for."""


class _Place(NamedTuple):
    """One window: the tokens [begin, end) of the cut text, of which [first, last) are its own."""

    begin: int
    end: int
    first: int
    last: int


def cut(encoding: Any, *, index: int, spec: ServingSpec, windows: Windows) -> tuple[Window, ...]:
    """The windows of item `index`, a `tokenizers.Encoding` of its whole texts, which is longer than `max_length`.

    Raises:
        TooLong: there would be too many, or the other text of a pair leaves no room for any.
    """
    ids, type_ids = encoding.ids, encoding.type_ids
    start, stop = _longer(encoding.sequence_ids)
    room = spec.max_length - (len(ids) - (stop - start))
    if room <= windows.stride:
        raise TooLong(
            index,
            f"has {len(ids)} tokens, and its shorter text leaves the longer one {max(room, 0)} of the "
            f"{spec.max_length} this model reads, no more than the {windows.stride} that windows share; shorten both",
        )
    count = -(-(stop - start - room) // (room - windows.stride)) + 1
    if count > windows.max_windows:
        raise TooLong(
            index,
            f"has {len(ids)} tokens: {count} windows, more than the {windows.max_windows} this model "
            "computes for one; shorten it",
        )
    found = []
    for place in _places(stop - start, room=room, stride=windows.stride):
        begin, end = start + place.begin, start + place.end
        tokens = Tokens(*([*row[:start], *row[begin:end], *row[stop:]] for row in (ids, type_ids)))
        first = 0 if place.first == 0 else start + place.first - place.begin
        last = len(tokens.ids) if place.last == stop - start else start + place.last - place.begin
        found.append(Window(tokens, first, last, weight=place.last - place.first))
    return tuple(found)


def pieces(tokens: Sequence[Tokens]) -> list[Tokens]:
    """What is computed of these items: each itself, or its windows."""
    found: list[Tokens] = []
    for one in tokens:
        found.extend([window.tokens for window in one.windows] or [one])
    return found


def joined(tokens: Sequence[Tokens], outputs: Sequence[Floats], *, spec: ServingSpec, unit: bool) -> list[Floats]:
    """From the outputs of `pieces(tokens)` those of the items, (C,) or (L, C)."""
    remaining = iter(outputs)
    found = []
    for one in tokens:
        parts = [next(remaining) for _ in one.windows or (one,)]
        found.append(_joined(one.windows, parts, per_token=spec.per_token, unit=unit) if one.windows else parts[0])
    return found


def units(rows: Sequence[npt.ArrayLike], *, task: TaskKind) -> bool:
    """Whether these raw outputs are vectors that were made of unit length; a bundle's golden ones tell of its graph."""
    return task == "embedding" and all(abs(float(np.linalg.norm(row)) - 1) < UNIT for row in rows)


def _joined(windows: Sequence[Window], parts: Sequence[Floats], *, per_token: bool, unit: bool) -> Floats:
    if per_token:
        return np.concatenate([part[one.first : one.last] for one, part in zip(windows, parts, strict=True)])
    weights = np.array([one.weight for one in windows], np.float32)
    mean: Floats = (weights / weights.sum()) @ np.stack(parts)
    return mean / max(float(np.linalg.norm(mean)), 1e-12) if unit else mean


def _places(length: int, *, room: int, stride: int) -> list[_Place]:
    """Windows of `room` tokens over a text of `length`, more than that; shared tokens part in their middle."""
    begins = [0]
    while begins[-1] + room < length:
        begins.append(begins[-1] + room - stride)
    ends = [min(begin + room, length) for begin in begins]
    borders = [0, *((begin + end) // 2 for begin, end in zip(begins[1:], ends[:-1], strict=True)), length]
    return [_Place(*each) for each in zip(begins, ends, borders[:-1], borders[1:], strict=True)]


def _longer(sequences: Sequence[int | None]) -> tuple[int, int]:
    """Where the text that is cut begins and ends among all tokens."""
    most = max((0, 1), key=lambda text: (sequences.count(text), text))
    start = sequences.index(most)
    return start, start + sequences.count(most)
