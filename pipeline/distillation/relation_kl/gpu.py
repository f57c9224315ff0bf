# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator, no-untyped-call"
"""The relation loss in Triton, two launches: row statistics and KL of both models, then the symmetric gradient.

A program owns a block of rows of one sequence and one relation head, and walks over its columns. The first launch keeps
running maxima, so that every tile is made once in it. The second has the log-sum-exp of every row, and therewith both
parts an x has in the gradient, the logits being symmetric: dx_i = c sum_j (p_S,ij - p_T,ij + p_S,ji - p_T,ji) x_j. No
atomics, no second output. Logits are kept in powers of two (`*2`), statistics in fp32 always.

Imported where there is a CUDA device; the tests import it under Triton's interpreter.

Shapes: N positions, D and E student and teacher width, A relation heads, K blocks of rows.
"""

import functools
from typing import Any

import torch
import triton
import triton.language as tl

from pipeline.data.layout import Layout

_DIRECT = (torch.float32, torch.bfloat16)  # what the kernels read as it is


def value_and_gradient(
    student_ND: torch.Tensor, teacher_NE: torch.Tensor, *, layout: Layout, relation_heads: int, gradient: bool = True
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The loss (fp32) and, if `gradient`, its gradient for the student, in the student's type."""
    given, device = student_ND.dtype, student_ND.device
    student_ND, teacher_NE = _readable(student_ND), _readable(teacher_NE)
    settings = _settings(student_ND, teacher_NE, relation_heads)
    blocks_K3 = _blocks(layout, settings["BLOCK"], device)
    lse2_2AN = torch.empty((2, relation_heads, layout.positions), device=device)
    values_KA = torch.empty((len(blocks_K3), relation_heads), device=device)
    make = torch.empty_like if layout.tokens == layout.positions else torch.zeros_like
    gradient_ND = make(student_ND, memory_format=torch.contiguous_format) if gradient else None
    grid = (len(blocks_K3), relation_heads)
    with torch.cuda.device_of(student_ND):
        _statistics[grid](student_ND, teacher_NE, blocks_K3, *lse2_2AN, values_KA, **settings)
        if gradient_ND is not None:
            _gradient[grid](student_ND, teacher_NE, blocks_K3, *lse2_2AN, gradient_ND, **settings)
    return values_KA.sum(), None if gradient_ND is None else gradient_ND.to(given)


def _readable(x_ND: torch.Tensor) -> torch.Tensor:
    """fp32 or bf16, channels side by side, rows anywhere (a fused projection's share as it stands)."""
    x_ND = x_ND.detach() if x_ND.dtype in _DIRECT else x_ND.detach().float()
    return x_ND if x_ND.stride(1) == 1 else x_ND.contiguous()


def _settings(student_ND: torch.Tensor, teacher_NE: torch.Tensor, relation_heads: int) -> dict[str, Any]:
    """Strides, and what the kernels are compiled for: channels are padded to what the matrix units take."""
    student, teacher = student_ND.shape[1] // relation_heads, teacher_NE.shape[1] // relation_heads
    padded = [max(16, triton.next_power_of_2(channels)) for channels in (student, teacher)]
    return {
        "positions": len(student_ND),
        "student_row": student_ND.stride(0),
        "teacher_row": teacher_NE.stride(0),
        "S": student,
        "T": teacher,
        "S_PADDED": padded[0],
        "T_PADDED": padded[1],
        "BLOCK": max(16, min(64, 4096 // max(padded))),  # so that the tiles of wide heads fit as well
        "UPCAST": not student_ND.is_cuda,
    }


@functools.lru_cache(maxsize=16)  # Q, K and V share a layout, hence a copy
def _blocks(layout: Layout, rows: int, device: torch.device) -> torch.Tensor:
    """(start, length, first row) of every block of rows: none empty, the longest sequences' first."""
    documents = sorted(zip(layout.lengths, layout.starts, strict=True), reverse=True)
    blocks = [(start, length, first) for length, start in documents for first in range(0, length, rows)]
    return torch.tensor(blocks, dtype=torch.int32).reshape(-1, 3).to(device, non_blocking=True)


@triton.jit
def _head_rows(x, stride, start, rows, length, head, CHANNELS: tl.constexpr, PADDED: tl.constexpr):
    """(rows, PADDED) of a sequence's head, 0 beyond its tokens and beyond its channels."""
    channels = tl.arange(0, PADDED)
    offsets = (start + rows).to(tl.int64)[:, None] * stride + head * CHANNELS + channels[None, :]
    return tl.load(x + offsets, mask=(rows < length)[:, None] & (channels < CHANNELS)[None, :], other=0.0)


@triton.jit
def _product(a, b, UPCAST: tl.constexpr):
    """In fp32, from operands as they are; the interpreter, which takes bf16 for whole numbers, needs them widened."""
    if UPCAST:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _logits2(rows_x, columns_x, CHANNELS: tl.constexpr, UPCAST: tl.constexpr):
    return _product(rows_x, tl.trans(columns_x), UPCAST) * (1.4426950408889634 / CHANNELS**0.5)


@triton.jit
def _statistics(
    student, teacher, blocks, lse2_student, lse2_teacher, values, positions, student_row, teacher_row,
    S: tl.constexpr, T: tl.constexpr, S_PADDED: tl.constexpr, T_PADDED: tl.constexpr, BLOCK: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """The log-sum-exp of each row, and the block's part of the loss: KL_i = sum_j p_T,ij (zT - zS) - lse_T + lse_S."""
    block, head = tl.program_id(0), tl.program_id(1)
    start, length = tl.load(blocks + 3 * block), tl.load(blocks + 3 * block + 1)
    rows = tl.load(blocks + 3 * block + 2) + tl.arange(0, BLOCK)
    s_rows = _head_rows(student, student_row, start, rows, length, head, S, S_PADDED)
    t_rows = _head_rows(teacher, teacher_row, start, rows, length, head, T, T_PADDED)
    s_top, t_top = tl.full([BLOCK], -float("inf"), tl.float32), tl.full([BLOCK], -float("inf"), tl.float32)
    s_sum, t_sum = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    cross = tl.zeros([BLOCK], tl.float32)
    for first in range(0, length, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        s = _logits2(s_rows, _head_rows(student, student_row, start, columns, length, head, S, S_PADDED), S, UPCAST)
        t = _logits2(t_rows, _head_rows(teacher, teacher_row, start, columns, length, head, T, T_PADDED), T, UPCAST)
        s = tl.where((columns < length)[None, :], s, -1e30)  # finite, so that 0 times their difference is 0
        t = tl.where((columns < length)[None, :], t, -1e30)
        s_new, t_new = tl.maximum(s_top, tl.max(s, 1)), tl.maximum(t_top, tl.max(t, 1))
        t_powers, t_shrinks = tl.exp2(t - t_new[:, None]), tl.exp2(t_top - t_new)
        s_sum = s_sum * tl.exp2(s_top - s_new) + tl.sum(tl.exp2(s - s_new[:, None]), 1)
        t_sum = t_sum * t_shrinks + tl.sum(t_powers, 1)
        cross = cross * t_shrinks + tl.sum(t_powers * (t - s), 1)
        s_top, t_top = s_new, t_new
    to = head.to(tl.int64) * positions + start + rows
    tl.store(lse2_student + to, s_top + tl.log2(s_sum), mask=rows < length)
    tl.store(lse2_teacher + to, t_top + tl.log2(t_sum), mask=rows < length)
    divergence2 = cross / t_sum + (s_top - t_top) + tl.log2(s_sum / t_sum)
    total = tl.sum(tl.where(rows < length, divergence2, 0.0), 0) * 0.6931471805599453
    tl.store(values + block * tl.num_programs(1) + head, total / (tl.num_programs(1) * length))


@triton.jit
def _gradient(
    student, teacher, blocks, lse2_student, lse2_teacher, gradient, positions, student_row, teacher_row,
    S: tl.constexpr, T: tl.constexpr, S_PADDED: tl.constexpr, T_PADDED: tl.constexpr, BLOCK: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """dx of the block's rows. What is padding has x = 0, so z = 0 and finite powers, which then meet x = 0 again."""
    block, head = tl.program_id(0), tl.program_id(1)
    start, length = tl.load(blocks + 3 * block), tl.load(blocks + 3 * block + 1)
    rows = tl.load(blocks + 3 * block + 2) + tl.arange(0, BLOCK)
    lse2_student += head.to(tl.int64) * positions + start
    lse2_teacher += head.to(tl.int64) * positions + start
    s_rows = _head_rows(student, student_row, start, rows, length, head, S, S_PADDED)
    t_rows = _head_rows(teacher, teacher_row, start, rows, length, head, T, T_PADDED)
    s_lse = tl.load(lse2_student + rows, mask=rows < length, other=0.0)[:, None]
    t_lse = tl.load(lse2_teacher + rows, mask=rows < length, other=0.0)[:, None]
    dx = tl.zeros([BLOCK, S_PADDED], tl.float32)
    for first in range(0, length, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        s_columns = _head_rows(student, student_row, start, columns, length, head, S, S_PADDED)
        s = _logits2(s_rows, s_columns, S, UPCAST)
        t = _logits2(t_rows, _head_rows(teacher, teacher_row, start, columns, length, head, T, T_PADDED), T, UPCAST)
        s_lse_columns = tl.load(lse2_student + columns, mask=columns < length, other=0.0)[None, :]
        t_lse_columns = tl.load(lse2_teacher + columns, mask=columns < length, other=0.0)[None, :]
        difference = tl.exp2(s - s_lse) - tl.exp2(t - t_lse)  # before the product: each by itself would cancel there
        difference += tl.exp2(s - s_lse_columns) - tl.exp2(t - t_lse_columns)
        dx += _product(difference.to(s_columns.dtype), s_columns, UPCAST)
    dx *= 1.0 / (S**0.5 * tl.num_programs(1) * length)
    channels = tl.arange(0, S_PADDED)
    to = (start + rows).to(tl.int64)[:, None] * (tl.num_programs(1) * S) + head * S + channels[None, :]
    tl.store(gradient + to, dx.to(gradient.dtype.element_ty), mask=(rows < length)[:, None] & (channels < S)[None, :])
