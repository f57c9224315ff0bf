"""The golden reference of the relation loss: one sequence at a time, fp64, nothing clever.

Shapes: B batch, L tokens, D width, A relation heads, d = D / A.
"""

from collections.abc import Sequence

import torch


def relation_kl(
    student_BLD: torch.Tensor, teacher_BLE: torch.Tensor, *, lengths: Sequence[int], relation_heads: int
) -> torch.Tensor:
    """Mean over sequences of 1/(A*len) * sum KL(R_teacher || R_student), R = softmax(X X^T / sqrt(d)) (2012.15828,
    eq. 4-6).

    Only the first `lengths[b]` tokens of row b exist: padding enters neither rows, nor columns, nor the divisor.
    """
    total = torch.zeros((), dtype=torch.float64)
    for row, length in enumerate(lengths):
        student = _log_relations(student_BLD[row, :length], relation_heads)
        teacher = _log_relations(teacher_BLE[row, :length], relation_heads).detach()
        divergence = (teacher.exp() * (teacher - student)).sum()
        total = total + divergence / (relation_heads * length)
    return total / len(lengths)


def _log_relations(x_LD: torch.Tensor, relation_heads: int) -> torch.Tensor:
    """Log of R, shape (A, L, L)."""
    x_ALd = x_LD.double().reshape(x_LD.shape[0], relation_heads, -1).transpose(0, 1)
    logits_ALL = x_ALd @ x_ALd.transpose(1, 2) / x_ALd.shape[2] ** 0.5
    return torch.log_softmax(logits_ALL, dim=-1)
