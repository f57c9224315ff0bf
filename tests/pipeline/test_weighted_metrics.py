"""Every metric, in every form of answers it reads, against the library that defines it: on data and on a resample."""

import numpy as np
import pytest
from scipy import stats
from seqeval import metrics as seqeval
from sklearn import metrics as sklearn

from pipeline import quality
from pipeline.errors import BadRequest
from pipeline.weighted_metrics import METRICS

RNG = np.random.default_rng(7)
CLASSES = RNG.integers(4, size=600)
GUESSES = np.where(RNG.random(600) < 0.8, CLASSES, RNG.integers(4, size=600))
VALUES = np.round(RNG.normal(size=400), 1)  # rounded: ties
NEAR = np.round(VALUES + RNG.normal(size=400) / 2, 1)
OUTSIDE = (VALUES > 0.8).astype(int)
GIVEN = (RNG.random((300, 5)) < (0.5, 0.3, 0.1, 0.02, 0.0)).astype(int)  # the last label is never true
FOUND = np.where(RNG.random((300, 5)) < 0.85, GIVEN, 1 - GIVEN)
FOUND[:, 4] = 0  # and never given


def random_tags() -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Taggings of 200 sentences of 0 to 11 words, some beginning with an I, and guesses at them."""
    kinds = ("O", "O", "B-a", "I-a", "B-b", "I-b")
    true = [tuple(RNG.choice(kinds, size=RNG.integers(12))) for _ in range(200)]
    return true, [tuple(tag if RNG.random() < 0.8 else str(RNG.choice(kinds)) for tag in tags) for tags in true]


TAGS, TAGGED = random_tags()


def share_alike(labels, answers) -> float:
    return float(np.mean([mine == true for mine, true in zip(answers, labels, strict=True)]))


def f1(average: str):
    return lambda y, p: sklearn.f1_score(y, p, average=average, zero_division=0)


CASES = {
    ("accuracy", "numbers"): (sklearn.accuracy_score, GUESSES, CLASSES),
    ("accuracy", "0/1 matrices"): (sklearn.accuracy_score, FOUND, GIVEN),
    ("accuracy", "tag sequences"): (share_alike, TAGGED, TAGS),
    ("macro_f1", "numbers"): (f1("macro"), GUESSES, CLASSES),
    ("macro_f1", "0/1 matrices"): (f1("macro"), FOUND, GIVEN),
    ("micro_f1", "0/1 matrices"): (f1("micro"), FOUND, GIVEN),
    ("entity_f1", "tag sequences"): (
        lambda y, p: seqeval.f1_score([list(tags) for tags in y], [list(tags) for tags in p]),
        TAGGED,
        TAGS,
    ),
    ("matthews", "numbers"): (sklearn.matthews_corrcoef, GUESSES, CLASSES),
    ("pearson", "numbers"): (lambda y, p: stats.pearsonr(p, y).statistic, NEAR, VALUES),
    ("spearman", "numbers"): (lambda y, p: stats.spearmanr(p, y).statistic, NEAR, VALUES),
    ("mse", "numbers"): (sklearn.mean_squared_error, NEAR, VALUES),
    ("auroc", "numbers"): (sklearn.roc_auc_score, NEAR, OUTSIDE),
}


def at(side, rows):
    """The items of these rows, in the form they have."""
    return side[rows] if isinstance(side, np.ndarray) else [side[row] for row in rows]


@pytest.mark.parametrize(("metric", "form"), CASES)
def test_every_metric_agrees_with_its_reference_on_the_data_and_on_a_resample(metric: str, form: str) -> None:
    of, answers, labels = CASES[metric, form]
    assert quality.score(metric, answers, labels, resamples=10).value == pytest.approx(of(labels, answers))
    drawn = RNG.integers(len(labels), size=len(labels))
    weights = np.bincount(drawn, minlength=len(labels)).astype(float)[None]
    rows = METRICS[metric][form].rows(answers, labels)
    (weighted,) = METRICS[metric][form].value(rows.astype(float), weights)
    assert weighted == pytest.approx(of(at(labels, drawn), at(answers, drawn)))


def test_every_known_metric_and_form_is_compared_with_its_reference() -> None:
    assert set(CASES) == {(metric, form) for metric, forms in METRICS.items() for form in forms}


@pytest.mark.parametrize(
    ("metric", "nothing"), [("micro_f1", np.zeros((3, 2))), ("macro_f1", np.zeros((3, 2))), ("entity_f1", [("O",)] * 3)]
)
def test_nothing_given_where_nothing_is_true_counts_nothing(metric: str, nothing) -> None:
    assert quality.score(metric, nothing, nothing, resamples=10).value == 0.0


def test_scores_that_are_all_equal_tell_nothing_apart() -> None:
    assert quality.score("auroc", np.ones(40), np.arange(40) % 2).value == 0.5


def test_a_resample_without_items_of_both_kinds_has_no_auroc() -> None:
    metric = METRICS["auroc"]["numbers"]
    rows = metric.rows(np.array([0.1, 0.2, 0.9]), np.array([0.0, 0.0, 1.0]))
    found = metric.value(rows, np.array([[1.0, 1.0, 1.0], [2.0, 1.0, 0.0], [0.0, 0.0, 3.0]]))
    np.testing.assert_array_equal(found, [1.0, np.nan, np.nan])


@pytest.mark.parametrize(("labels", "shown"), [([1, 1, 1], "1"), ([0, 0, 0], "0"), ([0, 1, 2], "0, 1, 2")])
def test_auroc_is_refused_where_there_is_nothing_to_rank_against(labels: list[int], shown: str) -> None:
    message = f"^auroc compares items labelled 1 with items labelled 0 and needs both: the labels are {shown}$"
    with pytest.raises(BadRequest, match=message):
        quality.score("auroc", [0.1, 0.2, 0.3], labels)
