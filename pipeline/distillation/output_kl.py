"""Output-distribution transfer and masked language modelling at the masked positions alone, in chunks.

The (B, L, V) tensor of logits is never built, nor the (M, V) one: a chunk holds the logits of some positions, and its
loss and gradient are finished in the forward pass before the next begins (the loss is the end of the graph, so its
gradient is known up to the incoming factor).

Shapes: M masked positions, D and E student and teacher width, V vocabulary, C positions of a chunk.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

CHUNK_BYTES = 32 << 20


class Head(NamedTuple):
    """Logits are hidden @ weight.T + bias: (M, D), (V, D), (V)."""

    hidden_MD: torch.Tensor
    weight_VD: torch.Tensor
    bias_V: torch.Tensor


@dataclass(frozen=True)
class Targets:
    """The true tokens, what each position weighs, and how the two losses are mixed."""

    labels_M: torch.Tensor
    weights_M: torch.Tensor
    temperature: float = 1.0
    transfer: float = 1.0
    likelihood: float = 0.0


def output_loss(student: Head, teacher: Head | None, targets: Targets) -> tuple[torch.Tensor, torch.Tensor]:
    """(the sum of both losses, with its gradient; the likelihood's part of it, without).

    Over positions m of weight w_m: transfer * w_m * T^2 * KL(softmax(z_T / T) || softmax(z_S / T)) (1910.01108,
    2310.08797) where a teacher is given, plus likelihood * w_m * -log softmax(z_S)[label_m]. One vocabulary for both;
    the teacher gets no gradient. Products run in the autocast type where that is on, statistics in fp32.
    """
    taught = tuple(x.detach() for x in teacher) if teacher is not None else (None, None, None)
    both: tuple[torch.Tensor, torch.Tensor] = _OutputLoss.apply(*student, *taught, targets)  # type: ignore[no-untyped-call]
    return both


class _OutputLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        hidden_MD, weight_VD, bias_V, teacher_ME, teacher_VE, teacher_V, targets = given
        device = hidden_MD.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VD.dtype
        with torch.autocast(device, enabled=False):
            student = Head(hidden_MD.to(kind), weight_VD.to(kind), bias_V)
            teacher = Head(teacher_ME.to(kind), teacher_VE.to(kind), teacher_V) if teacher_ME is not None else None
            sums = [torch.zeros((), dtype=torch.float32, device=hidden_MD.device) for _ in range(2)]
            gradients = [torch.zeros_like(x, dtype=torch.float32) for x in student]
            for rows in _chunks(len(student.weight_VD), len(hidden_MD)):
                _chunk(rows, student, teacher, targets, sums=sums, gradients=gradients)
        ctx.save_for_backward(*(g.to(x.dtype) for g, x in zip(gradients, given[:3], strict=True)))
        transferred, likelihood = sums
        ctx.mark_non_differentiable(likelihood)
        return transferred + likelihood, likelihood

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        return (*(gradient * grad_outputs[0] for gradient in ctx.saved_tensors), None, None, None, None)


def _chunk(
    rows: slice,
    student: Head,
    teacher: Head | None,
    targets: Targets,
    *,
    sums: list[torch.Tensor],
    gradients: list[torch.Tensor],
) -> None:
    """Add the positions `rows` to the two sums and to the gradients of the student's hidden states, weight and bias."""
    logits_CV = _logits(student, rows)
    weights_C1 = targets.weights_M[rows, None].float()
    slope_CV = torch.zeros_like(logits_CV)
    if teacher is not None and targets.transfer:
        t = targets.temperature
        logs_CV, wanted_CV = (torch.log_softmax(z / t, dim=1) for z in (logits_CV, _logits(teacher, rows)))
        p_CV = wanted_CV.exp()
        factor_C1 = weights_C1 * targets.transfer
        sums[0] += (factor_C1 * t * t * p_CV * (wanted_CV - logs_CV)).sum()
        slope_CV += (logs_CV.exp() - p_CV) * (factor_C1 * t)
    if targets.likelihood:
        logs_CV = torch.log_softmax(logits_CV, dim=1)
        label_C1 = targets.labels_M[rows, None]
        factor_C1 = weights_C1 * targets.likelihood
        sums[1] -= (factor_C1 * logs_CV.gather(1, label_C1)).sum()
        slope_CV += (logs_CV.exp().scatter_add(1, label_C1, -torch.ones_like(factor_C1))) * factor_C1
    narrow_CV = slope_CV.to(student.weight_VD.dtype)
    gradients[0][rows] = (narrow_CV @ student.weight_VD).float()
    gradients[1] += narrow_CV.T @ student.hidden_MD[rows]
    gradients[2] += slope_CV.sum(dim=0)


def _logits(head: Head, rows: slice) -> torch.Tensor:
    return (head.hidden_MD[rows] @ head.weight_VD.T).float() + head.bias_V.float()


def _chunks(vocabulary: int, positions: int) -> Iterator[slice]:
    size = max(1, CHUNK_BYTES // (4 * vocabulary))
    for start in range(0, positions, size):
        yield slice(start, start + size)
