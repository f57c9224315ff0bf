"""Task metrics as functions of weights: what a metric reads of each item, and its value on many resamples at once.

Answers and labels come in one of three forms; METRICS says which metric reads which:
    numbers          (N,)    classes, values or scores
    0/1 matrices     (N, C)  one column per label
    tag sequences    N tuples of `O`, `B-x` and `I-x` (IOB2)

Shapes: N items, M distinct ones, K numbers read of each, B resamples, C classes or labels, G groups of equal values.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import BadRequest
from serving.spans import entities_of

Floats = npt.NDArray[np.float64]
Tags = tuple[str, ...]
Form = Literal["numbers", "0/1 matrices", "tag sequences"]


class Metric(NamedTuple):
    """`rows(answers, labels)` is what the metric reads of each item, (K, N). `value(rows_KM, weights_BM)` is the metric
    where item m counts `weights_BM[b, m]` times, (B,); not a number where it is undefined."""

    rows: Callable[[Any, Any], Floats]
    value: Callable[[Floats, Floats], Floats]


def _pairs(answers_N: Floats, labels_N: Floats) -> Floats:
    """(2, N): the answers and the labels as they are."""
    return np.stack([answers_N, labels_N])


def _hits(answers_N: Floats, labels_N: Floats) -> Floats:
    """(1, N): 1 where the answer is the label."""
    return np.asarray(answers_N == labels_N, dtype=np.float64)[None]


def _whole_row_hits(answers_NC: Floats, labels_NC: Floats) -> Floats:
    """(1, N): 1 where the item has exactly its labels."""
    return np.asarray((answers_NC == labels_NC).all(axis=1), dtype=np.float64)[None]


def _whole_sequence_hits(answers: Sequence[Tags], labels: Sequence[Tags]) -> Floats:
    """(1, N): 1 where every tag of the item is right."""
    return np.array([[mine == true for mine, true in zip(answers, labels, strict=True)]], dtype=np.float64)


def _label_counts(answers_NC: Floats, labels_NC: Floats) -> Floats:
    """(2C, N): for each label whether it was given rightly, then how often it was given plus how often it is true."""
    return np.concatenate([answers_NC * labels_NC, answers_NC + labels_NC], axis=1).T


def _item_counts(answers_NC: Floats, labels_NC: Floats) -> Floats:
    """(2, N): how many labels were given rightly, then how many were given plus how many are true."""
    return np.stack([(answers_NC * labels_NC).sum(axis=1), (answers_NC + labels_NC).sum(axis=1)])


def _entity_counts(answers: Sequence[Tags], labels: Sequence[Tags]) -> Floats:
    """(2, N): how many entities were found with their exact words and label, then how many were given plus are true."""
    found, true = ([set(entities_of(tags)) for tags in side] for side in (answers, labels))
    pairs = list(zip(found, true, strict=True))
    return np.array([[len(a & b) for a, b in pairs], [len(a) + len(b) for a, b in pairs]], dtype=np.float64)


def _scored_pairs(scores_N: Floats, labels_N: Floats) -> Floats:
    """As `_pairs`, for a metric that ranks the items labelled 1 against those labelled 0.

    Raises:
        BadRequest: there is nothing to rank against, or a label is neither 0 nor 1.
    """
    if (found := np.unique(labels_N).tolist()) != [0, 1]:
        shown = ", ".join(f"{label:g}" for label in found[:5])
        raise BadRequest(
            f"auroc compares items labelled 1 with items labelled 0 and needs both: the labels are {shown}"
        )
    return _pairs(scores_N, labels_N)


def _share(rows_1M: Floats, weights_BM: Floats) -> Floats:
    return _mean(rows_1M[0], weights_BM)


def _mean_f1(rows_KM: Floats, weights_BM: Floats) -> Floats:
    """F1 averaged over labels, from their hits and their given plus true; without a single one of either it is 0."""
    hits_BC, total_BC = np.split(weights_BM @ rows_KM.T, 2, axis=1)
    return np.asarray((2 * hits_BC / np.maximum(total_BC, 1)).mean(axis=1))


def _macro_f1(rows_2M: Floats, weights_BM: Floats) -> Floats:
    """F1 averaged over the classes that occur in the data; a class never predicted and never drawn counts 0."""
    predictions_M, labels_M = rows_2M
    classes_C = np.unique(labels_M)
    one_hot = [(side[:, None] == classes_C).astype(np.float64) for side in (predictions_M, labels_M)]
    return _mean_f1(_label_counts(*one_hot), weights_BM)


def _matthews(rows_2M: Floats, weights_BM: Floats) -> Floats:
    """Matthews' correlation, which for several classes is Gorodkin's R_K; 0 where one side is constant, as usual."""
    predictions_M, labels_M = rows_2M
    classes_C = np.union1d(predictions_M, labels_M)
    predicted_MC = (predictions_M[:, None] == classes_C).astype(np.float64)
    labelled_MC = (labels_M[:, None] == classes_C).astype(np.float64)
    n_B = weights_BM.sum(axis=1)
    p_BC, t_BC = weights_BM @ predicted_MC, weights_BM @ labelled_MC
    covariance = (weights_BM @ (predictions_M == labels_M)) * n_B - (p_BC * t_BC).sum(axis=1)
    spread = np.sqrt((n_B**2 - (p_BC**2).sum(axis=1)) * (n_B**2 - (t_BC**2).sum(axis=1)))
    found: Floats = np.divide(covariance, spread, out=np.zeros_like(covariance), where=spread > 0)
    return found


def _pearson(rows_2M: Floats, weights_BM: Floats) -> Floats:
    """Pearson's r; not a number where one side is constant."""
    predictions_M, labels_M = rows_2M - rows_2M.mean(axis=1, keepdims=True)
    return _correlation(predictions_M, labels_M, weights_BM)


