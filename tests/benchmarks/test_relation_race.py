"""A race of ways to compute the loss: refused unless they agree, in turns, and memory by the process's own peak."""

import pytest
import torch
from torch import Tensor

from benchmarks.relation_race import (
    Batch,
    Shape,
    checked_difference,
    in_fresh_process,
    race,
    require_equal,
    rise_mb,
    stored,
)
from serving.errors import Failure

SHAPE = Shape(2, 5, 48, 8)


def wrong_gradient(student_BLD: Tensor, teacher_BLE: Tensor) -> Tensor:
    loss = stored(SHAPE)(student_BLD, teacher_BLE)
    return 2 * loss - loss.detach()


def test_sides_that_agree_are_told_how_far_apart_they_are() -> None:
    sides = {"stored": stored(SHAPE), "again": lambda s, t: stored(SHAPE)(s, t) * (1 + 1e-5)}
    assert require_equal(sides, Batch(SHAPE)) == {"again": pytest.approx(1e-5, rel=0.05)}


def test_sides_whose_gradients_differ_are_not_raced() -> None:
    with pytest.raises(Failure) as refused:
        require_equal({"stored": stored(SHAPE), "ours": wrong_gradient}, Batch(SHAPE))
    assert str(refused.value) == (
        "ours and stored do not compute the same: value or gradient differ by 1 (relatively), more than 0.0001; "
        "nothing was measured: run the tests of relation_kl first"
    )


def test_a_loss_of_nothing_proves_nothing() -> None:
    nothing = torch.zeros(2)
    with pytest.raises(Failure) as refused:
        checked_difference([nothing], [nothing], what="a and b", tolerance=1e-4)
    assert str(refused.value) == (
        "a and b cannot be compared: a loss or gradient is 0, as where student and teacher are the same"
    )


def test_the_batch_is_drawn_alike_everywhere_and_gradients_do_not_add_up() -> None:
    batch, again = Batch(SHAPE), Batch(SHAPE)
    first = batch.forward_backward(stored(SHAPE))
    gradient = batch.student[0].grad
    assert torch.equal(first, again.forward_backward(stored(SHAPE)))
    batch.forward_backward(stored(SHAPE))
    assert batch.student[0].grad is not None
    torch.testing.assert_close(batch.student[0].grad, gradient)


def test_sides_take_turns_and_the_first_round_does_not_count() -> None:
    asked: list[str] = []
    now_ns = [0]

    def side(name: str, *durations_ns: int) -> object:
        left = iter(durations_ns)

        def run(student_BLD: Tensor, _teacher_BLE: Tensor) -> Tensor:
            if not asked or asked[-1] != name:
                asked.append(name)
                now_ns[0] += next(left)
            return student_BLD.sum()

        return run

    sides = {"stored": side("stored", 900, 40, 50), "ours": side("ours", 90, 4, 5)}
    found = race(sides, Batch(SHAPE), repeats=2, clock=lambda: now_ns[0])  # type: ignore[arg-type]
    assert found == {"stored": [40, 50], "ours": [4, 5]}
    assert asked == ["stored", "ours"] * 3


def allocate_mb(megabytes: int) -> float:
    """The measured rise while so much is held and then let go."""
    torch.ones(200 * 250_000)  # an earlier peak, and 30 MB that were there before, must not count
    held = torch.ones(30 * 250_000)
    return rise_mb(lambda: torch.ones(megabytes * 250_000)) + 0 * float(held[0])


def test_the_rise_of_memory_is_what_a_call_held_at_its_peak() -> None:
    assert in_fresh_process(allocate_mb, 80) == pytest.approx(80, abs=8)
