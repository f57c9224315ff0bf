"""MiniLMv2 relation loss (2012.15828): one function, several implementations.

    device   where                            implementation
    cuda     Triton is installed              "triton"     gpu.py
    cpu      a C++ compiler is on the PATH    "compiled"   compiled.py, kernel.cpp
    any                                       "torch"      cpu.py

All equal `reference.relation_kl`, the plain fp64 loop. None stores B x A x L x L: the loss is the end of the graph, so
its gradient is formed with it, and only dX is kept for the backward pass.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

from pipeline.data.layout import Layout
from pipeline.distillation.relation_kl import compiled, cpu

__all__ = ["implementation", "relation_kl"]


def implementation(device: torch.device | str) -> str:
    """What computes the loss on this device: "triton", "compiled" or "torch". The first question may compile."""
    kind = torch.device(device).type
    if kind == "cuda" and find_spec("triton"):
        return "triton"
    return "compiled" if kind == "cpu" and compiled.available() else "torch"


@torch.compiler.disable  # type: ignore[untyped-decorator]  # one clean break in a compiled graph: there is nothing here for it to fuse
def relation_kl(
    student_ND: torch.Tensor, teacher_NE: torch.Tensor, *, layout: Layout, relation_heads: int
) -> torch.Tensor:
    """Sum over the layout's sequences of 1/(A*len) * sum KL(R_teacher || R_student), a scalar in fp32.

    N flat positions, D and E student and teacher width, both multiples of the A relation heads. The teacher gets no
    gradient; positions outside the layout are never read, and their gradient is 0. Statistics are fp32 whatever the
    inputs are; the gradient has the student's type.
    """
    _check(student_ND, teacher_NE, layout, relation_heads)
    loss: torch.Tensor = _RelationKL.apply(student_ND, teacher_NE.detach(), layout, relation_heads)  # type: ignore[no-untyped-call]
    return loss


def _check(student_ND: torch.Tensor, teacher_NE: torch.Tensor, layout: Layout, relation_heads: int) -> None:
    """What the kernels take for granted: they would read memory that is not theirs."""
    shapes = (tuple(student_ND.shape), tuple(teacher_NE.shape))
    if any(len(shape) != 2 or shape[0] != layout.positions or shape[1] % relation_heads for shape in shapes):
        raise ValueError(
            f"relation_kl: {relation_heads} relation heads and a layout of {layout.positions} positions do not fit "
            f"activations of shapes {shapes[0]} and {shapes[1]}; they are (positions, a multiple of the heads)"
        )
    if student_ND.device != teacher_NE.device:
        raise ValueError(f"relation_kl: the student is on {student_ND.device}, the teacher on {teacher_NE.device}")
    ends = (start + length for start, length in zip(layout.starts, layout.lengths, strict=True))
    assert min((*layout.starts, *(length - 1 for length in layout.lengths)), default=0) >= 0, "a layout of sequences"
    assert max(ends, default=0) <= layout.positions, "a layout that lies in its positions"


class _RelationKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student_ND: torch.Tensor, teacher_NE: torch.Tensor, layout: Layout, relation_heads: int
    ) -> torch.Tensor:
        compute = _value_and_gradient(implementation(student_ND.device))
        needed = ctx.needs_input_grad[0]  # where nothing is learned, the value alone costs half
        value, gradient_ND = compute(
            student_ND, teacher_NE, layout=layout, relation_heads=relation_heads, gradient=needed
        )
        ctx.save_for_backward(gradient_ND)
        return value

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        gradient_ND: torch.Tensor = ctx.saved_tensors[0]
        return gradient_ND * grad_outputs[0], None, None, None


def _value_and_gradient(name: str) -> Callable[..., tuple[torch.Tensor, torch.Tensor | None]]:
    if name == "triton":
        from pipeline.distillation.relation_kl.gpu import value_and_gradient  # only here: not everybody has Triton

        return value_and_gradient  # type: ignore[no-any-return, unused-ignore]
    return compiled.value_and_gradient if name == "compiled" else cpu.value_and_gradient
