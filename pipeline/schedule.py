"""For how long, and in what portions, a model is fine-tuned."""

from pydantic import Field

from pipeline.precision import Precision
from pipeline.records import Record


class Schedule(Record):
    """At most `epochs` (0: an embedding as it is), each of batches of `batch_tokens` (padding counted) computed in
    `micro_batches` parts; ends after `patience` epochs without a better dev score."""

    epochs: int = Field(default=3, ge=0)
    patience: int = Field(default=2, ge=1)
    batch_tokens: int = Field(default=1024, ge=1)
    micro_batches: int = Field(default=1, ge=1)
    max_length: int = Field(default=128, ge=2, le=512)
    precision: Precision = "auto"
    seed: int = Field(default=0, ge=0)
