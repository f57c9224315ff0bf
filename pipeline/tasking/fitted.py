"""What fine-tuning leaves beside the weights, and a bundle carries on."""

from pathlib import Path

import msgspec

from pipeline.errors import BadArtifact
from serving.bundle import Aggregation, ServingSpec, TaskKind

FITTED = "task.json"


class Fitted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What fine-tuning leaves beside the weights (`task.json`) and a bundle carries on: label names in the order of
    the outputs, and what was chosen on dev."""

    kind: TaskKind
    labels: tuple[str, ...] = ()
    thresholds: tuple[float, ...] = ()
    refuse_below: float | None = None
    dimensions: int | None = None
    aggregation: Aggregation = "first"

    def write(self, folder: Path) -> None:
        """Leave it in a model folder."""
        (folder / FITTED).write_bytes(msgspec.json.format(msgspec.json.encode(self)))


def read_fitted(folder: Path) -> Fitted:
    """What fine-tuning left in a model folder; BadArtifact where it left nothing that can be read."""
    try:
        return msgspec.json.decode((folder / FITTED).read_bytes(), type=Fitted)
    except (OSError, msgspec.MsgspecError) as error:
        raise BadArtifact(f"{folder / FITTED} does not say what the model was fine-tuned for: {error}") from error


def fitted_of(spec: ServingSpec) -> Fitted:
    """What a bundle carries on of it."""
    return Fitted(
        kind=spec.task,
        labels=spec.labels,
        thresholds=spec.thresholds,
        refuse_below=spec.refuse_below,
        dimensions=spec.dimensions,
        aggregation=spec.aggregation,
    )
