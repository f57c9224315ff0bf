"""What every objective has."""

from typing import Any

from pipeline.data.masking import Masking
from pipeline.distillation.transfer import Pair
from pipeline.encoders.families import Tap
from pipeline.records import Record

Taps = tuple[Tap, ...]


class BaseObjective(Record):
    """What every objective has; most have no projections, read no masked text, and need no head."""

    def check(self, pair: Pair) -> None:
        """BadRequest where this student and this teacher cannot be compared."""

    def taps(self, pair: Pair) -> tuple[Taps, Taps]:  # noqa: ARG002
        """What is read of the student and of the teacher."""
        return (), ()

    def projections(self, pair: Pair) -> Any:  # noqa: ARG002
        """A ModuleDict of what is trained beside the student and dropped when it is saved."""
        from torch import nn

        return nn.ModuleDict()

    @property
    def masking(self) -> Masking | None:
        """How the text is masked; None where it is read as it is."""
        return None
