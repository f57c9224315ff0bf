"""What a student learns from its teacher (EXTENSION POINT: a class with `kind`, `taps` and `loss`, its name in the
union at the foot).

An objective says which tensors it reads (`taps`, so that only these are computed), which parameters of its own it
trains (`projections`), and what the loss is. Shapes: B batch, L tokens, D student width, E teacher width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from pipeline.distillation.layer_maps import teacher_layers_of
from pipeline.encoders.families import PROJECTIONS, Shape, Tap
from pipeline.errors import BadRequest
from pipeline.records import Record

if TYPE_CHECKING:
    import torch

    Taps = dict[Tap, torch.Tensor]


@dataclass(frozen=True)
class Pair:
    """The shapes of a student and its teacher, from which an objective works out its layers."""

    student: Shape
    teacher: Shape


class RelationWeights(Record):
    """alpha_Q, alpha_K and alpha_V; a relation of weight 0 costs nothing."""

    query: float = Field(default=1.0, ge=0)
    key: float = Field(default=1.0, ge=0)
    value: float = Field(default=1.0, ge=0)


class RelationObjective(Record):
    """MiniLMv2 (2012.15828): KL of the Q-Q, K-K and V-V relations of one teacher layer to the student's last."""

    kind: Literal["relation"] = "relation"
    relation_heads: int = Field(default=48, ge=1)
    teacher_layer: int | None = Field(default=None, ge=1, description="1-based; the last when not given")
    weights: RelationWeights = RelationWeights()

    def check(self, pair: Pair) -> None:
        """BadRequest where the heads do not divide both widths, the layer does not exist, or every weight is 0."""
        widths = (pair.student.width, pair.teacher.width)
        if any(width % self.relation_heads for width in widths):
            fitting = ", ".join(str(n) for n in range(1, min(widths) + 1) if all(width % n == 0 for width in widths))
            raise BadRequest(
                f"distill.objective.relation_heads: {self.relation_heads} does not divide both the student's width "
                f"{widths[0]} and the teacher's {widths[1]}; these do: {fitting}"
            )
        if not self._relations():
            raise BadRequest(
                "distill.objective.weights: query, key and value are all 0, so nothing would be learned; raise one, or "
                "set distill.objective={kind: none}"
            )
        if self._layer(pair) > pair.teacher.layers:
            raise BadRequest(
                f"distill.objective.teacher_layer: {self.teacher_layer}, but the teacher has {pair.teacher.layers} "
                "layers"
            )

    def taps(self, pair: Pair) -> tuple[tuple[Tap, ...], tuple[Tap, ...]]:
        """What is read of the student and of the teacher."""
        names, layer = self._relations(), self._layer(pair)
        return tuple((name, pair.student.layers) for name in names), tuple((name, layer) for name in names)

    def projections(self, pair: Pair) -> "torch.nn.Module":  # noqa: ARG002
        """Relations need none: widths need not agree."""
        from torch import nn

        return nn.ModuleDict()

    def loss(
        self,
        student: "Taps",
        teacher: "Taps",
        *,
        pair: Pair,
        lengths: Sequence[int],
        projections: Any,  # noqa: ARG002
    ) -> "dict[str, torch.Tensor]":
        """One term a relation, weighted; padding enters nowhere."""
        from pipeline.distillation.relation_kl import relation_kl

        layer = self._layer(pair)
        return {
            name: getattr(self.weights, name)
            * relation_kl(
                student[name, pair.student.layers],
                teacher[name, layer],
                lengths=lengths,
                relation_heads=self.relation_heads,
            )
            for name in self._relations()
        }

    def _relations(self) -> tuple[Literal["query", "key", "value"], ...]:
        return tuple(name for name in PROJECTIONS if getattr(self.weights, name))

    def _layer(self, pair: Pair) -> int:
        return self.teacher_layer or pair.teacher.layers


class HiddenObjective(Record):
    """Hidden-state transfer (1909.10351): MSE(HS_i W_i, HT_j) over real tokens, a learned W for each pair where
    widths differ."""

    kind: Literal["hidden"] = "hidden"
    mapping: Literal["uniform", "last"] = "uniform"

    def check(self, pair: Pair) -> None:
        """BadRequest where the student is deeper than the teacher."""
        self._sources(pair)

    def taps(self, pair: Pair) -> tuple[tuple[Tap, ...], tuple[Tap, ...]]:
        """What is read of the student and of the teacher."""
        sources = self._sources(pair)
        return tuple(("hidden", i) for i in range(1, len(sources) + 1)), tuple(("hidden", j) for j in sources)

    def projections(self, pair: Pair) -> "torch.nn.Module":
        """W_i for every student layer; identity where the widths agree. Dropped when the student is saved."""
        from torch import nn

        same = pair.student.width == pair.teacher.width
        width, out = pair.student.width, pair.teacher.width
        layers = range(1, pair.student.layers + 1)
        return nn.ModuleDict({str(i): nn.Identity() if same else nn.Linear(width, out, bias=False) for i in layers})

    def loss(
        self, student: "Taps", teacher: "Taps", *, pair: Pair, lengths: Sequence[int], projections: Any
    ) -> "dict[str, torch.Tensor]":
        """One term a student layer: per sequence the mean over its real tokens and channels, then the mean over
        sequences."""
        return {
            f"hidden_{i}": _masked_mse(projections[str(i)](student["hidden", i]), teacher["hidden", j], lengths)
            for i, j in enumerate(self._sources(pair), start=1)
        }

    def _sources(self, pair: Pair) -> tuple[int, ...]:
        return teacher_layers_of(self.mapping, student_layers=pair.student.layers, teacher_layers=pair.teacher.layers)


class NoObjective(Record):
    """No distillation: the student keeps its initialisation. The baseline a distilled student is compared with."""

    kind: Literal["none"] = "none"

    def check(self, pair: Pair) -> None:
        """Nothing can be wrong."""


def _masked_mse(student_BLE: "torch.Tensor", teacher_BLE: "torch.Tensor", lengths: Sequence[int]) -> "torch.Tensor":
    import torch

    length_B = torch.tensor(lengths, device=student_BLE.device)
    real_BL = torch.arange(student_BLE.shape[1], device=student_BLE.device) < length_B[:, None]
    square_BL = (student_BLE.float() - teacher_BLE.float()).square().mean(dim=2)
    return ((square_BL * real_BL).sum(dim=1) / length_B).mean()


Objective = Annotated[RelationObjective | HiddenObjective | NoObjective, Field(discriminator="kind")]
