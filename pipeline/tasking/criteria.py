"""The losses of tasks and of task distillation: sums with what they are to be divided by, so that a batch may be
computed in parts. Shapes: B batch, C labels; `...` stands for B, or B and L."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

IGNORED = -100  # torch's own: a position without a target


@dataclass(frozen=True)
class Criterion:
    """`total(outputs, targets)` is a sum, `mass(targets)` what a whole batch's sum is divided by: never 0, a batch
    without a target has the sum 0."""

    total: "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]"
    mass: "Callable[[npt.NDArray[Any]], float]" = len


def balanced_weights(labels: Sequence[int], count: int) -> "npt.NDArray[np.float32]":
    """(C,): n / (C * n_c), as scikit-learn's `class_weight="balanced"`; a label that never occurs weighs nothing."""
    import numpy as np

    counts_C = np.bincount(labels, minlength=count)
    return np.where(counts_C > 0, len(labels) / (count * counts_C.clip(min=1)), 0.0).astype(np.float32)


def label_loss(*, weights: "npt.NDArray[np.float32] | None", smoothing: float) -> Criterion:
    """Cross entropy of logits (..., C) against label indices (...), over those that are not IGNORED; weighted, it is
    divided by their weights, as torch's own mean."""
    import torch
    from torch.nn.functional import cross_entropy

    weights_C = None if weights is None else torch.from_numpy(weights)

    def total(logits: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
        return cross_entropy(
            logits.float().reshape(-1, logits.shape[-1]),
            targets.reshape(-1),
            weight=weights_C,
            label_smoothing=smoothing,
            ignore_index=IGNORED,
            reduction="sum",
        )

    def mass(targets: "npt.NDArray[Any]") -> float:
        labelled = targets[targets != IGNORED]
        return float(len(labelled) if weights is None else weights[labelled].sum()) or 1.0

    return Criterion(total, mass)


def distribution_kl(of: "torch.Tensor", to: "torch.Tensor", *, temperature: float) -> "torch.Tensor":
    """t^2 KL(teacher || student) of softmax(logits / t), logits (..., C), summed (1503.02531, section 2: t^2 keeps the
    gradient's size)."""
    from torch.nn.functional import kl_div, log_softmax

    student, teacher = (log_softmax(each.float() / temperature, dim=-1) for each in (of, to))
    return kl_div(student, teacher, reduction="sum", log_target=True) * temperature**2


def bernoulli_kl(of: "torch.Tensor", to: "torch.Tensor", *, temperature: float) -> "torch.Tensor":
    """t^2 KL of sigmoid(logits / t), each of (B, C) a yes or no: mean over labels, sum over the batch."""
    from torch.nn.functional import logsigmoid

    student, teacher = of.float() / temperature, to.float() / temperature
    yes = teacher.sigmoid() * (logsigmoid(teacher) - logsigmoid(student))
    no = (-teacher).sigmoid() * (logsigmoid(-teacher) - logsigmoid(-student))
    return (yes + no).mean(dim=-1).sum() * temperature**2