def _spearman(rows_2M: Floats, weights_BM: Floats) -> Floats:
    """Pearson's r of the average ranks within each resample."""
    predictions_M, labels_M = rows_2M
    return _correlation(_ranks(predictions_M, weights_BM), _ranks(labels_M, weights_BM), weights_BM)


def _mse(rows_2M: Floats, weights_BM: Floats) -> Floats:
    predictions_M, labels_M = rows_2M
    return _mean((predictions_M - labels_M) ** 2, weights_BM)


def _auroc(rows_2M: Floats, weights_BM: Floats) -> Floats:
    """The share of pairs of a 1 and a 0 in which the 1 has the higher score, ties counting half."""
    scores_M, labels_M = rows_2M
    order_M = np.argsort(scores_M, kind="stable")
    _, starts_G = np.unique(scores_M[order_M], return_index=True)
    ones_BG, zeros_BG = (
        np.add.reduceat((weights_BM * (labels_M == label))[:, order_M], starts_G, axis=1) for label in (1, 0)
    )
    won_B = (ones_BG * (np.cumsum(zeros_BG, axis=1) - zeros_BG / 2)).sum(axis=1)
    pairs_B = ones_BG.sum(axis=1) * zeros_BG.sum(axis=1)
    found: Floats = np.divide(won_B, pairs_B, out=np.full_like(won_B, np.nan), where=pairs_B > 0)
    return found


def _mean(values_M: Floats, weights_BM: Floats) -> Floats:
    return np.asarray(weights_BM @ values_M / weights_BM.sum(axis=1))


def _ranks(values_M: Floats, weights_BM: Floats) -> Floats:
    """(B, M): each value's average rank in a resample that holds it `weight` times."""
    order_M = np.argsort(values_M, kind="stable")
    _, starts_G, group_M = np.unique(values_M[order_M], return_index=True, return_inverse=True)
    held_BG = np.add.reduceat(weights_BM[:, order_M], starts_G, axis=1)
    ranks_BM = np.empty_like(weights_BM)
    ranks_BM[:, order_M] = (np.cumsum(held_BG, axis=1) - held_BG / 2)[:, group_M.ravel()]
    return ranks_BM


def _correlation(x: Floats, y: Floats, weights_BM: Floats) -> Floats:
    """Weighted Pearson's r per row; x and y are (M,) or (B, M)."""
    share_BM = weights_BM / weights_BM.sum(axis=1, keepdims=True)
    x_BM = x - (share_BM * x).sum(axis=1, keepdims=True)
    y_BM = y - (share_BM * y).sum(axis=1, keepdims=True)
    covariance, x_var, y_var = ((share_BM * product).sum(axis=1) for product in (x_BM * y_BM, x_BM**2, y_BM**2))
    spread = np.sqrt(x_var * y_var)
    found: Floats = np.divide(covariance, spread, out=np.full_like(covariance, np.nan), where=spread > 0)
    return found


METRICS: Final[dict[str, dict[Form, Metric]]] = {
    "accuracy": {
        "numbers": Metric(_hits, _share),
        "0/1 matrices": Metric(_whole_row_hits, _share),
        "tag sequences": Metric(_whole_sequence_hits, _share),
    },
    "macro_f1": {"numbers": Metric(_pairs, _macro_f1), "0/1 matrices": Metric(_label_counts, _mean_f1)},
    "micro_f1": {"0/1 matrices": Metric(_item_counts, _mean_f1)},
    "entity_f1": {"tag sequences": Metric(_entity_counts, _mean_f1)},
    "matthews": {"numbers": Metric(_pairs, _matthews)},
    "pearson": {"numbers": Metric(_pairs, _pearson)},
    "spearman": {"numbers": Metric(_pairs, _spearman)},
    "mse": {"numbers": Metric(_pairs, _mse)},
    "auroc": {"numbers": Metric(_scored_pairs, _auroc)},
}
