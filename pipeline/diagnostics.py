"""What lies behind a metric: whether two variants differ by more than chance, where, and how sure they are.

Answers and labels come in the forms of quality.py. Shapes: N items, C labels, B bins, A answers of an item that are
more or less sure (1, or C where each label is one), R resamples.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.errors import BadRequest
from pipeline.quality import Answers, Difference, Score, agreement, score
from serving.spans import entities_of

Floats = npt.NDArray[np.floating]
BINS: Final = 15
EDGES: Final = (8, 16, 32, 64, 128, 256, 512)
FEW: Final = 10  # items whose interval says less than it seems to: three right of three are [1, 1]
RESAMPLES: Final = 2_000
_CELLS: Final = 1_500_000  # drawn items at a time: 12 MB


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
    each type of entity. Zero where nothing is there to divide by, as scikit-learn's.

    Raises:
        BadRequest: answers and labels are not equally many, or one of them has no name.
    """
    _require_as_many(answers, labels)
    if _is_tagged(labels):
        return _by_entity(answers, labels)
    from sklearn.metrics import precision_recall_fscore_support

    _require_names(answers, labels, names)
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


def by_length(metric: str, answers: Any, labels: Any, lengths: Sequence[int], *, least: int = FEW) -> dict[str, Score]:
    """The metric of the items of each range of lengths in tokens, up to each of EDGES, with its interval; a range with
    fewer than `least` items is left out.

    Raises:
        BadRequest: answers, labels and lengths are not equally many.
    """
    _require_as_many(answers, labels)
    _require_as_many(lengths, labels, what="lengths")
    lengths_N, found, below = np.asarray(lengths), {}, 0
    for edge in (*EDGES, max(EDGES[-1] + 1, int(lengths_N.max(initial=0)))):
        rows = np.flatnonzero((lengths_N > below) & (lengths_N <= edge)).tolist()
        if len(rows) >= least:
            found[f"{below + 1}-{edge}"] = score(metric, [answers[row] for row in rows], [labels[row] for row in rows])
        below = edge
    return found


def calibration(chances_NC: Floats, labels: Any, *, bins: int = BINS) -> Score:
    """Expected calibration error (Guo et al., 1706.04599, eq. 3): over bins of equal width of the highest probability,
    the mean distance of how sure the answers are from how often they are right, weighed by the bins' items.

    Labels are classes (N,), or a 0/1 matrix (N, C): then each label of each item is an answer of its own, yes or no.
    Few items make the error of any model too large, and that of a resample larger still, so the interval is the
    estimate give or take the farther of its two percentiles. (Simulated, 2 classes and 300 to 2,000 items: it holds the
    truth in 88 to 98 % of samples, where percentiles alone do in 0 to 93 %; in 68 % where the truth is 0.)

    Raises:
        BadRequest: rows and labels are not equally many, or none.
    """
    gaps_NB = _gaps(chances_NC, labels, bins=bins)
    found = _errors(gaps_NB.mean(axis=0), bins=bins)[0]
    low, high = _ends(found, _resampled_errors(gaps_NB, bins=bins)[:, 0])
    return Score("ece", value=float(found), low=max(0.0, low), high=high, n=len(gaps_NB))


def calibration_difference(a_NC: Floats, b_NC: Floats, labels: Any, *, bins: int = BINS) -> Difference:
    """The calibration error of A less that of B on the same items, paired: what both have too much falls away.
    (Simulated as above: its interval holds the truth in 98 % of samples and more where A and B are about as well
    calibrated, in 71 % where one is and the other is not.)

    Raises:
        BadRequest: rows and labels are not equally many, or none.
    """
    gaps_NK = np.concatenate([_gaps(side, labels, bins=bins) for side in (a_NC, b_NC)], axis=1)
    a, b = _errors(gaps_NK.mean(axis=0), bins=bins)
    draws_R2 = _resampled_errors(gaps_NK, bins=bins)
    low, high = _ends(a - b, draws_R2[:, 0] - draws_R2[:, 1])
    return Difference("ece", estimate=float(a - b), low=low, high=high, n=len(gaps_NK))


