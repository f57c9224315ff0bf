"""How good the answers are: task metrics with 95 % bootstrap intervals over examples, paired to compare variants.

A resample of N examples is a row of weights that sum to N, and every metric is a function of weights. So ten thousand
resamples are a few matrix products, and examples that look alike to the metric are drawn together (a multinomial draw
over the distinct ones is the same distribution).

Shapes: N examples, M distinct ones (with their predictions and label), B resamples, S seeds, C classes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.errors import BadArtifact, BadRequest

Floats = npt.NDArray[np.float64]
Values = npt.NDArray[np.generic]
Metric = Callable[[Floats, Floats, Floats], Floats]
Units = Literal["sentences", "sentences and seeds"]

RESAMPLES: Final = 10_000
_CELLS = 1_500_000  # weights at a time: 12 MB


class Score(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One variant's metric on n examples with the ends of its 95 % interval."""

    metric: str
    value: float
    low: float
    high: float
    n: int


class Difference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Metric of A minus metric of B on the same n examples, with the ends of its 95 % interval."""

    metric: str
    estimate: float
    low: float
    high: float
    n: int


def predictions(logits_NC: npt.NDArray[np.floating]) -> Values:
    """The class with the highest logit, or the value itself for regression (one column)."""
    if logits_NC.ndim != 2:
        raise BadRequest(f"logits have shape {logits_NC.shape}: expected (examples, classes)")
    if not np.isfinite(logits_NC).all():
        broken = int(np.sum(~np.isfinite(logits_NC).all(axis=1)))
        raise BadArtifact(f"the logits of {broken} of {len(logits_NC)} examples are not finite: the model is broken")
    return logits_NC[:, 0] if logits_NC.shape[1] == 1 else np.argmax(logits_NC, axis=1)


def score(
    metric: str, predictions_N: npt.ArrayLike, labels_N: npt.ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> Score:
    """The metric with its 95 % interval over examples; a correlation with constant predictions is 0, as in tasks."""
    columns = _columns([predictions_N], labels_N)
    estimate_S, draws_SB = _bootstrap(metric, columns, resamples=resamples, rng=np.random.default_rng(seed))
    low, high = _ends(draws_SB[0])
    value, low, high = (0.0 if np.isnan(each) else float(each) for each in (estimate_S[0], low, high))
    return Score(metric, value=value, low=low, high=high, n=columns.shape[1])


def paired_difference(
    metric: str,
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Predictions A against B on the same examples: each resample draws the same examples for both."""
    return paired_seeds_difference(metric, [a], [b], labels, resamples=resamples, seed=seed)


