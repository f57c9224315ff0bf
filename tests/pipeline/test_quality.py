"""Metrics against their libraries, intervals against theory, pairing against its absence."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from pipeline import quality
from pipeline.errors import BadArtifact, BadRequest

RNG = np.random.default_rng(7)
LABELS = RNG.integers(4, size=600)
GUESSES = np.where(RNG.random(600) < 0.8, LABELS, RNG.integers(4, size=600))
VALUES = np.round(RNG.normal(size=400), 1)  # rounded: ties
NEAR = np.round(VALUES + RNG.normal(size=400) / 2, 1)


@pytest.mark.parametrize(
    ("metric", "of", "predictions", "labels"),
    [
        ("accuracy", lambda y, p: reference.accuracy_score(y, p), GUESSES, LABELS),
        ("macro_f1", lambda y, p: reference.f1_score(y, p, average="macro"), GUESSES, LABELS),
        ("matthews", lambda y, p: reference.matthews_corrcoef(y, p), GUESSES, LABELS),
        ("pearson", lambda y, p: stats.pearsonr(p, y).statistic, NEAR, VALUES),
        ("spearman", lambda y, p: stats.spearmanr(p, y).statistic, NEAR, VALUES),
        ("mse", lambda y, p: reference.mean_squared_error(y, p), NEAR, VALUES),
    ],
)
def test_every_metric_agrees_with_its_reference_on_the_data_and_on_a_resample(metric, of, predictions, labels) -> None:
    assert quality.score(metric, predictions, labels, resamples=10).value == pytest.approx(of(labels, predictions))
    drawn = RNG.integers(len(labels), size=len(labels))
    weights = np.bincount(drawn, minlength=len(labels)).astype(float)[None]
    (weighted,) = quality.METRICS[metric](predictions.astype(float), labels.astype(float), weights)
    assert weighted == pytest.approx(of(labels[drawn], predictions[drawn]))


def test_every_known_metric_is_covered_by_the_reference_test() -> None:
    (mark,) = test_every_metric_agrees_with_its_reference_on_the_data_and_on_a_resample.pytestmark
    assert {case[0] for case in mark.args[1]} == set(quality.METRICS)


def test_the_interval_of_accuracy_is_the_binomial_one() -> None:
    score = quality.score("accuracy", np.arange(2000) < 1800, np.ones(2000))
    spread = 1.96 * math.sqrt(0.9 * 0.1 / 2000)
    assert (score.value, score.n) == (0.9, 2000)
    assert (score.low, score.high) == pytest.approx((0.9 - spread, 0.9 + spread), abs=0.0015)


def test_drawing_distinct_examples_together_gives_the_same_interval_as_drawing_each() -> None:
    together = quality.score("mse", GUESSES, LABELS)
    apart = quality.score("mse", GUESSES + np.arange(600) * 1e-9, LABELS)
    assert (apart.low, apart.high) == pytest.approx((together.low, together.high), abs=0.02)


def test_an_interval_is_the_same_for_the_same_seed() -> None:
    assert quality.score("accuracy", GUESSES, LABELS, seed=3) == quality.score("accuracy", GUESSES, LABELS, seed=3)


def test_a_constant_prediction_has_no_correlation() -> None:
    score = quality.score("pearson", np.zeros(50), np.arange(50))
    assert (score.value, score.low, score.high) == (0.0, 0.0, 0.0)


def test_a_variant_against_itself_differs_by_nothing() -> None:
    difference = quality.paired_difference("accuracy", GUESSES, GUESSES, LABELS)
    assert difference == quality.Difference("accuracy", estimate=0.0, low=0.0, high=0.0, n=600)


def test_pairing_narrows_the_interval_of_two_variants_that_err_alike() -> None:
    better = GUESSES.copy()
    wrong = np.flatnonzero(better != LABELS)[:12]
    better[wrong] = LABELS[wrong]
    difference = quality.paired_difference("accuracy", better, GUESSES, LABELS)
    alone = quality.score("accuracy", GUESSES, LABELS)
    assert difference.estimate == pytest.approx(0.02)
    assert 0 < difference.low < 0.02 < difference.high
    assert difference.high - difference.low < (alone.high - alone.low) / 2


def test_seeds_are_averaged_and_every_seed_sees_the_same_sentences() -> None:
    worse = np.where(np.arange(600) % 10 == 0, -1, GUESSES)
    difference = quality.paired_seeds_difference("accuracy", [GUESSES, LABELS], [worse, GUESSES], LABELS)
    accuracy = [np.mean(each == LABELS) for each in (GUESSES, LABELS, worse, GUESSES)]
    assert difference.estimate == pytest.approx((accuracy[0] + accuracy[1] - accuracy[2] - accuracy[3]) / 2)
    assert difference.low > 0


def test_drawing_seeds_again_widens_the_interval_when_seeds_differ() -> None:
    seeds_a, seeds_b = [LABELS, GUESSES, np.zeros(600)], [GUESSES, np.zeros(600), LABELS]
    sentences = quality.paired_seeds_difference("accuracy", seeds_a, seeds_b, LABELS)
    both = quality.paired_seeds_difference("accuracy", seeds_a, seeds_b, LABELS, units="sentences and seeds")
    assert sentences.estimate == both.estimate
    assert (sentences.low, sentences.high) == pytest.approx((0.0, 0.0))
    assert both.high - both.low > 0.3


def test_agreement_is_the_share_of_equal_answers() -> None:
    agreement = quality.agreement([0, 1, 1, 0], [0, 1, 0, 0])
    assert (agreement.metric, agreement.value) == ("agreement", 0.75)


def test_predictions_are_the_best_class_or_the_regression_value() -> None:
    assert quality.predictions(np.array([[0.1, 0.9], [2.0, -1.0]])).tolist() == [1, 0]
    assert quality.predictions(np.array([[0.5], [1.5]])).tolist() == [0.5, 1.5]


def test_an_unknown_metric_is_answered_with_the_known_ones() -> None:
    message = "^unknown metric 'acuracy': known are accuracy, macro_f1, matthews, pearson, spearman, mse$"
    with pytest.raises(BadRequest, match=message):
        quality.score("acuracy", [1], [1])


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        (
            [1, 2],
            [1],
            r"predictions and labels have shapes \[\(2,\), \(1,\)\]: expected equal, non-empty \(examples,\)",
        ),
        ([], [], r"predictions and labels have shapes \[\(0,\), \(0,\)\]: expected equal, non-empty \(examples,\)"),
    ],
)
def test_arrays_that_cannot_be_compared_are_refused(predictions, labels, message: str) -> None:
    with pytest.raises(BadRequest, match=f"^{message}$"):
        quality.score("mse", predictions, labels)


def test_values_that_are_no_numbers_are_a_broken_model_and_not_a_low_score() -> None:
    with pytest.raises(BadArtifact, match=r"^1 predictions or labels are not finite: the model is broken$"):
        quality.score("mse", [1.0, math.nan], [1, 2])
    with pytest.raises(BadArtifact, match=r"^the logits of 1 of 2 examples are not finite: the model is broken$"):
        quality.predictions(np.array([[0.0, math.nan], [0.0, 1.0]]))


def test_logits_of_one_dimension_are_refused() -> None:
    with pytest.raises(BadRequest, match=r"^logits have shape \(3,\): expected \(examples, classes\)$"):
        quality.predictions(np.zeros(3))


def test_a_comparison_without_seeds_is_refused() -> None:
    with pytest.raises(
        BadRequest, match=r"^A has 0 seeds and B has 1: give the predictions of at least one seed each$"
    ):
        quality.paired_seeds_difference("accuracy", [], [[1]], [1])
