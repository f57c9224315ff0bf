"""The output loss in chunks against plain fp64, and that no tensor of positions x vocabulary is built."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.distillation import output_kl
from pipeline.distillation.output_kl import Head, Targets, output_loss

M, D, E, V = 23, 8, 12, 50


def drawn(*, seed: int = 0) -> tuple[Head, Head, Tensor, Tensor]:
    """(student, teacher, labels, weights)."""
    g = torch.Generator().manual_seed(seed)
    student = Head(*(torch.randn(*shape, generator=g).requires_grad_() for shape in ((M, D), (V, D), (V,))))
    teacher = Head(*(torch.randn(*shape, generator=g) for shape in ((M, E), (V, E), (V,))))
    return student, teacher, torch.randint(0, V, (M,), generator=g), torch.rand(M, generator=g)


def plain(student: Head, teacher: Head, targets: Targets) -> tuple[Tensor, Tensor]:
    """(transfer, likelihood) in fp64, written out."""
    z_s, z_t = (
        head.hidden_MD.double() @ head.weight_VD.double().T + head.bias_V.double() for head in (student, teacher)
    )
    t = targets.temperature
    logs_s, logs_t = torch.log_softmax(z_s / t, dim=1), torch.log_softmax(z_t / t, dim=1)
    kl_M = t * t * (logs_t.exp() * (logs_t - logs_s)).sum(dim=1)
    nll_M = -torch.log_softmax(z_s, dim=1).gather(1, targets.labels_M[:, None])[:, 0]
    weights_M = targets.weights_M.double()
    return targets.transfer * (weights_M * kl_M).sum(), targets.likelihood * (weights_M * nll_M).sum()


@pytest.mark.parametrize("chunk", [1, 5, 23, 1000])
@pytest.mark.parametrize(("temperature", "transfer", "likelihood"), [(1, 1, 0), (2, 1, 0), (3, 0.7, 0.3), (1, 0, 1)])
def test_value_and_gradient_equal_plain_fp64_in_chunks_of_any_size(
    chunk: int, temperature: float, transfer: float, likelihood: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_kl, "CHUNK_BYTES", chunk * 4 * V)
    student, teacher, labels_M, weights_M = drawn()
    targets = Targets(labels_M, weights_M, temperature, transfer, likelihood)

    total, told = output_loss(student, teacher, targets)
    found = torch.autograd.grad(-1.5 * total, student)
    wanted_kl, wanted_nll = plain(student, teacher, targets)
    wanted = torch.autograd.grad(-1.5 * (wanted_kl + wanted_nll), student)

    assert total.item() == pytest.approx((wanted_kl + wanted_nll).item(), rel=1e-5)
    assert told.item() == pytest.approx(wanted_nll.item(), rel=1e-5, abs=1e-9)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_without_a_teacher_only_the_likelihood_is_learned() -> None:
    student, teacher, labels_M, weights_M = drawn()
    targets = Targets(labels_M, weights_M, likelihood=1.0)

    total, told = output_loss(student, None, targets)

    assert total.item() == told.item() == pytest.approx(plain(student, teacher, targets)[1].item(), rel=1e-5)


def test_equal_heads_have_no_transfer_and_the_teacher_gets_no_gradient() -> None:
    student, _, labels_M, weights_M = drawn()
    same = Head(*(x.detach().clone().requires_grad_() for x in student))

    total, _ = output_loss(student, same, Targets(labels_M, weights_M, temperature=2.0))
    total.backward()

    assert total.item() == pytest.approx(0, abs=1e-5)
    assert student.weight_VD.grad is not None
    assert student.weight_VD.grad.abs().max() < 1e-5
    assert all(x.grad is None for x in same)


def test_under_autocast_products_are_bf16_and_statistics_are_not() -> None:
    student, teacher, labels_M, weights_M = drawn()
    targets = Targets(labels_M, weights_M, temperature=2.0, likelihood=0.5)

    with torch.autocast("cpu", torch.bfloat16):
        total, _ = output_loss(student, teacher, targets)
    gradients = torch.autograd.grad(total, student)
    wanted = torch.stack(plain(student, teacher, targets)).sum()

    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(wanted.item(), rel=0.02)
    for one, other in zip(gradients, torch.autograd.grad(wanted, student), strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() / other.norm() < 0.02


class Largest(TorchDispatchMode):
    """The most numbers any tensor made within had."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = function(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.numbers = max(self.numbers, made.numel())
        return made


def test_no_tensor_of_positions_times_vocabulary_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_kl, "CHUNK_BYTES", 4 * 4 * V)
    student, teacher, labels_M, weights_M = drawn()

    with Largest() as largest:
        total, _ = output_loss(student, teacher, Targets(labels_M, weights_M, likelihood=1.0))
        total.backward()

    assert 4 * V <= largest.numbers < M * V
