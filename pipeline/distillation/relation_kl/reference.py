"""The golden reference of the relation loss: one sequence at a time, fp64, nothing clever.

Shapes: N positions, D and E student and teacher width, L tokens of a sequence, A relation heads, d channels of a head.
"""

import torch

from pipeline.data.layout import Layout


def relation_kl(
    student_ND: torch.Tensor, teacher_NE: torch.Tensor, *, layout: Layout, relation_heads: int
) -> torch.Tensor:
    """Sum over sequences of 1/(A*L) * sum KL(R_teacher || R_student), R = softmax(X X^T / sqrt(d)) (2012.15828,
    eq. 4-6), in fp64.

    Only the layout's positions exist: padding enters neither rows, nor columns, nor the divisor.
    """
    total = torch.zeros((), dtype=torch.float64)
    for start, length in zip(layout.starts, layout.lengths, strict=True):
        student_ALL = _log_relations(student_ND[start : start + length], relation_heads)
        teacher_ALL = _log_relations(teacher_NE[start : start + length], relation_heads).detach()
        divergence = (teacher_ALL.exp() * (teacher_ALL - student_ALL)).sum()
        total = total + divergence / (relation_heads * length)
    return total


def _log_relations(x_LD: torch.Tensor, relation_heads: int) -> torch.Tensor:
    """Log of R, shape (A, L, L)."""
    x_ALd = x_LD.double().reshape(x_LD.shape[0], relation_heads, -1).transpose(0, 1)
    logits_ALL = x_ALd @ x_ALd.transpose(1, 2) / x_ALd.shape[2] ** 0.5
    return torch.log_softmax(logits_ALL, dim=-1)
