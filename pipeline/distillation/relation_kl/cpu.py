"""The relation loss in cache-sized tiles of plain torch: for machines without a C++ compiler, and for any device.

B x A x L x L is never stored: a tile holds the logits of a few sequences (of one length, so no padding exists in it)
and a few relation heads, about 1 MB, and softmax, KL and gradient of a tile are finished before the next begins. The
loss is the end of the graph, so its gradient is known up to the incoming factor, and only dX (N, D) is kept.

Shapes: N positions, D and E student and teacher width, A relation heads, d = D / A, B sequences in a tile, L tokens of
each.
"""

from collections.abc import Iterator

import torch

from pipeline.data.layout import Layout

TILE_BYTES = 1 << 20


def value_and_gradient(
    student_ND: torch.Tensor, teacher_NE: torch.Tensor, *, layout: Layout, relation_heads: int, gradient: bool = True
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The loss (fp32) and, if `gradient`, its gradient for the student, in the student's type."""
    device = student_ND.device
    gradient_ND = torch.zeros_like(student_ND, dtype=torch.float32) if gradient else None
    total = torch.zeros((), dtype=torch.float32, device=device)
    with torch.autocast(device.type, enabled=False):
        for starts, length in _tiles(layout, relation_heads):
            positions_BL = (torch.tensor(starts)[:, None] + torch.arange(length)).to(device)
            student_BALd, teacher_BALd = (
                x[positions_BL].view(len(starts), length, relation_heads, -1).transpose(1, 2)
                for x in (student_ND, teacher_NE)
            )
            scale = 1.0 / (relation_heads * length)
            for heads in _head_slices(relation_heads, len(starts), length):
                value, part_BALd = _tile(student_BALd[:, heads].float(), teacher_BALd[:, heads].float())
                total += value * scale
                if gradient_ND is not None:
                    columns = slice(heads.start * part_BALd.shape[3], heads.stop * part_BALd.shape[3])
                    gradient_ND[positions_BL, columns] = (part_BALd * scale).transpose(1, 2).flatten(2)
    return total, None if gradient_ND is None else gradient_ND.to(student_ND.dtype)


def _tile(student_BALd: torch.Tensor, teacher_BALd: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the KL over a tile and its gradient with respect to the student's x.

    dX = c * (G + G^T) X with G = p_S - p_T: the logits X X^T are symmetric, so x appears as row and as column. The
    difference is formed before the product: in low precision the product of each alone would cancel.
    """
    scale_student = student_BALd.shape[-1] ** -0.5
    logs_student = torch.log_softmax(student_BALd @ student_BALd.transpose(-1, -2) * scale_student, dim=-1)
    logs_teacher = torch.log_softmax(
        teacher_BALd @ teacher_BALd.transpose(-1, -2) * teacher_BALd.shape[-1] ** -0.5, dim=-1
    )
    p_teacher = logs_teacher.exp()
    value = torch.sum(p_teacher * logs_teacher.sub_(logs_student))
    difference = logs_student.exp_().sub_(p_teacher)
    gradient = (difference + difference.transpose(-1, -2)) @ student_BALd
    return value, gradient.mul_(scale_student)


def _tiles(layout: Layout, relation_heads: int) -> Iterator[tuple[list[int], int]]:
    """Starts of sequences of one length, as many as fill a tile: short sequences share one, so that small tiles do not
    cost a call each."""
    by_length: dict[int, list[int]] = {}
    for start, length in zip(layout.starts, layout.lengths, strict=True):
        by_length.setdefault(length, []).append(start)
    for length, starts in by_length.items():
        size = max(1, TILE_BYTES // (4 * relation_heads * length * length))
        for first in range(0, len(starts), size):
            yield starts[first : first + size], length


def _head_slices(relation_heads: int, sequences: int, length: int) -> Iterator[slice]:
    size = max(1, TILE_BYTES // (4 * sequences * length * length))
    for start in range(0, relation_heads, size):
        yield slice(start, min(start + size, relation_heads))
