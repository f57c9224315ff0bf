"""The tiled relation loss against the plain fp64 loop: value, gradient, and what must not enter either."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from pipeline.distillation.relation_kl import cpu, reference, relation_kl

LENGTHS = {
    "no padding": (7, 7, 7),
    "one token": (1,),
    "one token beside many": (1, 9, 1, 4),
    "all lengths": (6, 5, 4, 3, 2, 1),
    "equal pairs": (5, 8, 5, 8),
    "padding everywhere": (3, 2, 3),  # the batch is 4 wider than its longest sequence
}


def activations(lengths: Sequence[int], width: int, *, seed: int, pad: int = 0, spread: float = 1.0) -> Tensor:
    """(B, L, width): real tokens drawn from the seed alone, `pad` extra columns, garbage in all padding."""
    generator = torch.Generator().manual_seed(seed)
    x_BLD = torch.full((len(lengths), max(lengths) + pad, width), 1e3)
    for row, length in enumerate(lengths):
        x_BLD[row, :length] = spread * torch.randn(length, width, generator=generator)
    return x_BLD


def value_and_gradient(
    loss: object, student_BLD: Tensor, teacher_BLE: Tensor, *, lengths: Sequence[int], heads: int, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    student_BLD = student_BLD.detach().clone().requires_grad_()
    value = loss(student_BLD, teacher_BLE, lengths=lengths, relation_heads=heads)  # type: ignore[operator]
    (scale * value).backward()
    assert student_BLD.grad is not None
    return value.detach(), student_BLD.grad


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize("channels", [6, 8, 12, 16])
def test_value_and_gradient_equal_the_fp64_loop(channels: int, lengths: tuple[int, ...]) -> None:
    student_BLD = activations(lengths, 4 * channels, seed=1, pad=4)
    teacher_BLE = activations(lengths, 4 * channels, seed=2, pad=4)

    value, gradient_BLD = value_and_gradient(relation_kl, student_BLD, teacher_BLE, lengths=lengths, heads=4)
    wanted, wanted_BLD = value_and_gradient(reference.relation_kl, student_BLD, teacher_BLE, lengths=lengths, heads=4)

    assert value.item() == pytest.approx(wanted.item(), abs=1e-6, rel=1e-6)
    torch.testing.assert_close(gradient_BLD, wanted_BLD, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("student_channels", "teacher_channels"), [(6, 16), (16, 6), (1, 12)])
def test_student_and_teacher_may_differ_in_width(student_channels: int, teacher_channels: int) -> None:
    lengths = (5, 1, 8)
    student_BLD = activations(lengths, 3 * student_channels, seed=1)
    teacher_BLE = activations(lengths, 3 * teacher_channels, seed=2)

    value, gradient_BLD = value_and_gradient(relation_kl, student_BLD, teacher_BLE, lengths=lengths, heads=3)
    wanted, wanted_BLD = value_and_gradient(reference.relation_kl, student_BLD, teacher_BLE, lengths=lengths, heads=3)

    assert value.item() == pytest.approx(wanted.item(), rel=1e-6)
    torch.testing.assert_close(gradient_BLD, wanted_BLD, atol=1e-6, rtol=0)


@pytest.mark.parametrize("loss", [relation_kl, reference.relation_kl])
def test_more_padding_and_what_stands_in_it_change_nothing(loss: object) -> None:
    lengths = (4, 7, 1)
    student_BLD, teacher_BLE = activations(lengths, 12, seed=1), activations(lengths, 24, seed=2)
    wider_BLD, wider_BLE = activations(lengths, 12, seed=1, pad=5), activations(lengths, 24, seed=2, pad=5)
    wider_BLD[0, 4:], wider_BLE[0, 4:] = float("nan"), float("inf")

    value, gradient_BLD = value_and_gradient(loss, student_BLD, teacher_BLE, lengths=lengths, heads=2)
    padded, padded_BLD = value_and_gradient(loss, wider_BLD, wider_BLE, lengths=lengths, heads=2)

    assert padded.item() == value.item()
    assert torch.equal(padded_BLD[:, :7], gradient_BLD)
    assert padded_BLD[:, 7:].abs().max() == 0


def test_no_gradient_reaches_padding() -> None:
    lengths = (4, 7, 1)

    _, gradient_BLD = value_and_gradient(
        relation_kl, activations(lengths, 12, seed=1), activations(lengths, 12, seed=2), lengths=lengths, heads=2
    )

    assert [int(row_LD.abs().sum(dim=1).count_nonzero()) for row_LD in gradient_BLD] == [4, 7, 0]  # one token: R is 1
    assert all(gradient_BLD[row, length:].abs().sum() == 0 for row, length in enumerate(lengths))


def test_the_batch_is_the_mean_of_its_sequences_whatever_their_lengths() -> None:
    lengths = (2, 9, 5)
    student_BLD, teacher_BLE = activations(lengths, 12, seed=1), activations(lengths, 12, seed=2)

    together = relation_kl(student_BLD, teacher_BLE, lengths=lengths, relation_heads=2)
    alone = [
        relation_kl(student_BLD[row : row + 1], teacher_BLE[row : row + 1], lengths=[length], relation_heads=2)
        for row, length in enumerate(lengths)
    ]

    assert together.item() == pytest.approx(torch.stack(alone).mean().item(), rel=1e-6)


def test_a_sequence_of_two_tokens_has_the_value_worked_out_by_hand() -> None:
    student_BLD, teacher_BLE = torch.tensor([[[1.0], [0.0]]]), torch.tensor([[[0.0], [0.0]]])

    # Logits of row 1 are (1, 0) and (0, 0): KL = log((e + 1) / 2) - 1/2; row 2 is equal in both; one head, length 2.
    wanted = (torch.log((torch.e * torch.ones(())) + 1) - torch.log(torch.tensor(2.0)) - 0.5) / 2
    assert relation_kl(student_BLD, teacher_BLE, lengths=[2], relation_heads=1).item() == pytest.approx(wanted.item())


def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient() -> None:
    lengths = (6, 3)
    x_BLD = activations(lengths, 24, seed=3)

    value, gradient_BLD = value_and_gradient(relation_kl, x_BLD, x_BLD, lengths=lengths, heads=3)

    assert value.item() == 0
    assert gradient_BLD.abs().max() == 0


def test_the_loss_is_positive_where_relations_differ_and_the_teacher_is_the_target() -> None:
    lengths = (6, 3)
    student_BLD, teacher_BLE = activations(lengths, 24, seed=3), activations(lengths, 24, seed=4)

    forth = relation_kl(student_BLD, teacher_BLE, lengths=lengths, relation_heads=3).item()
    back = relation_kl(teacher_BLE, student_BLD, lengths=lengths, relation_heads=3).item()

    assert forth > 0.1
    assert abs(forth - back) > 1e-3  # KL is not symmetric: swapping them must show


def test_the_teacher_gets_no_gradient() -> None:
    lengths = (6, 3)
    student_BLD = activations(lengths, 12, seed=3).requires_grad_()
    teacher_BLE = activations(lengths, 12, seed=4).requires_grad_()

    relation_kl(student_BLD, teacher_BLE, lengths=lengths, relation_heads=3).backward()

    assert teacher_BLE.grad is None
    assert student_BLD.grad is not None
    assert student_BLD.grad.abs().sum() > 0


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    lengths = (5, 2)
    student_BLD, teacher_BLE = activations(lengths, 12, seed=5), activations(lengths, 12, seed=6)
    direction_BLD = activations(lengths, 12, seed=7)
    _, gradient_BLD = value_and_gradient(relation_kl, student_BLD, teacher_BLE, lengths=lengths, heads=2)

    def loss_at(step: float) -> float:
        moved_BLD = student_BLD.double() + step * direction_BLD.double()
        return reference.relation_kl(moved_BLD, teacher_BLE, lengths=lengths, relation_heads=2).item()

    slope = (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5
    real_BLD = torch.stack([torch.arange(5) < length for length in lengths])[:, :, None]
    assert (gradient_BLD * direction_BLD * real_BLD).sum().item() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("scale", [0.25, -3.0])
def test_the_incoming_gradient_scales_the_outgoing_one(scale: float) -> None:
    lengths = (5, 2)
    student_BLD, teacher_BLE = activations(lengths, 12, seed=5), activations(lengths, 12, seed=6)

    _, plain_BLD = value_and_gradient(relation_kl, student_BLD, teacher_BLE, lengths=lengths, heads=2)
    _, scaled_BLD = value_and_gradient(relation_kl, student_BLD, teacher_BLE, lengths=lengths, heads=2, scale=scale)

    torch.testing.assert_close(scaled_BLD, scale * plain_BLD)


@pytest.mark.parametrize("tile_bytes", [1, 4 * 8 * 8, 4 * 8 * 8 * 4 + 100, 4 * 8 * 8 * 6 * 2])
def test_how_the_work_is_cut_into_tiles_changes_nothing(monkeypatch: pytest.MonkeyPatch, tile_bytes: int) -> None:
    """From one head of one sequence at a time, over heads that do not divide evenly, to two whole sequences."""
    lengths = (8, 8, 3, 8, 1, 3, 8)
    student_BLD, teacher_BLE = activations(lengths, 36, seed=8), activations(lengths, 24, seed=9)
    whole, whole_BLD = value_and_gradient(relation_kl, student_BLD, teacher_BLE, lengths=lengths, heads=6)

    monkeypatch.setattr(cpu, "TILE_BYTES", tile_bytes)
    value, gradient_BLD = value_and_gradient(relation_kl, student_BLD, teacher_BLE, lengths=lengths, heads=6)

    assert value.item() == pytest.approx(whole.item(), rel=1e-6)
    torch.testing.assert_close(gradient_BLD, whole_BLD, atol=1e-7, rtol=1e-5)


def test_a_small_tile_splits_sequences_of_one_length_and_their_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "TILE_BYTES", 4 * 8 * 8 * 6 * 2)
    assert list(cpu._tiles((8, 8, 3, 8), 6)) == [([0, 1], 8), ([3], 8), ([2], 3)]

    monkeypatch.setattr(cpu, "TILE_BYTES", 4 * 8 * 8 * 4)
    assert list(cpu._tiles((8, 8), 6)) == [([0], 8), ([1], 8)]
    assert list(cpu._head_slices(6, 1, 8)) == [slice(0, 4), slice(4, 8)]


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0])
def test_bf16_inputs_give_the_gradient_within_one_percent(spread: float) -> None:
    lengths = (16, 9, 1, 12)
    student_BLD = activations(lengths, 48, seed=10, spread=spread).bfloat16()
    teacher_BLE = (
        activations(lengths, 48, seed=10, spread=spread) + 0.1 * activations(lengths, 48, seed=11)
    ).bfloat16()

    value, gradient_BLD = value_and_gradient(relation_kl, student_BLD, teacher_BLE, lengths=lengths, heads=4)
    wanted, wanted_BLD = value_and_gradient(
        reference.relation_kl, student_BLD.double(), teacher_BLE.double(), lengths=lengths, heads=4
    )

    assert value.dtype == torch.float32
    assert gradient_BLD.dtype == torch.bfloat16
    assert value.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert relative_error(gradient_BLD, wanted_BLD) <= 0.01


def test_autocast_does_not_lower_the_precision_inside() -> None:
    lengths = (16, 9)
    student_BLD, teacher_BLE = activations(lengths, 48, seed=12), activations(lengths, 48, seed=13)
    plain, plain_BLD = value_and_gradient(relation_kl, student_BLD, teacher_BLE, lengths=lengths, heads=4)

    with torch.autocast("cpu", torch.bfloat16):
        value, gradient_BLD = value_and_gradient(relation_kl, student_BLD, teacher_BLE, lengths=lengths, heads=4)

    assert value.item() == plain.item()
    assert torch.equal(gradient_BLD, plain_BLD)


def test_huge_activations_stay_finite() -> None:
    lengths = (8, 5)
    student_BLD, teacher_BLE = (
        activations(lengths, 12, seed=14, spread=100),
        activations(lengths, 12, seed=15, spread=100),
    )

    value, gradient_BLD = value_and_gradient(relation_kl, student_BLD, teacher_BLE, lengths=lengths, heads=2)

    assert torch.isfinite(value)
    assert torch.isfinite(gradient_BLD).all()
