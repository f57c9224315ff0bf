"""What lies behind a metric: whether two variants differ by more than chance, where, and how sure they are.

Answers and labels come in the forms of quality.py. Shapes: N items, C labels, B bins.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.errors import BadRequest
from pipeline.quality import Answers, Score, agreement, score
from serving.spans import entities_of

Floats = npt.NDArray[np.floating]
BINS: Final = 15
EDGES: Final = (8, 16, 32, 64, 128, 256, 512)


class McNemar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Items that A alone has right, items that B alone has right, and how probable so uneven a split is by chance."""

    only_a: int
    only_b: int
    p_value: float


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One class: `support` items (of a tagging: entities) are truly of it."""

    precision: float
    recall: float
    f1: float
    support: int


def mcnemar(a: Answers, b: Answers, labels: Answers) -> McNemar:
    """The exact two-sided test of the items that one of two variants has right and the other wrong (McNemar 1947, in
    the binomial form): under chance each falls to either side alike."""
    from scipy.stats import binomtest

    right_a, right_b = (_right(side, labels) for side in (a, b))
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p_value = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, p_value)


def flips(a: Answers, b: Answers) -> Score:
    """The share of items that two variants answer otherwise, with its interval."""
    same = agreement(a, b)
    return Score("flips", value=1 - same.value, low=1 - same.high, high=1 - same.low, n=same.n)


def by_class(answers: Any, labels: Any, names: Sequence[str]) -> dict[str, Part]:
    """Precision, recall and F1 of each class: of one label of several (N,), of each label of a 0/1 matrix (N, C), or of
    each type of entity. Zero where nothing is there to divide by, as scikit-learn's."""
    if _is_tagged(labels):
        return _by_entity(answers, labels)
    from sklearn.metrics import precision_recall_fscore_support

    places = list(range(len(names)))
    found = precision_recall_fscore_support(labels, answers, labels=places, zero_division=0)
    columns = zip(names, *(column.tolist() for column in found), strict=True)
    return {name: Part(precision, recall, f1, support) for name, precision, recall, f1, support in columns}


def _by_entity(answers: Sequence[Sequence[str]], labels: Sequence[Sequence[str]]) -> dict[str, Part]:
    mine, theirs = (
        {(i, *each) for i, tags in enumerate(side) for each in entities_of(tags)} for side in (answers, labels)
    )
    parts = {}
    for kind in sorted({each[1] for each in mine | theirs}):
        given, wanted = ({each for each in side if each[1] == kind} for side in (mine, theirs))
        hits = len(given & wanted)
        precision, recall = hits / max(1, len(given)), hits / max(1, len(wanted))
        parts[kind] = Part(precision, recall, 2 * hits / max(1, len(given) + len(wanted)), support=len(wanted))
    return parts


def by_length(metric: str, answers: Any, labels: Any, lengths: Sequence[int]) -> dict[str, Score]:
    """The metric of the items of each range of lengths in tokens, up to each of EDGES, with its interval; a range
    without an item is left out."""
    lengths_N, found, below = np.asarray(lengths), {}, 0
    for edge in (*EDGES, max(EDGES[-1], int(lengths_N.max(initial=0))) + 1):
        rows = np.flatnonzero((lengths_N > below) & (lengths_N <= edge)).tolist()
        if rows:
            found[f"{below + 1}-{edge}"] = score(metric, [answers[row] for row in rows], [labels[row] for row in rows])
        below = edge
    return found


def calibration_error(chances_NC: Floats, labels: Sequence[int], *, bins: int = BINS) -> float:
    """Expected calibration error (Guo et al., 1706.04599, eq. 3): over bins of equal width of the highest probability,
    the mean distance of how sure the answers are from how often they are right, weighed by the bins' items.

    Raises:
        BadRequest: rows and labels are not equally many, or none.
    """
    labels_N = np.asarray(labels)
    if len(chances_NC) != len(labels_N) or not len(labels_N):
        raise BadRequest(f"{len(chances_NC)} rows of probabilities and {len(labels_N)} labels: expected as many, not 0")
    sure_N, right_N = chances_NC.max(axis=1).astype(np.float64), chances_NC.argmax(axis=1) == labels_N
    bin_N = np.minimum((sure_N * bins).astype(np.int64), bins - 1)
    sure_B, right_B = (np.bincount(bin_N, weights, minlength=bins) for weights in (sure_N, right_N))
    return float(np.abs(sure_B - right_B).sum() / len(labels_N))


def _right(answers: Any, labels: Any) -> npt.NDArray[np.bool_]:
    """(N,): whether an item is answered rightly as a whole."""
    if _is_tagged(labels):
        return np.array([tuple(mine) == tuple(true) for mine, true in zip(answers, labels, strict=True)], bool)
    same: npt.NDArray[np.bool_] = np.asarray(answers) == np.asarray(labels)
    return same if same.ndim == 1 else np.logical_and.reduce(same, axis=1)


def _is_tagged(side: Any) -> bool:
    return not isinstance(side, np.ndarray) and any(
        isinstance(item, tuple) and isinstance(item[0], str) for item in side
    )
