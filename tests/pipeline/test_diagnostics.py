"""What lies behind a metric, against the libraries that define it and by hand."""

from typing import Any

import numpy as np
import pytest
from seqeval.metrics import classification_report

from pipeline.diagnostics import McNemar, Part, by_class, by_length, calibration_error, flips, mcnemar
from pipeline.errors import BadRequest
from pipeline.quality import score

LABELS = np.array([0, 0, 1, 1, 2, 2, 2, 0])
A = np.array([0, 0, 1, 1, 2, 0, 1, 1])
B = np.array([0, 1, 0, 0, 0, 2, 1, 1])
TAGS = [("B-x", "I-x", "O"), ("O", "B-y"), ("B-x", "B-y")]
FOUND = [("B-x", "O", "O"), ("O", "B-y"), ("B-x", "B-x")]


# -- mcnemar -----------------------------------------------------------------------------------------------------------


def test_mcnemar_counts_what_one_alone_has_right_and_tests_it_exactly() -> None:
    assert mcnemar(A, B, LABELS) == McNemar(only_a=4, only_b=1, p_value=pytest.approx(2 * (1 + 5) / 2**5))
    assert mcnemar(B, A, LABELS) == McNemar(only_a=1, only_b=4, p_value=pytest.approx(2 * (1 + 5) / 2**5))


def test_variants_that_answer_alike_do_not_differ() -> None:
    assert mcnemar(A, A, LABELS) == McNemar(0, 0, 1.0)


def test_an_item_is_right_as_a_whole() -> None:
    """All of its labels, all of its tags."""
    labels = np.array([[1, 0], [1, 1]])
    assert mcnemar(labels, np.array([[1, 0], [1, 0]]), labels) == McNemar(1, 0, 1.0)
    assert mcnemar(TAGS, FOUND, TAGS) == McNemar(2, 0, 0.5)


# -- flips -------------------------------------------------------------------------------------------------------------


def test_flips_are_what_is_answered_otherwise_whether_right_or_not() -> None:
    found = flips(A, B)
    assert (found.metric, found.value, found.n) == ("flips", 5 / 8, 8)
    assert 0 < found.low < found.value < found.high < 1
    assert flips(TAGS, FOUND).value == pytest.approx(2 / 3)


# -- classes -----------------------------------------------------------------------------------------------------------


def test_classes_have_precision_recall_and_f1_of_their_own() -> None:
    assert by_class(A, LABELS, ["a", "b", "c", "d"]) == {
        "a": Part(2 / 3, 2 / 3, pytest.approx(2 / 3), 3),
        "b": Part(0.5, 1.0, pytest.approx(2 / 3), 2),
        "c": Part(1.0, 1 / 3, 0.5, 3),
        "d": Part(0.0, 0.0, 0.0, 0),
    }


def test_labels_of_several_at_once_have_figures_of_their_own() -> None:
    labels, answers = np.array([[1, 0], [1, 1], [0, 1]]), np.array([[1, 0], [0, 1], [0, 0]])
    assert by_class(answers, labels, ["a", "b"]) == {"a": Part(1.0, 0.5, 2 / 3, 2), "b": Part(1.0, 0.5, 2 / 3, 2)}


def test_types_of_entities_are_those_of_seqeval() -> None:
    rng = np.random.default_rng(0)
    names = ["O", "B-x", "I-x", "B-y", "I-y"]
    sides = [[tuple(rng.choice(names, rng.integers(1, 9))) for _ in range(60)] for _ in range(1)]
    answers = [tuple(tag if rng.random() < 0.8 else "O" for tag in tags) for tags in sides[0]]
    labels = [tuple(str(tag) for tag in tags) for tags in sides[0]]
    answers = [tuple(str(tag) for tag in tags) for tags in answers]
    wanted = classification_report(
        [list(tags) for tags in labels], [list(tags) for tags in answers], output_dict=True, zero_division=0
    )
    found = by_class(answers, labels, names)
    assert found.keys() == {"x", "y"}
    for kind, part in found.items():
        told = wanted[kind]
        assert (part.precision, part.recall, part.f1) == pytest.approx(
            (told["precision"], told["recall"], told["f1-score"])
        )
        assert part.support == told["support"]


# -- lengths -----------------------------------------------------------------------------------------------------------


def test_each_range_of_lengths_has_the_metric_of_its_items() -> None:
    found = by_length("accuracy", A, LABELS, [3, 8, 9, 16, 17, 600, 600, 8])
    assert {name: (each.value, each.n) for name, each in found.items()} == {
        "1-8": (pytest.approx(2 / 3), 3),
        "9-16": (1.0, 2),
        "17-32": (1.0, 1),
        "513-601": (0.0, 2),
    }
    assert found["1-8"] == score("accuracy", A[[0, 1, 7]], LABELS[[0, 1, 7]])


def test_taggings_are_split_by_length_too() -> None:
    found = by_length("entity_f1", FOUND, TAGS, [4, 4, 20])
    assert {name: each.n for name, each in found.items()} == {"1-8": 2, "17-32": 1}
    assert found["17-32"].value == pytest.approx(0.5)


# -- calibration -------------------------------------------------------------------------------------------------------


def test_calibration_error_is_the_gap_between_sure_and_right_weighed_by_items() -> None:
    chances = np.array([[0.95, 0.05], [0.95, 0.05], [0.4, 0.6], [0.35, 0.65]])
    # 0.95 twice, one right: |1.9 - 1|; 0.6 right and 0.65 wrong: 10 bins part them, |0.6 - 1| and 0.65 (the bin of 0.6)
    assert calibration_error(chances, [0, 1, 1, 0], bins=10) == pytest.approx((0.9 + abs(1.25 - 1)) / 4)
    assert calibration_error(chances, [0, 1, 1, 0], bins=20) == pytest.approx((0.9 + 0.4 + 0.65) / 4)


def test_answers_as_sure_as_they_are_right_have_no_error() -> None:
    chances = np.array([[0.75, 0.25]] * 4 + [[1.0, 0.0]])
    assert calibration_error(chances, [0, 0, 0, 1, 0]) == pytest.approx(0.0)


@pytest.mark.parametrize("labels", [[], [0, 1]])
def test_calibration_of_other_items_is_refused(labels: list[int]) -> None:
    chances: Any = np.array([[0.5, 0.5]] * min(1, len(labels)))
    with pytest.raises(BadRequest, match=f"rows of probabilities and {len(labels)} labels"):
        calibration_error(chances, labels)
