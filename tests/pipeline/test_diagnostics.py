"""What lies behind a metric, against the libraries that define it and by hand."""

from typing import Any

import numpy as np
import pytest
from seqeval.metrics import classification_report

from pipeline.diagnostics import (
    McNemar,
    Part,
    by_class,
    by_length,
    calibration,
    calibration_difference,
    flips,
    mcnemar,
)
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
    found = by_length("accuracy", A, LABELS, [3, 8, 9, 16, 17, 600, 600, 8], least=1)
    assert {name: (each.value, each.n) for name, each in found.items()} == {
        "1-8": (pytest.approx(2 / 3), 3),
        "9-16": (1.0, 2),
        "17-32": (1.0, 1),
        "513-600": (0.0, 2),
    }
    assert found["1-8"] == score("accuracy", A[[0, 1, 7]], LABELS[[0, 1, 7]])


def test_taggings_are_split_by_length_too() -> None:
    found = by_length("entity_f1", FOUND, TAGS, [4, 4, 20], least=1)
    assert {name: each.n for name, each in found.items()} == {"1-8": 2, "17-32": 1}
    assert found["17-32"].value == pytest.approx(0.5)


def test_a_range_of_few_items_is_left_out() -> None:
    """Nine right of nine would have an interval without width."""
    labels, lengths = np.zeros(19, int), [5] * 9 + [12] * 10
    assert {name: each.n for name, each in by_length("accuracy", labels, labels, lengths).items()} == {"9-16": 10}


# -- calibration -------------------------------------------------------------------------------------------------------


def drawn(n: int, *, scale: float, noise: float = 0.0) -> tuple[Any, Any]:
    """Probabilities of a model of two labels whose logits are `scale` times those that the labels were drawn by."""
    rng = np.random.default_rng(n)
    logits = 2.5 * rng.normal(size=n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(int)
    ones = 1 / (1 + np.exp(-scale * logits - noise * rng.normal(size=n)))
    return np.stack([1 - ones, ones], axis=1), labels


def test_calibration_error_is_the_gap_between_sure_and_right_weighed_by_items() -> None:
    chances = np.array([[0.95, 0.05], [0.95, 0.05], [0.4, 0.6], [0.35, 0.65]])
    # 0.95 twice, one right: |1.9 - 1|; 0.6 right and 0.65 wrong: 20 bins part them, |0.6 - 1| and 0.65; 10 do not
    assert calibration(chances, [0, 1, 1, 0], bins=10).value == pytest.approx((0.9 + abs(1.25 - 1)) / 4)
    assert calibration(chances, [0, 1, 1, 0], bins=20).value == pytest.approx((0.9 + 0.4 + 0.65) / 4)


def test_answers_as_sure_as_they_are_right_have_no_error() -> None:
    chances = np.array([[0.75, 0.25]] * 4 + [[1.0, 0.0]])
    found = calibration(chances, [0, 0, 0, 1, 0])
    assert (found.metric, found.value, found.low, found.n) == ("ece", pytest.approx(0.0), 0.0, 5)


def test_of_labels_each_on_its_own_every_one_is_an_answer() -> None:
    chances, labels = np.array([[0.9, 0.2], [0.9, 0.4]]), np.array([[1, 0], [0, 1]])
    # sure 0.9 twice, one right; sure 0.8 and right; sure 0.6 and wrong
    assert calibration(chances, labels).value == pytest.approx((abs(1.8 - 1) + 0.2 + 0.6) / 4)


def test_two_columns_are_calibrated_as_two_labels_are() -> None:
    chances, labels = drawn(500, scale=1.5)
    assert calibration(chances[:, 1:], labels[:, None]).value == pytest.approx(calibration(chances, labels).value)


def error_by_hand(chances: Any, labels: Any) -> float:
    """Equation 3 of 1706.04599 as it stands there, over 15 bins."""
    sure, right, total = chances.max(axis=1), chances.argmax(axis=1) == labels, 0.0
    for low in range(15):
        inside = (sure * 15 >= low) & (sure * 15 < low + 1) | ((low == 14) & (sure == 1))
        if inside.any():
            total += inside.mean() * abs(sure[inside].mean() - right[inside].mean())
    return float(total)


@pytest.mark.parametrize("scale", [1.5, 3.0])
def test_the_interval_of_a_calibration_error_holds_that_of_many_more_items(scale: float) -> None:
    chances, labels = drawn(1_000, scale=scale)
    found = calibration(chances, labels)
    assert found.value == pytest.approx(error_by_hand(chances, labels))
    assert found.low < error_by_hand(*drawn(200_000, scale=scale)) < found.high
    assert found.high - found.low < 0.1
    assert found.value == pytest.approx((found.low + found.high) / 2)


def test_what_is_surer_than_it_was_without_being_right_more_often_is_worse_calibrated() -> None:
    plain, labels = drawn(2_000, scale=1.0)
    sure, _ = drawn(2_000, scale=3.0)
    assert (plain.argmax(axis=1) == sure.argmax(axis=1)).all()

    found = calibration_difference(sure, plain, labels)

    assert found.estimate == pytest.approx(calibration(sure, labels).value - calibration(plain, labels).value)
    assert 0.03 < found.low < found.estimate < found.high
    assert calibration_difference(plain, sure, labels).estimate == -found.estimate


def test_a_difference_is_paired() -> None:
    """Its interval is narrower than those of its two sides, as their items are the same."""
    one, labels = drawn(1_000, scale=2.0)
    other = drawn(1_000, scale=2.0, noise=0.05)[0]
    sides = [calibration(side, labels) for side in (one, other)]
    found = calibration_difference(one, other, labels)
    assert found.low <= 0 <= found.high
    assert found.high - found.low < min(side.high - side.low for side in sides)


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "labels"), [(0, []), (1, [0, 1])])
def test_calibration_of_other_items_is_refused(rows: int, labels: list[int]) -> None:
    chances: Any = np.full((rows, 2), 0.5)
    message = f"^{rows} rows of probabilities and {len(labels)} labels: expected as many, not 0$"
    with pytest.raises(BadRequest, match=message):
        calibration(chances, labels)
    with pytest.raises(BadRequest, match=message):
        calibration_difference(chances, chances, labels)


@pytest.mark.parametrize(
    "call",
    [
        lambda: mcnemar(A[:7], B, LABELS),
        lambda: mcnemar(A, B[:7], LABELS),
        lambda: by_class(A[:7], LABELS, ["a", "b", "c"]),
        lambda: by_length("accuracy", A[:7], LABELS, [1] * 8),
    ],
)
def test_answers_to_other_items_are_refused(call: Any) -> None:
    with pytest.raises(BadRequest, match=r"^7 answers and 8 labels: give them of the same items$"):
        call()


def test_lengths_of_other_items_are_refused() -> None:
    with pytest.raises(BadRequest, match=r"^9 lengths and 8 labels: give them of the same items$"):
        by_length("accuracy", A, LABELS, [1] * 9)


@pytest.mark.parametrize(("answers", "labels"), [(A, LABELS), (np.eye(3), np.eye(3))])
def test_a_class_without_a_name_is_refused(answers: Any, labels: Any) -> None:
    with pytest.raises(BadRequest, match=r"^2 names for 3 labels: name each, in the order of the outputs$"):
        by_class(answers, labels, ["a", "b"])
