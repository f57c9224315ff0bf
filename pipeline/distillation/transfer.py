"""The arithmetic that objectives share: errors and agreement of what was tapped, over real tokens alone.

Shapes: N flat positions, K real tokens, D and E student and teacher width, M masked positions, A relation heads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.layout import Layout
from pipeline.encoders.families import Shape, Tap

if TYPE_CHECKING:
    import torch

    from pipeline.distillation.output_kl import Head

Values = dict[str, "torch.Tensor"]
# Agreement is for watching: a few documents, a few positions say enough.
WATCHED_DOCUMENTS, WATCHED_POSITIONS = 4, 256


@dataclass(frozen=True)
class Pair:
    """The shapes of a student and its teacher, from which an objective works out its layers."""

    student: Shape
    teacher: Shape


@dataclass(frozen=True)
class MaskedPositions:
    """`data.layout.Masked` on the device, with what each position weighs: 1 / (masked positions of its document)."""

    positions_M: "torch.Tensor"
    labels_M: "torch.Tensor"
    weights_M: "torch.Tensor"


@dataclass(frozen=True)
class Seen:
    """One batch as student and teacher saw it: tapped tensors (N, width), the layout, and for masked text the
    positions and each side's masked-language-model head."""

    student: Mapping[Tap, "torch.Tensor"]
    teacher: Mapping[Tap, "torch.Tensor"]
    layout: Layout
    masked: MaskedPositions | None = None
    student_head: Any = None
    teacher_head: Any = None


def term_name(name: str, pair: tuple[int, int], *, among: Sequence[tuple[int, int]]) -> str:
    """`query`; with the layers where there are several pairs: `query_2_4`."""
    return name if len(among) == 1 else f"{name}_{pair[0]}_{pair[1]}"


def projections(pair: Pair, names: Sequence[str]) -> Any:
    """A learned map (D, E) for each name; nothing where the widths agree."""
    from torch import nn

    width, out = pair.student.width, pair.teacher.width
    return nn.ModuleDict({n: nn.Identity() if width == out else nn.Linear(width, out, bias=False) for n in names})


def square_error(seen: Seen, of: Tap, to: Tap, *, projection: Any) -> "torch.Tensor":
    """Sum over documents of the mean over their tokens and channels of (x W - y)^2."""
    import torch

    student_KD, teacher_KE, weights_K = _real(seen, of, to)
    with torch.autocast(student_KD.device.type, enabled=False):
        square_K: torch.Tensor = (projection(student_KD.float()) - teacher_KE.float()).square().mean(dim=1)
    return (square_K * weights_K).sum()


def cosine(seen: Seen, of: Tap, to: Tap, *, projection: Any) -> "torch.Tensor":
    """Sum over documents of the mean cosine of x W and y."""
    import torch

    student_KD, teacher_KE, weights_K = _real(seen, of, to)
    with torch.autocast(student_KD.device.type, enabled=False):
        cosine_K = torch.cosine_similarity(projection(student_KD.float()), teacher_KE.float(), dim=1)
    return (cosine_K * weights_K).sum()


def relation_agreement(seen: Seen, of: Tap, to: Tap, *, relation_heads: int) -> "torch.Tensor":
    """Sum over documents of the share of (token, relation head) whose strongest relation to another token is the same
    in both; extrapolated from the first documents of two tokens and more."""
    import torch

    layout = seen.layout
    watched = [b for b, length in enumerate(layout.lengths) if length > 1][:WATCHED_DOCUMENTS]
    shares = []
    for b in watched:
        rows = slice(layout.starts[b], layout.starts[b] + layout.lengths[b])
        strongest = [_strongest(x[rows].float(), relation_heads) for x in (seen.student[of], seen.teacher[to])]
        shares.append((strongest[0] == strongest[1]).float().mean())
    device = seen.student[of].device
    return torch.stack(shares).mean() * len(layout) if shares else torch.zeros((), device=device)


def _strongest(x_LD: "torch.Tensor", relation_heads: int) -> "torch.Tensor":
    import torch

    x_ALd = x_LD.reshape(len(x_LD), relation_heads, -1).transpose(0, 1)
    with torch.autocast(x_LD.device.type, enabled=False):
        logits_ALL = x_ALd @ x_ALd.transpose(1, 2)
    logits_ALL.diagonal(dim1=1, dim2=2).fill_(float("-inf"))
    return logits_ALL.argmax(dim=2)


def output_terms(seen: Seen, pair: Pair, *, temperature: float, likelihood: float) -> Values:
    """`output` (T^2 KL) and, if asked for, `mlm`: each a sum over documents of their masked positions' mean."""
    from pipeline.distillation.output_kl import Targets, output_loss

    student, teacher, masked = _heads(seen, pair)
    targets = Targets(masked.labels_M, masked.weights_M, temperature=temperature, likelihood=likelihood)
    total, mlm = output_loss(student, teacher, targets)
    # One gradient holds both: `total` carries it, and `mlm` is only told apart from it.
    return {"output": total - mlm, "mlm": mlm} if likelihood else {"output": total}


def output_agreement(seen: Seen, pair: Pair) -> "torch.Tensor":
    """Sum over documents of the share of masked positions where both guess the same token; extrapolated from the
    first."""
    student, teacher, _ = _heads(seen, pair)
    return (guesses(student) == guesses(teacher)).float().mean() * len(seen.layout)


def guesses(head: "Head") -> "torch.Tensor":
    """The likeliest token at the first masked positions: all of them times the vocabulary may not fit."""
    import torch

    hidden_MD = head.hidden_MD[:WATCHED_POSITIONS]
    with torch.autocast(hidden_MD.device.type, enabled=False):
        return (hidden_MD.float() @ head.weight_VD.T.float() + head.bias_V).argmax(dim=1)


def _heads(seen: Seen, pair: Pair) -> tuple["Head", "Head", MaskedPositions]:
    from pipeline.distillation.output_kl import Head

    assert seen.masked is not None, "an output objective reads masked text"
    heads = []
    for head, tapped, shape in (
        (seen.student_head, seen.student, pair.student),
        (seen.teacher_head, seen.teacher, pair.teacher),
    ):
        hidden_MD = tapped["hidden", shape.layers][seen.masked.positions_M]
        heads.append(Head(head.transform(hidden_MD), head.weight_VE, head.bias_V))
    return heads[0], heads[1], seen.masked


def _real(seen: Seen, of: Tap, to: Tap) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
    """The real tokens of both, and what each weighs: 1 / length of its document. What stands in padding is not read."""
    student_ND, teacher_NE, layout = seen.student[of], seen.teacher[to], seen.layout
    real_K, weights_K = _places(layout, student_ND.device)
    if real_K is None:
        return student_ND, teacher_NE, weights_K
    return student_ND[real_K], teacher_NE[real_K], weights_K


@lru_cache(maxsize=8)  # every term of a batch asks for the same
def _places(layout: Layout, device: "torch.device") -> tuple["torch.Tensor | None", "torch.Tensor"]:
    """Where the real tokens are (None: everywhere), and the weight of each."""
    from pipeline.encoders.attention import moved

    lengths_B = np.asarray(layout.lengths)
    weights_K = moved((1.0 / lengths_B).astype(np.float32).repeat(lengths_B), device)
    if layout.tokens == layout.positions:
        return None, weights_K
    places = [np.arange(start, start + length) for start, length in zip(layout.starts, layout.lengths, strict=True)]
    return moved(np.concatenate(places), device), weights_K
