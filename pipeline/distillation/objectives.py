"""What a student learns from its teacher (EXTENSION POINT: a class with `kind`, `taps` and `loss`, its name in the
union at the foot).

An objective says which tensors it reads (`taps`, so that only these are computed), which parameters of its own it
trains (`projections`), and what the loss is: the sum over the batch's documents of a value per document, so that what
is padded, packed, accumulated or spread over processes changes nothing. `agreement` is what one likes to watch.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.data.masking import Masking
from pipeline.distillation import transfer
from pipeline.distillation.attention_objectives import DirectObjective, RelationObjective
from pipeline.distillation.base import BaseObjective, Taps
from pipeline.distillation.layer_maps import LayerMap, pairs_of
from pipeline.distillation.transfer import Pair, Seen, Values
from pipeline.encoders.families import Tap
from pipeline.errors import BadRequest
from pipeline.records import Record


class HiddenObjective(BaseObjective):
    """HS: hidden-state transfer (1909.10351), MSE(HS_i W_ij, HT_j) over real tokens, W_ij learned where widths
    differ."""

    kind: Literal["hidden"] = "hidden"
    mapping: LayerMap = "uniform"

    def check(self, pair: Pair) -> None:
        """BadRequest where the mapping cannot be made for these depths."""
        self._reads(pair)

    def taps(self, pair: Pair) -> tuple[Taps, Taps]:
        reads = self._reads(pair)
        return tuple(dict.fromkeys(of for _, of, _ in reads)), tuple(dict.fromkeys(to for _, _, to in reads))

    def projections(self, pair: Pair) -> Any:
        return transfer.projections(pair, [name for name, *_ in self._reads(pair)])

    def loss(self, seen: Seen, *, pair: Pair, projections: Any) -> Values:
        """One term a pair of layers."""
        return {
            name: transfer.square_error(seen, of, to, projection=projections[name])
            for name, of, to in self._reads(pair)
        }

    def agreement(self, seen: Seen, *, pair: Pair, projections: Any) -> Values:
        """Mean cosine of the projected hidden states."""
        return {name: transfer.cosine(seen, of, to, projection=projections[name]) for name, of, to in self._reads(pair)}

    def _reads(self, pair: Pair) -> list[tuple[str, Tap, Tap]]:
        layers = {"student_layers": pair.student.layers, "teacher_layers": pair.teacher.layers}
        pairs = pairs_of(self.mapping, **layers)
        return [(transfer.term_name("hidden", (i, j), among=pairs), ("hidden", i), ("hidden", j)) for i, j in pairs]


class OutputObjective(BaseObjective):
    """OD: output-distribution transfer (1910.01108), T^2 KL of the vocabulary distributions at masked positions,
    optionally with the masked-language-modelling loss."""

    kind: Literal["output"] = "output"
    temperature: float = Field(default=2.0, gt=0)
    mlm_weight: float = Field(default=0.0, ge=0)
    masked_share: float = Field(default=0.15, gt=0, lt=1)
    whole_words: bool = False

    def taps(self, pair: Pair) -> tuple[Taps, Taps]:
        return (("hidden", pair.student.layers),), (("hidden", pair.teacher.layers),)

    @property
    def masking(self) -> Masking | None:
        return Masking(share=self.masked_share, whole_word=self.whole_words)

    def loss(self, seen: Seen, *, pair: Pair, projections: Any) -> Values:  # noqa: ARG002
        """Per document the mean over its masked positions."""
        return transfer.output_terms(seen, pair, temperature=self.temperature, likelihood=self.mlm_weight)

    def agreement(self, seen: Seen, *, pair: Pair, projections: Any) -> Values:  # noqa: ARG002
        """How often both guess the same token."""
        return {"output": transfer.output_agreement(seen, pair)}


class WeightedTerm(Record):
    """One objective of a sum and its weight."""

    weight: float = Field(default=1.0, gt=0)
    objective: "Single"


class SumObjective(BaseObjective):
    """A weighted sum of objectives on one pass, every term logged by itself."""

    kind: Literal["sum"] = "sum"
    terms: Annotated[tuple[WeightedTerm, ...], Field(min_length=1)]

    def check(self, pair: Pair) -> None:
        """BadRequest where a part cannot work, or two parts mask the text in two ways."""
        for part in self._parts().values():
            part.objective.check(pair)
        masked = {part.objective.masking for part in self._parts().values()} - {None}
        if len(masked) > 1:
            raise BadRequest(
                "distill.objective.terms: its output objectives mask the text in different ways, and one pass reads it "
                "in one way; give them the same masked_share and whole_words"
            )

    def taps(self, pair: Pair) -> tuple[Taps, Taps]:
        both = [part.objective.taps(pair) for part in self._parts().values()]
        return tuple(dict.fromkeys(t for s, _ in both for t in s)), tuple(
            dict.fromkeys(t for _, ts in both for t in ts)
        )

    def projections(self, pair: Pair) -> Any:
        from torch import nn

        return nn.ModuleDict({name: part.objective.projections(pair) for name, part in self._parts().items()})

    @property
    def masking(self) -> Masking | None:
        return next((m for part in self._parts().values() if (m := part.objective.masking)), None)

    def loss(self, seen: Seen, *, pair: Pair, projections: Any) -> Values:
        """Each part's terms times its weight, under its name."""
        return {
            f"{name}/{term}": part.weight * value
            for name, part in self._parts().items()
            for term, value in part.objective.loss(seen, pair=pair, projections=projections[name]).items()
        }

    def agreement(self, seen: Seen, *, pair: Pair, projections: Any) -> Values:
        return {
            f"{name}/{measure}": value
            for name, part in self._parts().items()
            for measure, value in part.objective.agreement(seen, pair=pair, projections=projections[name]).items()
        }

    def _parts(self) -> dict[str, WeightedTerm]:
        """By kind, numbered where a kind occurs twice."""
        kinds = [term.objective.kind for term in self.terms]
        names = [
            kind if kinds.count(kind) == 1 else f"{kind}{kinds[: n + 1].count(kind)}" for n, kind in enumerate(kinds)
        ]
        return dict(zip(names, self.terms, strict=True))


class NoObjective(BaseObjective):
    """No distillation: the student keeps its initialisation. The baseline a distilled student is compared with."""

    kind: Literal["none"] = "none"


Single = Annotated[RelationObjective | HiddenObjective | DirectObjective | OutputObjective, Field(discriminator="kind")]
Training = RelationObjective | HiddenObjective | DirectObjective | OutputObjective | SumObjective
Objective = Annotated[Training | NoObjective, Field(discriminator="kind")]
WeightedTerm.model_rebuild()
SumObjective.model_rebuild()