def paired_seeds_difference(
    metric: str,
    a: Sequence[npt.ArrayLike],
    b: Sequence[npt.ArrayLike],
    labels: npt.ArrayLike,
    *,
    units: Units = "sentences",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Mean metric over A's seeds minus mean over B's: `a` and `b` hold one array of predictions per seed.

    With units "sentences" the interval speaks of these very models on other sentences: the same sentences are drawn for
    all of them. "sentences and seeds" also draws each side's seeds again, so it speaks of other training runs too.
    """
    if not a or not b:
        raise BadRequest(f"A has {len(a)} seeds and B has {len(b)}: give the predictions of at least one seed each")
    rng = np.random.default_rng(seed)
    columns = _columns([*a, *b], labels)
    estimate_S, draws_SB = _bootstrap(metric, columns, resamples=resamples, rng=rng)
    sides = draws_SB[: len(a)], draws_SB[len(a) :]
    if units == "sentences and seeds":
        sides = _redraw(sides[0], rng=rng), _redraw(sides[1], rng=rng)
    low, high = _ends(sides[0].mean(axis=0) - sides[1].mean(axis=0))
    estimate = float(estimate_S[: len(a)].mean() - estimate_S[len(a) :].mean())
    return Difference(metric, estimate=estimate, low=low, high=high, n=columns.shape[1])


def agreement(a: npt.ArrayLike, b: npt.ArrayLike) -> Score:
    """The share of examples that two classifiers answer alike, with its interval."""
    return msgspec.structs.replace(score("accuracy", a, b), metric="agreement")


def _columns(predictions_SN: Sequence[npt.ArrayLike], labels_N: npt.ArrayLike) -> Floats:
    """All seeds' predictions and, last, the labels: (S + 1, N); refused when lengths differ or a value is no number."""
    rows = [np.asarray(row, dtype=np.float64) for row in (*predictions_SN, labels_N)]
    lengths = [row.shape for row in rows]
    if len(set(lengths)) > 1 or rows[0].ndim != 1 or rows[0].size == 0:
        raise BadRequest(f"predictions and labels have shapes {lengths}: expected equal, non-empty (examples,)")
    columns = np.stack(rows)
    if not np.isfinite(columns).all():
        raise BadArtifact(f"{np.sum(~np.isfinite(columns))} predictions or labels are not finite: the model is broken")
    return columns


def _bootstrap(metric: str, columns: Floats, *, resamples: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """The metric of each seed on the examples as they are (S,), and on each resample (S, B)."""
    if metric not in METRICS:
        raise BadRequest(f"unknown metric '{metric}': known are {', '.join(METRICS)}")
    distinct, counts_M = np.unique(columns, axis=1, return_counts=True)
    *predictions_SM, labels_M = distinct

    def of(weights_BM: Floats) -> Floats:
        return np.stack([METRICS[metric](row, labels_M, weights_BM) for row in predictions_SM])

    chunks = [of(weights_BM) for weights_BM in _resampled_weights(counts_M, resamples=resamples, rng=rng)]
    return of(counts_M[None].astype(np.float64))[:, 0], np.concatenate(chunks, axis=1)


def _resampled_weights(
    counts_M: npt.NDArray[np.integer], *, resamples: int, rng: np.random.Generator
) -> Iterator[Floats]:
    """Chunks (B, M): how often each distinct example is drawn in N draws with replacement."""
    n, distinct = int(counts_M.sum()), len(counts_M)
    chunk = max(1, _CELLS // n)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        if distinct * 4 < n:
            yield rng.multinomial(n, counts_M / n, size=rows).astype(np.float64)
        else:
            of_example = np.repeat(np.arange(distinct), counts_M)
            drawn = of_example[rng.integers(n, size=(rows, n))] + distinct * np.arange(rows)[:, None]
            weights = np.bincount(drawn.ravel(), minlength=rows * distinct)
            yield weights.reshape(rows, distinct).astype(np.float64)


def _redraw(draws_SB: Floats, *, rng: np.random.Generator) -> Floats:
    """The same shape with each resample's seeds drawn again."""
    return np.take_along_axis(draws_SB, rng.integers(len(draws_SB), size=draws_SB.shape), axis=0)


def _ends(draws_B: Floats) -> tuple[float, float]:
    """The 95 % percentile interval; a resample on which the metric is undefined (one class drawn) is left out."""
    if np.isnan(draws_B).all():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(draws_B, (2.5, 97.5))
    return float(low), float(high)


def _accuracy(predictions_M: Floats, labels_M: Floats, weights_BM: Floats) -> Floats:
    return _mean(predictions_M == labels_M, weights_BM)


def _macro_f1(predictions_M: Floats, labels_M: Floats, weights_BM: Floats) -> Floats:
    """F1 averaged over the labels that occur in the data; a class never predicted and never drawn counts 0."""
    classes_C = np.unique(labels_M)
    predicted_MC = predictions_M[:, None] == classes_C
    labelled_MC = labels_M[:, None] == classes_C
    hits_BC = weights_BM @ (predicted_MC & labelled_MC)
    total_BC = weights_BM @ predicted_MC + weights_BM @ labelled_MC
    return np.asarray((2 * hits_BC / np.maximum(total_BC, 1)).mean(axis=1))


def _matthews(predictions_M: Floats, labels_M: Floats, weights_BM: Floats) -> Floats:
    """Matthews' correlation, which for several classes is Gorodkin's R_K; 0 where one side is constant, as usual."""
    classes_C = np.union1d(predictions_M, labels_M)
    predicted_MC = (predictions_M[:, None] == classes_C).astype(np.float64)
    labelled_MC = (labels_M[:, None] == classes_C).astype(np.float64)
    n_B = weights_BM.sum(axis=1)
    p_BC, t_BC = weights_BM @ predicted_MC, weights_BM @ labelled_MC
    covariance = (weights_BM @ (predictions_M == labels_M)) * n_B - (p_BC * t_BC).sum(axis=1)
    spread = np.sqrt((n_B**2 - (p_BC**2).sum(axis=1)) * (n_B**2 - (t_BC**2).sum(axis=1)))
    found: Floats = np.divide(covariance, spread, out=np.zeros_like(covariance), where=spread > 0)
    return found


def _pearson(predictions_M: Floats, labels_M: Floats, weights_BM: Floats) -> Floats:
    """Pearson's r; not a number where one side is constant."""
    return _correlation(predictions_M - predictions_M.mean(), labels_M - labels_M.mean(), weights_BM)


def _spearman(predictions_M: Floats, labels_M: Floats, weights_BM: Floats) -> Floats:
    """Pearson's r of the average ranks within each resample."""
    return _correlation(_ranks(predictions_M, weights_BM), _ranks(labels_M, weights_BM), weights_BM)


def _mse(predictions_M: Floats, labels_M: Floats, weights_BM: Floats) -> Floats:
    return _mean((predictions_M - labels_M) ** 2, weights_BM)


def _mean(values_M: npt.NDArray[np.generic], weights_BM: Floats) -> Floats:
    return np.asarray(weights_BM @ values_M.astype(np.float64) / weights_BM.sum(axis=1))


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


METRICS: Final[dict[str, Metric]] = {
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
    "mse": _mse,
}
