"""How good the answers are: task metrics with 95 % bootstrap intervals over items, paired to compare variants.

A resample of N items is a row of weights that sum to N, and every metric is a function of weights. So ten thousand
resamples are a few matrix products, and items that look alike to the metric are drawn together (a multinomial draw
over the distinct ones is the same distribution).

Answers and labels of one task are numbers (N,), a 0/1 matrix (N, C) with one column per label, or N sequences of IOB2
tags; `weighted_metrics.METRICS` says which metric reads which.

Shapes: N items, M distinct ones, K numbers a metric reads of each, B resamples, S seeds, C labels.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.errors import BadArtifact, BadRequest
from pipeline.weighted_metrics import METRICS, Floats, Form, Metric

Answers = npt.ArrayLike  # a sequence of tag sequences is one too
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


def require_finite(outputs: Sequence[npt.NDArray[np.floating]]) -> None:
    """Refuse raw outputs, one array per item, that hold NaN or infinity: no label is right for them."""
    broken = sum(not np.isfinite(output).all() for output in outputs)
    if broken:
        raise BadArtifact(f"the logits of {broken} of {len(outputs)} examples are not finite: the model is broken")


def score(metric: str, predictions: Answers, labels: Answers, *, resamples: int = RESAMPLES, seed: int = 0) -> Score:
    """The metric with its 95 % interval over items; a correlation with constant predictions is 0, as in tasks.

    Raises:
        BadRequest: the metric is not known or reads another form, or predictions and labels do not fit together.
        BadArtifact: one of them is NaN or infinite.
    """
    found, rows_SKN = _read_rows(metric, [predictions], labels)
    estimate_S, draws_SB = _bootstrap(found, rows_SKN, resamples=resamples, rng=np.random.default_rng(seed))
    low, high = _ends(draws_SB[0])
    value, low, high = (0.0 if np.isnan(each) else float(each) for each in (estimate_S[0], low, high))
    return Score(metric, value=value, low=low, high=high, n=rows_SKN.shape[2])


def paired_difference(
    metric: str,
    a: Answers,
    b: Answers,
    labels: Answers,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Predictions A against B on the same examples: each resample draws the same examples for both."""
    return paired_seeds_difference(metric, [a], [b], labels, resamples=resamples, seed=seed)


