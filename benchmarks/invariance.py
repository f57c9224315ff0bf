"""Whether an answer depends on who else asked: items in batches, and padded, against each alone.

Dynamic int8 takes one scale for all activations of a batch, so an item's outputs move with its neighbours and its
padding; what has scales of its own does not.

Shapes: N items, L tokens of an item, C outputs. Outputs are (C,) each, or (L, C).
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from benchmarks.outputs import Floats
from serving.answers import given, probabilities
from serving.bundle import ServingSpec

Run = Callable[[Sequence[Any], int], Floats]  # tokenized items and the length to pad to -> (N, C) or (N, L, C)
SETTINGS: Final = ((8, 0), (32, 0), (1, 64), (1, 128))
ITEMS: Final = 256


class Invariance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`batch` items at a time, padded to `length` tokens at least (0: to the longest of the batch): the largest
    difference of an output from the item's own when computed alone, and the items whose label changes."""

    batch: int
    length: int
    items: int
    max_difference: float
    flips: int


def measure(run: Run, tokens: Sequence[Any], *, spec: ServingSpec) -> tuple[Invariance, ...]:
    """All SETTINGS that the model reads, on the same items in the order given: neighbours of any length, as in a
    queue."""
    alone = _outputs(run, tokens, batch=1, length=0)
    found = []
    for batch, length in (each for each in SETTINGS if each[1] <= spec.max_length):
        together = _outputs(run, tokens, batch=batch, length=length)
        pairs = list(zip(alone, together, strict=True))
        difference = max(float(np.abs(one - other).max()) for one, other in pairs)
        flips = sum(not np.array_equal(labels_of(one, spec=spec), labels_of(other, spec=spec)) for one, other in pairs)
        found.append(Invariance(batch, length, len(tokens), max_difference=difference, flips=flips))
    return tuple(found)


def labels_of(outputs: Floats, *, spec: ServingSpec) -> Any:
    """What an item is answered as, without its scores: a label, the labels given, a tag each token; nothing where
    answers are numbers."""
    if spec.task in ("regression", "embedding"):
        return ()
    scores = probabilities(outputs, task=spec.task)
    return given(scores, thresholds=spec.thresholds) if spec.task == "multi-label" else scores.argmax(axis=-1)


def _outputs(run: Run, tokens: Sequence[Any], *, batch: int, length: int) -> list[Floats]:
    rows: list[Floats] = []
    for begin in range(0, len(tokens), batch):
        part = tokens[begin : begin + batch]
        longest = max(length, *(len(one.ids) for one in part))
        for one, output in zip(part, run(part, longest), strict=True):
            rows.append(output[: len(one.ids)] if output.ndim == 2 else output)
    return rows
