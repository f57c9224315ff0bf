"""The relation loss in cache-sized tiles, with the gradient formed in the forward pass.

B x A x L x L is never stored: a tile holds the logits of a few sequences (of one length, so no padding exists in it)
and a few relation heads, about 1 MB, and softmax, KL and gradient of a tile are finished before the next begins. The
loss is the end of the graph, so its gradient is known up to the incoming factor, and only dX (B, L, D) is kept.

Shapes: B batch, L tokens, D and E student and teacher width, A relation heads, d = D / A, N sequences in a tile.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

TILE_BYTES = 1 << 20


def relation_kl(
    student_BLD: torch.Tensor, teacher_BLE: torch.Tensor, *, lengths: Sequence[int], relation_heads: int
) -> torch.Tensor:
    """Mean over sequences of 1/(A*len) * sum KL(R_teacher || R_student), as `reference.relation_kl`, in fp32.

    The teacher gets no gradient. Statistics are fp32 whatever the inputs are.
    """
    loss: torch.Tensor = _RelationKL.apply(student_BLD, teacher_BLE.detach(), tuple(lengths), relation_heads)  # type: ignore[no-untyped-call]
    return loss


class _RelationKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student_BLD: torch.Tensor, teacher_BLE: torch.Tensor, lengths: tuple[int, ...], relation_heads: int
    ) -> torch.Tensor:
        gradient_BLD = torch.zeros_like(student_BLD, dtype=torch.float32)
        total = torch.zeros((), dtype=torch.float32, device=student_BLD.device)
        with torch.autocast(student_BLD.device.type, enabled=False):
            for rows, length in _tiles(lengths, relation_heads):
                student, teacher, gradient = (
                    x[rows, :length].reshape(len(rows), length, relation_heads, -1).transpose(1, 2)
                    for x in (student_BLD, teacher_BLE, gradient_BLD)
                )
                scale = 1.0 / (relation_heads * length * len(lengths))
                for heads in _head_slices(relation_heads, len(rows), length):
                    value, part = _tile(student[:, heads].float(), teacher[:, heads].float())
                    total += value * scale
                    gradient[:, heads] = part * scale
                gradient_BLD[rows, :length] = gradient.transpose(1, 2).flatten(2)
        ctx.save_for_backward(gradient_BLD.to(student_BLD.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient_BLD,) = ctx.saved_tensors
        return gradient_BLD * grad_outputs[0], None, None, None


def _tile(student_NALd: torch.Tensor, teacher_NALd: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the KL over a tile and its gradient with respect to the student's x.

    dX = c * (G + G^T) X with G = p_S - p_T: the logits X X^T are symmetric, so x appears as row and as column. The
    difference is formed before the product: in low precision the product of each alone would cancel.
    """
    scale_student = student_NALd.shape[-1] ** -0.5
    logs_student = torch.log_softmax(student_NALd @ student_NALd.transpose(-1, -2) * scale_student, dim=-1)
    logs_teacher = torch.log_softmax(
        teacher_NALd @ teacher_NALd.transpose(-1, -2) * teacher_NALd.shape[-1] ** -0.5, dim=-1
    )
    p_teacher = logs_teacher.exp()
    value = torch.sum(p_teacher * logs_teacher.sub_(logs_student))
    difference = logs_student.exp_().sub_(p_teacher)
    gradient = (difference + difference.transpose(-1, -2)) @ student_NALd
    return value, gradient.mul_(scale_student)


def _tiles(lengths: tuple[int, ...], relation_heads: int) -> Iterator[tuple[list[int], int]]:
    """Rows of one length, as many as fill a tile: short sequences share one, so that small tiles do not cost a call
    each."""
    by_length: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        by_length.setdefault(length, []).append(row)
    for length, rows in by_length.items():
        size = max(1, TILE_BYTES // (4 * relation_heads * length * length))
        for start in range(0, len(rows), size):
            yield rows[start : start + size], length


def _head_slices(relation_heads: int, rows: int, length: int) -> Iterator[slice]:
    size = max(1, TILE_BYTES // (4 * rows * length * length))
    for start in range(0, relation_heads, size):
        yield slice(start, start + size)