def paired_seeds_difference(
    metric: str,
    a: Sequence[Answers],
    b: Sequence[Answers],
    labels: Answers,
    *,
    units: Units = "sentences",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Mean metric over A's seeds minus mean over B's: `a` and `b` hold the predictions of each seed.

    With units "sentences" the interval speaks of these very models on other sentences: the same sentences are drawn for
    all of them. "sentences and seeds" also draws each side's seeds again, so it speaks of other training runs too.
    """
    if not a or not b:
        raise BadRequest(f"A has {len(a)} seeds and B has {len(b)}: give the predictions of at least one seed each")
    rng = np.random.default_rng(seed)
    found, rows_SKN = _read_rows(metric, [*a, *b], labels)
    estimate_S, draws_SB = _bootstrap(found, rows_SKN, resamples=resamples, rng=rng)
    sides = draws_SB[: len(a)], draws_SB[len(a) :]
    if units == "sentences and seeds":
        sides = _redraw(sides[0], rng=rng), _redraw(sides[1], rng=rng)
    low, high = _ends(sides[0].mean(axis=0) - sides[1].mean(axis=0))
    estimate = float(estimate_S[: len(a)].mean() - estimate_S[len(a) :].mean())
    return Difference(metric, estimate=estimate, low=low, high=high, n=rows_SKN.shape[2])


def agreement(a: Answers, b: Answers) -> Score:
    """The share of items that two variants answer alike in all labels or tags, with its interval."""
    return msgspec.structs.replace(score("accuracy", a, b), metric="agreement")


def _read_rows(metric: str, predictions: Sequence[Answers], labels: Answers) -> tuple[Metric, Floats]:
    """The metric for this form of answers, and what it reads of each item for each seed: (S, K, N)."""
    if metric not in METRICS:
        raise BadRequest(f"unknown metric '{metric}': known are {', '.join(METRICS)}")
    form, (*answers, true) = _read([*predictions, labels])
    if form not in METRICS[metric]:
        raise BadRequest(f"metric '{metric}' does not read {form}: it reads {' or '.join(METRICS[metric])}")
    found = METRICS[metric][form]
    return found, np.stack([found.rows(each, true) for each in answers])


def _read(sides: Sequence[Answers]) -> tuple[Form, list[Any]]:
    """Every seed's predictions and, last, the labels, in the one form that all of them have."""
    tagged = [_is_tagged(side) for side in sides]
    if all(tagged):
        return "tag sequences", _read_tags(sides)
    if any(tagged):
        raise BadRequest("some predictions or labels are tag sequences and some are numbers: give all in one form")
    arrays = _read_arrays(sides)
    return ("numbers" if arrays[0].ndim == 1 else "0/1 matrices"), arrays


def _is_tagged(side: Any) -> bool:
    if isinstance(side, np.ndarray):
        return False
    return any(isinstance(tag, str) for item in side if isinstance(item, tuple | list) for tag in item)


def _read_tags(sides: Sequence[Any]) -> list[tuple[tuple[str, ...], ...]]:
    """All sides as tuples of tag tuples; refused when an item has not as many tags on every side."""
    read = [tuple(tuple(tags) for tags in side) for side in sides]
    if len({len(side) for side in read}) > 1:
        counts = [len(side) for side in read]
        raise BadRequest(f"predictions and labels have {counts} tag sequences: expected equal numbers of them")
    for index, item in enumerate(zip(*read, strict=True)):
        if len({len(tags) for tags in item}) > 1:
            raise BadRequest(
                f"item {index} has {[len(tags) for tags in item]} tags: expected one per word on every side"
            )
    return read


def _read_arrays(sides: Sequence[Answers]) -> list[Floats]:
    """All sides as (N,) or 0/1 (N, C); refused when shapes differ or a value is no number."""
    arrays = [np.asarray(side, dtype=np.float64) for side in sides]
    shapes = [array.shape for array in arrays]
    if len(set(shapes)) > 1 or arrays[0].ndim not in (1, 2) or arrays[0].size == 0:
        expected = "equal, non-empty (examples,) or (examples, labels)"
        raise BadRequest(f"predictions and labels have shapes {shapes}: expected {expected}")
    if broken := sum(int(np.sum(~np.isfinite(array))) for array in arrays):
        raise BadArtifact(f"{broken} predictions or labels are not finite: the model is broken")
    if arrays[0].ndim == 2 and not all(np.isin(array, (0, 1)).all() for array in arrays):
        raise BadRequest(
            "a matrix of predictions or labels holds other numbers than 0 and 1: apply the thresholds first"
        )
    return arrays


def _bootstrap(metric: Metric, rows_SKN: Floats, *, resamples: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """The metric of each seed on the items as they are (S,), and on each resample (S, B)."""
    seeds, read, n = rows_SKN.shape
    distinct, counts_M = _distinct(rows_SKN.reshape(-1, n))
    rows_SKM = distinct.reshape(seeds, read, -1)

    def of(weights_BM: Floats) -> Floats:
        return np.stack([metric.value(rows_KM, weights_BM) for rows_KM in rows_SKM])

    chunks = [of(weights_BM) for weights_BM in _resampled_weights(counts_M, resamples=resamples, rng=rng)]
    return of(counts_M[None].astype(np.float64))[:, 0], np.concatenate(chunks, axis=1)


def _distinct(columns: Floats) -> tuple[Floats, npt.NDArray[np.integer]]:
    """The distinct columns and how often each occurs; compared as bytes, as numpy's own way takes each number apart."""
    rows = np.ascontiguousarray(columns.T)
    as_bytes = rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize))).ravel()
    _, first_M, counts_M = np.unique(as_bytes, return_index=True, return_counts=True)
    return columns[:, first_M], counts_M


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