def _gaps(chances_NC: Floats, labels: Any, *, bins: int) -> npt.NDArray[np.float64]:
    """(N, B): in the bin of each of an item's answers, how sure it is less whether it is right, over A."""
    if len(chances_NC) != len(labels) or not len(labels):
        raise BadRequest(f"{len(chances_NC)} rows of probabilities and {len(labels)} labels: expected as many, not 0")
    truths = np.asarray(labels)
    if truths.ndim == 1:
        sure_NA, right_NA = chances_NC.max(axis=1)[:, None], (chances_NC.argmax(axis=1) == truths)[:, None]
    else:
        sure_NA, right_NA = np.maximum(chances_NC, 1 - chances_NC), (chances_NC >= 0.5) == (truths == 1)
    n, answers = sure_NA.shape
    bin_NA = np.minimum((sure_NA * bins).astype(np.int64), bins - 1) + bins * np.arange(n)[:, None]
    gaps = np.bincount(bin_NA.ravel(), (sure_NA.astype(np.float64) - right_NA).ravel(), minlength=n * bins)
    found: npt.NDArray[np.float64] = gaps.reshape(n, bins) / answers
    return found


def _errors(mean_gaps: npt.NDArray[np.float64], *, bins: int) -> npt.NDArray[np.float64]:
    """(..., S * B) mean gaps of S variants -> (..., S): the sum over their bins."""
    found: npt.NDArray[np.float64] = np.abs(mean_gaps.reshape(*mean_gaps.shape[:-1], -1, bins)).sum(axis=-1)
    return found


def _resampled_errors(gaps_NK: npt.NDArray[np.float64], *, bins: int) -> npt.NDArray[np.float64]:
    """(R, S): the errors of S variants, K = S * B, on each resample of the items."""
    rng, n, errors = np.random.default_rng(0), len(gaps_NK), []
    chunk = max(1, _CELLS // n)
    for begin in range(0, RESAMPLES, chunk):
        rows = min(chunk, RESAMPLES - begin)
        drawn_RN = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        weights_RN = np.bincount(drawn_RN.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
        errors.append(_errors(weights_RN @ gaps_NK / n, bins=bins))
    return np.concatenate(errors)


def _ends(estimate: float, draws_R: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The estimate, give or take the farther of its 2.5 % and 97.5 % percentiles."""
    half = float(np.abs(np.percentile(draws_R, (2.5, 97.5)) - estimate).max())
    return float(estimate) - half, float(estimate) + half


def _right(answers: Any, labels: Any) -> npt.NDArray[np.bool_]:
    """(N,): whether an item is answered rightly as a whole."""
    _require_as_many(answers, labels)
    if _is_tagged(labels):
        return np.array([tuple(mine) == tuple(true) for mine, true in zip(answers, labels, strict=True)], bool)
    same: npt.NDArray[np.bool_] = np.asarray(answers) == np.asarray(labels)
    return same if same.ndim == 1 else np.logical_and.reduce(same, axis=1)


def _is_tagged(side: Any) -> bool:
    return not isinstance(side, np.ndarray) and any(
        isinstance(tag, str) for item in side if isinstance(item, tuple) for tag in item
    )


def _require_as_many(side: Any, labels: Any, *, what: str = "answers") -> None:
    if len(side) != len(labels):
        raise BadRequest(f"{len(side)} {what} and {len(labels)} labels: give them of the same items")


def _require_names(answers: Any, labels: Any, names: Sequence[str]) -> None:
    """Each class that occurs, or each column of a 0/1 matrix, is named."""
    sides = [np.asarray(side) for side in (answers, labels)]
    needed = max(side.shape[1] if side.ndim > 1 else int(side.max(initial=-1)) + 1 for side in sides)
    if needed > len(names):
        raise BadRequest(f"{len(names)} names for {needed} labels: name each, in the order of the outputs")
