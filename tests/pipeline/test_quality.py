"""Intervals against theory, pairing against its absence, what cannot be compared; metrics: test_weighted_metrics.py."""

import math
import re

import numpy as np
import pytest
from seqeval.metrics.sequence_labeling import get_entities

from pipeline import quality
from pipeline.errors import BadArtifact, BadRequest

EXPECTED = "expected equal, non-empty (examples,) or (examples, labels)"
RNG = np.random.default_rng(7)
LABELS = RNG.integers(4, size=600)
GUESSES = np.where(RNG.random(600) < 0.8, LABELS, RNG.integers(4, size=600))
KINDS = ("O", "O", "B-a", "I-a", "B-b")
SENTENCES = [tuple(RNG.choice(KINDS, size=8)) for _ in range(150)]
TAGGED = [tuple(tag if RNG.random() < 0.85 else "O" for tag in tags) for tags in SENTENCES]


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


def test_agreement_of_many_labels_or_tags_is_that_of_whole_items() -> None:
    matrices = quality.agreement([[0, 1], [1, 1], [0, 0]], [[0, 1], [1, 0], [0, 0]])
    assert (matrices.value, matrices.n) == (pytest.approx(2 / 3), 3)
    sequences = quality.agreement([("O", "B-a"), ("O",), ()], [("O", "B-a"), ("B-a",), ()])
    assert (sequences.value, sequences.n) == (pytest.approx(2 / 3), 3)


def entity_counts(sentence: tuple[str, ...], guess: tuple[str, ...]) -> tuple[int, int]:
    found, true = set(get_entities(list(guess))), set(get_entities(list(sentence)))
    return len(found & true), len(found) + len(true)


def test_the_interval_of_entity_f1_is_that_of_sentences_drawn_one_by_one() -> None:
    counts_N2 = np.array([entity_counts(*pair) for pair in zip(SENTENCES, TAGGED, strict=True)])
    drawn_B2 = counts_N2[RNG.integers(len(counts_N2), size=(4000, len(counts_N2)))].sum(axis=1)
    low, high = np.percentile(2 * drawn_B2[:, 0] / drawn_B2[:, 1], (2.5, 97.5))
    score = quality.score("entity_f1", TAGGED, SENTENCES)
    assert (score.metric, score.n) == ("entity_f1", 150)
    assert (score.low, score.high) == pytest.approx((low, high), abs=0.006)


def test_variants_are_paired_in_every_form_of_answers() -> None:
    matrix = np.stack([LABELS % 2, LABELS // 2], axis=1)
    worse = np.where(np.arange(600)[:, None] % 3 == 0, 1 - matrix, matrix)
    for metric, right, wrong in (("micro_f1", matrix, worse), ("entity_f1", SENTENCES, TAGGED)):
        difference = quality.paired_difference(metric, right, wrong, right)
        assert difference.estimate == pytest.approx(1 - quality.score(metric, wrong, right).value)
        assert 0 < difference.low < difference.estimate < difference.high
        alone = quality.paired_difference(metric, wrong, wrong, right)
        assert (alone.estimate, alone.low, alone.high) == (0.0, 0.0, 0.0)


def test_an_unknown_metric_is_answered_with_the_known_ones() -> None:
    known = "accuracy, macro_f1, micro_f1, entity_f1, matthews, pearson, spearman, mse, auroc"
    with pytest.raises(BadRequest, match=f"^unknown metric 'acuracy': known are {known}$"):
        quality.score("acuracy", [1], [1])


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        ([1, 2], [1], f"predictions and labels have shapes [(2,), (1,)]: {EXPECTED}"),
        ([], [], f"predictions and labels have shapes [(0,), (0,)]: {EXPECTED}"),
        ([1], [[1]], f"predictions and labels have shapes [(1,), (1, 1)]: {EXPECTED}"),
        ([[[1]]], [[[1]]], f"predictions and labels have shapes [(1, 1, 1), (1, 1, 1)]: {EXPECTED}"),
        (
            [[0.3, 1.0]],
            [[0, 1]],
            "a matrix of predictions or labels holds other numbers than 0 and 1: apply the thresholds first",
        ),
        (
            [("O",)],
            [("O",), ("O",)],
            "predictions and labels have [1, 2] tag sequences: expected equal numbers of them",
        ),
        (
            [("O",), ("O", "B-a")],
            [("O",), ("O",)],
            "item 1 has [2, 1] tags: expected one per word on every side",
        ),
        (
            [("O",)],
            [0],
            "some predictions or labels are tag sequences and some are numbers: give all in one form",
        ),
    ],
)
def test_arrays_that_cannot_be_compared_are_refused(predictions, labels, message: str) -> None:
    with pytest.raises(BadRequest, match=f"^{re.escape(message)}$"):
        quality.score("accuracy", predictions, labels)


def test_a_metric_of_another_form_is_answered_with_the_one_it_reads() -> None:
    with pytest.raises(BadRequest, match=r"^metric 'entity_f1' does not read numbers: it reads tag sequences$"):
        quality.score("entity_f1", [0, 1], [0, 1])
    message = r"^metric 'macro_f1' does not read tag sequences: it reads numbers or 0/1 matrices$"
    with pytest.raises(BadRequest, match=message):
        quality.score("macro_f1", [("O",)], [["O"]])


def test_values_that_are_no_numbers_are_a_broken_model_and_not_a_low_score() -> None:
    with pytest.raises(BadArtifact, match=r"^1 predictions or labels are not finite: the model is broken$"):
        quality.score("mse", [1.0, math.nan], [1, 2])


def test_outputs_that_are_no_numbers_are_a_broken_model() -> None:
    quality.require_finite([np.zeros(2), np.zeros((3, 2))])
    with pytest.raises(BadArtifact, match=r"^the logits of 2 of 3 examples are not finite: the model is broken$"):
        quality.require_finite([np.array([0.0, math.nan]), np.zeros((3, 2)), np.array([[0.0], [math.inf]])])


def test_a_comparison_without_seeds_is_refused() -> None:
    with pytest.raises(
        BadRequest, match=r"^A has 0 seeds and B has 1: give the predictions of at least one seed each$"
    ):
        quality.paired_seeds_difference("accuracy", [], [[1]], [1])
