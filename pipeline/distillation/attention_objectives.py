"""The objectives that read Q, K and V of an attention layer: MiniLMv2's relations, and the vectors themselves."""

from typing import Any, Literal

from pydantic import Field

from pipeline.distillation import transfer
from pipeline.distillation.base import BaseObjective, Taps
from pipeline.distillation.layer_maps import LayerMap, pairs_of
from pipeline.distillation.transfer import Pair, Seen, Values
from pipeline.encoders.families import PROJECTIONS, Tap
from pipeline.errors import BadRequest
from pipeline.records import Record

Relation = Literal["query", "key", "value"]


class RelationWeights(Record):
    """alpha_Q, alpha_K and alpha_V; what has weight 0 costs nothing."""

    query: float = Field(default=1.0, ge=0)
    key: float = Field(default=1.0, ge=0)
    value: float = Field(default=1.0, ge=0)

    def used(self) -> tuple[Relation, ...]:
        """Those above 0."""
        return tuple(name for name in PROJECTIONS if getattr(self, name))


class _OfAttention(BaseObjective):
    """Shared by the two that read Q, K and V: which layers, which of the three."""

    mapping: LayerMap = "single"
    teacher_layer: int | None = Field(
        default=None, ge=1, description="1-based, for the mapping 'single'; the last when not given"
    )
    weights: RelationWeights = RelationWeights()

    def pairs(self, pair: Pair) -> tuple[tuple[int, int], ...]:
        """(student layer, teacher layer) of every transfer."""
        if self.teacher_layer is not None:
            return ((pair.student.layers, self.teacher_layer),)
        if self.mapping == "single":  # also for a student that is the deeper one
            return ((pair.student.layers, pair.teacher.layers),)
        return pairs_of(self.mapping, student_layers=pair.student.layers, teacher_layers=pair.teacher.layers)

    def check(self, pair: Pair) -> None:
        """BadRequest where the layer does not exist, is named twice over, or every weight is 0."""
        if not self.weights.used():
            raise BadRequest(
                "distill.objective.weights: query, key and value are all 0, so nothing would be learned; raise one, or "
                "set distill.objective={kind: none}"
            )
        if self.teacher_layer is not None and self.mapping != "single":
            raise BadRequest(
                f"distill.objective: teacher_layer {self.teacher_layer} is for the mapping 'single', and mapping is "
                f"{self.mapping!r}; give one of the two (pairs like [[3, 5]] name any layers)"
            )
        if (self.teacher_layer or 0) > pair.teacher.layers:
            raise BadRequest(
                f"distill.objective.teacher_layer: {self.teacher_layer}, but the teacher has {pair.teacher.layers} "
                "layers"
            )
        self.pairs(pair)

    def taps(self, pair: Pair) -> tuple[Taps, Taps]:
        names, pairs = self.weights.used(), self.pairs(pair)
        both = ((name, i) for i, _ in pairs for name in names), ((name, j) for _, j in pairs for name in names)
        return tuple(dict.fromkeys(both[0])), tuple(dict.fromkeys(both[1]))

    def _reads(self, pair: Pair) -> list[tuple[str, float, Tap, Tap]]:
        """(name of the term, weight, the student's tap, the teacher's) of everything compared."""
        pairs = self.pairs(pair)
        return [
            (transfer.term_name(name, (i, j), among=pairs), getattr(self.weights, name), (name, i), (name, j))
            for i, j in pairs
            for name in self.weights.used()
        ]


class RelationObjective(_OfAttention):
    """MHA: MiniLMv2 (2012.15828), KL of the Q-Q, K-K and V-V relations of a teacher layer to those of the student's."""

    kind: Literal["relation"] = "relation"
    relation_heads: int = Field(default=48, ge=1)

    def check(self, pair: Pair) -> None:
        """BadRequest also where the heads do not divide both widths."""
        widths = (pair.student.width, pair.teacher.width)
        if any(width % self.relation_heads for width in widths):
            fitting = ", ".join(str(n) for n in range(1, min(widths) + 1) if all(width % n == 0 for width in widths))
            raise BadRequest(
                f"distill.objective.relation_heads: {self.relation_heads} does not divide both the student's width "
                f"{widths[0]} and the teacher's {widths[1]}; these do: {fitting}"
            )
        super().check(pair)

    def loss(self, seen: Seen, *, pair: Pair, projections: Any) -> Values:  # noqa: ARG002
        """One term a relation, weighted."""
        from pipeline.distillation.relation_kl import relation_kl

        layout, heads = seen.layout, self.relation_heads
        return {
            name: weight * relation_kl(seen.student[of], seen.teacher[to], layout=layout, relation_heads=heads)
            for name, weight, of, to in self._reads(pair)
        }

    def agreement(self, seen: Seen, *, pair: Pair, projections: Any) -> Values:  # noqa: ARG002
        """How often a token's strongest relation to another token is the same in both."""
        return {
            name: transfer.relation_agreement(seen, of, to, relation_heads=self.relation_heads)
            for name, _, of, to in self._reads(pair)
        }


class DirectObjective(_OfAttention):
    """DirectMiniLM (in 2310.08797): MSE(X_S W_X, X_T) for X in Q, K, V; W_X is learned where widths differ."""

    kind: Literal["direct"] = "direct"

    def projections(self, pair: Pair) -> Any:
        return transfer.projections(pair, [name for name, *_ in self._reads(pair)])

    def loss(self, seen: Seen, *, pair: Pair, projections: Any) -> Values:
        """One term for each of Q, K, V, weighted."""
        return {
            name: weight * transfer.square_error(seen, of, to, projection=projections[name])
            for name, weight, of, to in self._reads(pair)
        }

    def agreement(self, seen: Seen, *, pair: Pair, projections: Any) -> Values:
        """Mean cosine of the projected vectors."""
        return {
            name: transfer.cosine(seen, of, to, projection=projections[name]) for name, _, of, to in self._reads(pair)
        }
