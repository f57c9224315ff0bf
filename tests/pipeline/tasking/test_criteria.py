"""The losses: torch's own means where a batch is whole, and sums that add up to them where it is computed in parts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from taskdata import task_over
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from pipeline.tasking.base import Places, Split, TaskData
from pipeline.tasking.criteria import IGNORED, balanced_weights, bernoulli_kl, distribution_kl, label_loss
from pipeline.tasking.tagging import Tagging

CLASSES, ROWS = 3, 6
LABELS = (0, 1, 1, 1, 2, 2)
ROWS_OF_LABELS = ((1, 0, 0), (1, 1, 0), (0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0))
TAGS = ((0, 1, 2), (0,), (0, 0), (1, 0), (0, 2), (1,))
FIRSTS = ([1, 2, 4], [1], [1, -1], [1, 3], [2, 3], [-1])
PLACES: Places = [np.array([(at, at + 1 if at >= 0 else -1) for at in each]) for each in FIRSTS]


def data_of(labels: Sequence[Any]) -> TaskData:
    split = Split(tuple((f"text {n}",) for n in range(len(labels))), tuple(labels))
    return TaskData(("O", "B-x", "I-x"), {"train": split}, None)


def tagged() -> TaskData:
    return data_of([Tagging(tuple((n, n + 1) for n in range(len(tags))), tags) for tags in TAGS])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32))


# -- one label of several ----------------------------------------------------------------------------------------------


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = np.random.default_rng(0).choice(4, 50, p=(0.1, 0.2, 0.6, 0.1))
    wanted = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    assert balanced_weights(labels.tolist(), 4).tolist() == pytest.approx(wanted.tolist(), rel=1e-6)


def test_a_label_that_train_does_not_have_weighs_nothing() -> None:
    assert balanced_weights([0, 2, 2], 4).tolist() == [0.75, 0.0, 0.375, 0.0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", ["equal", "balanced"])
def test_a_classification_learns_by_torchs_mean_cross_entropy(weights: str, smoothing: float) -> None:
    task, data = task_over("classification", class_weights=weights, label_smoothing=smoothing), data_of(LABELS)
    logits, targets = random(ROWS, CLASSES), task.targets(data.train, range(ROWS), None, 0)
    weighed = torch.tensor([6 / 3 / 1, 6 / 3 / 3, 6 / 3 / 2]) if weights == "balanced" else None

    criterion = task.criterion(data)
    found = criterion.total(logits, torch.from_numpy(targets)) / criterion.mass(targets)

    wanted = cross_entropy(logits, torch.tensor(LABELS), weight=weighed, label_smoothing=smoothing)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", ["equal", "balanced"])
def test_a_tagging_learns_at_the_first_sub_tokens_and_nowhere_else(weights: str, smoothing: float) -> None:
    task, data = task_over("token-classification", class_weights=weights, label_smoothing=smoothing), tagged()
    logits, targets = random(ROWS, 6, CLASSES), task.targets(data.train, range(ROWS), PLACES, 6)
    weighed = torch.tensor([11 / 3 / 6, 11 / 3 / 3, 11 / 3 / 2]) if weights == "balanced" else None

    criterion = task.criterion(data)
    found = criterion.total(logits, torch.from_numpy(targets)) / criterion.mass(targets)

    at = [(row, place, tag) for row in range(ROWS) for place, tag in zip(FIRSTS[row], TAGS[row], strict=True)]
    learned = [one for one in at if one[1] >= 0]
    picked = torch.stack([logits[row, place] for row, place, _ in learned])
    wanted = cross_entropy(
        picked, torch.tensor([tag for *_, tag in learned]), weight=weighed, label_smoothing=smoothing
    )
    assert len(learned) == 9
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_a_batch_without_a_target_has_the_sum_nothing_and_is_divided_by_one() -> None:
    logits, targets = random(2, 4, CLASSES).requires_grad_(), np.full((2, 4), IGNORED)
    for weights in (None, np.ones(CLASSES, np.float32)):
        criterion = label_loss(weights=weights, smoothing=0.1)
        loss = criterion.total(logits, torch.from_numpy(targets)) / criterion.mass(targets)
        loss.backward()
        assert loss.item() == 0.0
        assert logits.grad is not None
        assert logits.grad.abs().max() == 0.0
    assert task_over("token-classification").units(targets) == 1


# -- several labels, numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", ["equal", "balanced"])
def test_several_labels_are_learned_by_torchs_mean_binary_cross_entropy(weights: str, smoothing: float) -> None:
    """Balanced, the items with a label weigh together as much as those without; one that none has counts as one."""
    task = task_over("multi-label", class_weights=weights, label_smoothing=smoothing)
    data, logits = data_of(ROWS_OF_LABELS), random(ROWS, CLASSES)
    targets = task.targets(data.train, range(ROWS), None, 0)

    criterion = task.criterion(data)
    found = criterion.total(logits, torch.from_numpy(targets)) / criterion.mass(targets)

    smooth = torch.tensor(ROWS_OF_LABELS) * (1 - smoothing) + smoothing / 2
    weighed = torch.tensor([2 / 4, 3 / 3, 5 / 1]) if weights == "balanced" else None
    wanted = binary_cross_entropy_with_logits(logits, smooth, pos_weight=weighed)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_a_balanced_label_that_all_items_have_is_still_learned() -> None:
    task, data = task_over("multi-label", class_weights="balanced"), data_of(((1,), (1,), (1,), (1,)))
    logits, targets = random(4, 1), task.targets(data.train, range(4), None, 0)
    found = task.criterion(data).total(logits, torch.from_numpy(targets)).item()
    wanted = binary_cross_entropy_with_logits(logits, torch.ones(4, 1), reduction="sum").item() / 4
    assert found == pytest.approx(wanted, rel=1e-6)


def test_a_number_is_learned_by_the_mean_squared_error() -> None:
    task, data, outputs = task_over("regression"), data_of((0.5, -1.0, 2.0)), random(3, 1)
    targets = task.targets(data.train, (2, 0, 1), None, 0)

    criterion = task.criterion(data)
    found = criterion.total(outputs, torch.from_numpy(targets)) / criterion.mass(targets)

    assert found.item() == pytest.approx(mse_loss(outputs[:, 0], torch.tensor([2.0, 0.5, -1.0])).item(), rel=1e-6)


# -- parts -------------------------------------------------------------------------------------------------------------

WEIGHED = {"class_weights": "balanced", "label_smoothing": 0.1}
LEARNED = {
    "classification": (WEIGHED, data_of(LABELS), None, (ROWS, CLASSES)),
    "multi-label": (WEIGHED, data_of(ROWS_OF_LABELS), None, (ROWS, CLASSES)),
    "regression": ({}, data_of(np.linspace(-1, 2, ROWS).tolist()), None, (ROWS, 1)),
    "token-classification": (WEIGHED, tagged(), PLACES, (ROWS, 6, CLASSES)),
}
PARTS = ([[0, 1, 2, 3, 4, 5]], [[0, 2, 4], [1, 3, 5]], [[5], [0, 1], [2, 3, 4]], [[0], [1], [2], [3], [4], [5]])


@pytest.mark.parametrize("parts", PARTS[1:])
@pytest.mark.parametrize("kind", LEARNED)
def test_a_batch_in_parts_has_the_gradient_of_the_whole(kind: str, parts: list[list[int]]) -> None:
    settings, data, places, shape = LEARNED[kind]
    task, teacher = task_over(kind, **settings), random(*shape, seed=1)
    criterion = task.criterion(data)

    def gradients(parts: list[list[int]]) -> list[torch.Tensor]:
        """Of the task's term and of the teacher's."""
        whole = task.targets(data.train, range(ROWS), places, shape[1])
        found = []
        for term in ("task", "teacher"):
            outputs = random(*shape).requires_grad_()
            for rows in parts:
                targets = torch.from_numpy(task.targets(data.train, rows, places, shape[1]))
                if term == "task":
                    loss = criterion.total(outputs[rows], targets) / criterion.mass(whole)
                else:
                    loss = task.distilled(outputs[rows], teacher[rows], targets, t=2.0) / task.units(whole)
                loss.backward()
            assert outputs.grad is not None
            found.append(outputs.grad)
        return found

    for one, other in zip(gradients(PARTS[0]), gradients(parts), strict=True):
        assert one.abs().max() > 1e-3
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-8)


# -- a teacher's answers -----------------------------------------------------------------------------------------------


def softmax(logits: Any, t: float) -> Any:
    exp = np.exp(np.asarray(logits, np.float64) / t)
    return exp / exp.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("t", [1.0, 2.5])
def test_a_distribution_is_distilled_by_t_squared_kl_from_the_teacher(t: float) -> None:
    of, to = random(4, CLASSES), random(4, CLASSES, seed=1)
    student, teacher = softmax(of, t), softmax(to, t)
    wanted = t**2 * (teacher * np.log(teacher / student)).sum()
    assert distribution_kl(of, to, temperature=t).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("t", [1.0, 2.5])
def test_every_label_of_several_is_distilled_as_a_yes_or_no(t: float) -> None:
    of, to = random(4, CLASSES), random(4, CLASSES, seed=1)
    student, teacher = (1 / (1 + np.exp(-each.double().numpy() / t)) for each in (of, to))
    yes, no = teacher * np.log(teacher / student), (1 - teacher) * np.log((1 - teacher) / (1 - student))
    wanted = t**2 * (yes + no).mean(axis=1).sum()
    assert bernoulli_kl(of, to, temperature=t).item() == pytest.approx(wanted, rel=1e-5)


def test_a_teacher_that_is_sure_beyond_what_a_float_can_tell_is_distilled_all_the_same() -> None:
    of, to = torch.zeros(1, 2, requires_grad=True), torch.tensor([[200.0, -200.0]])
    for divergence, wanted in ((distribution_kl, np.log(2)), (bernoulli_kl, np.log(2))):
        found = divergence(of, to, temperature=1.0)
        assert found.item() == pytest.approx(wanted, rel=1e-6)
        assert torch.autograd.grad(found, of)[0].isfinite().all()


def test_a_tagging_is_distilled_where_words_begin_and_the_teacher_has_an_answer() -> None:
    task, data = task_over("token-classification"), tagged()
    of, to = random(ROWS, 6, CLASSES), random(ROWS, 6, CLASSES, seed=1)
    to[0, 1] = float("nan")  # the teacher cuts this text earlier
    targets = torch.from_numpy(task.targets(data.train, range(ROWS), PLACES, 6))

    found = task.distilled(of, to, targets, t=2.0)

    places = [(row, at) for row in range(ROWS) for at in FIRSTS[row] if at >= 0 and (row, at) != (0, 1)]
    wanted = sum(distribution_kl(of[at], to[at], temperature=2.0).item() for at in places)
    assert len(places) == 8
    assert found.item() == pytest.approx(wanted, rel=1e-5)
    assert task.units(targets.numpy()) == 9


@pytest.mark.parametrize("match", ["cosine", "mse"])
def test_a_vector_is_distilled_by_its_cosine_or_its_squared_distance(match: str) -> None:
    task, of, to = task_over("embedding", match=match), random(3, 5), random(3, 5, seed=1)
    a, b = of.double().numpy(), to.double().numpy()
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    wanted = (1 - cosines).sum() if match == "cosine" else ((a - b) ** 2).sum()
    assert task.distilled(of, to, torch.zeros(3), t=2.0).item() == pytest.approx(wanted, rel=1e-5)


def test_a_number_is_distilled_by_its_squared_error_at_any_temperature() -> None:
    task, of, to = task_over("regression"), torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.5]])
    assert [task.distilled(of, to, torch.zeros(2), t=t).item() for t in (1.0, 4.0)] == [4.25, 4.25]
