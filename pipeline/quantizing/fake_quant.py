"""A Linear computed on the grid of the graph that will be exported, with gradients straight through the rounding.

Weights are int8, symmetric, one scale an output channel, found anew from the weights at each forward; inputs are uint8,
asymmetric, one range a tensor. Forward gives the very floats that onnxruntime's QuantizeLinear and DequantizeLinear
give with the scales of products.py. Shapes: I input channels; `...` stands for any.
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from pipeline.quantizing.origins import Origins

INPUT_STEPS: Final = 255
TABLE_BITS: Final = 8
# A range learns its logarithm at this many times the rate of the weights: at 2e-5 it moves by 0.2 % a step at most.
GAIN: Final = 100.0


class _InputOnGrid(torch.autograd.Function):
    """x onto the grid of a range. Gradients (1902.08153, equation 3, for both ends): straight to x inside, to the end
    that cuts x off outside, and to both ends by what rounding leaves."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
        scale, zero = input_grid(lowest, highest)
        steps = x / scale
        ctx.save_for_backward(steps, zero)
        return steps.round().add_(zero).clamp_(0, INPUT_STEPS).sub_(zero).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (gradient,) = gradients
        steps, zero = ctx.saved_tensors
        rounded = steps.round()
        below, above = rounded < -zero, rounded > INPUT_STEPS - zero
        inside = gradient.masked_fill(below | above, 0.0)
        bent = (inside * rounded.sub_(steps)).sum() / INPUT_STEPS
        return inside, (gradient * below).sum() - bent, (gradient * above).sum() + bent


class _WeightOnGrid(torch.autograd.Function):
    """Weights (..., I) onto their grid, row by row; nothing is cut off, so the gradient passes as it is."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: int) -> Tensor:  # noqa: ARG004
        scale = weight_scales(weight, bits=bits)
        return (weight / scale).round_().mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradients[0], None


def input_grid(lowest: Tensor, highest: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point (both fp32) of a range around 0: products.scale_and_zero's, computed in fp64 as there."""
    scale = (highest.double() - lowest.double()) / INPUT_STEPS
    scale = torch.where(scale == 0, 1.0, scale)
    return scale.float(), (-lowest.double() / scale).round().clamp(0, INPUT_STEPS).float()


def weight_scales(weight: Tensor, *, bits: int) -> Tensor:
    """(..., 1): each row's largest weight over the steps on one side, 1 where all are 0: products.int8_columns'."""
    scale = weight.detach().abs().amax(dim=-1, keepdim=True) / (2 ** (bits - 1) - 1)
    return torch.where(scale == 0, 1.0, scale)


def weight_on_grid(weight: Tensor, *, bits: int) -> Tensor:
    """(..., I) on the grid of its own rows."""
    rows: Tensor = _WeightOnGrid.apply(weight, bits)  # type: ignore[no-untyped-call]
    return rows


class InputRange(nn.Module):
    """The range of one tensor: what calibration found, 0 included, with both ends stretched by learned factors."""

    calibrated: Tensor

    def __init__(self, lowest: float, highest: float) -> None:
        super().__init__()
        self.register_buffer("calibrated", torch.tensor([min(lowest, 0.0), max(highest, 0.0)]))
        self.stretch = nn.Parameter(torch.zeros(2))

    def ends(self) -> Tensor:
        """(2,): lowest and highest."""
        return self.calibrated * (self.stretch * GAIN).exp()

    def forward(self, x: Tensor) -> Tensor:
        lowest, highest = self.ends()
        found: Tensor = _InputOnGrid.apply(x.float(), lowest, highest)  # type: ignore[no-untyped-call]
        return found


class FakeQuantLinear(nn.Linear):
    """A Linear over a quantized input with quantized weights; the bias stays as it is. Takes the parameters of the one
    whose place it takes."""

    def __init__(self, linear: nn.Linear, reads: InputRange, *, bits: int) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.reads, self.bits = reads, bits

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return nn.functional.linear(self.reads(input), weight_on_grid(self.weight, bits=self.bits), self.bias)


class FakeQuantEmbedding(nn.Embedding):
    """An Embedding of 8 bits, a scale a row; only the rows that are looked up are computed."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__(table.num_embeddings, table.embedding_dim, padding_idx=table.padding_idx, device="meta")
        self.weight = table.weight

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return weight_on_grid(super().forward(input), bits=TABLE_BITS)


def insert(model: nn.Module, origins: Origins, ranges: Mapping[str, tuple[float, float]], *, bits: int) -> None:
    """Put the Linears and the tables on the grid of the graph, weights of `bits`; Linears that read one tensor
    share its range."""
    shared = {tensor: InputRange(*ends) for tensor, ends in ranges.items()}
    for name, tensor in origins.reads.items():
        linear: Any = model.get_submodule(name)
        model.set_submodule(name, FakeQuantLinear(linear, shared[tensor], bits=bits))
    for name in origins.tables:
        table: Any = model.get_submodule(name)
        model.set_submodule(name, FakeQuantEmbedding(table))


def ranges_of(model: nn.Module) -> dict[str, tuple[float, float]]:
    """The range that each Linear on the grid reads, by its name."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, FakeQuantLinear):
            lowest, highest = module.reads.ends().tolist()
            found[name] = (lowest, highest)
    return found


def float_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights as a model without the grid takes them."""
    grid = {f"{name}.reads" for name, module in model.named_modules() if isinstance(module, FakeQuantLinear)}
    return {name: value for name, value in model.state_dict().items() if name.rpartition(".")[0] not in grid}


def without_dropout(model: nn.Module) -> nn.Module:
    """The model without dropout: the grid is noise enough, and the teacher has none."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model
