"""`export.long_texts`: what becomes of a text of more tokens than its model reads, in a run's YAML.

As `serving.long_texts`, which a bundle carries: what is measured is what is served. A model learns from texts cut at
`finetune.max_length`, whatever is said here.
"""

from typing import Annotated, Literal

import msgspec
from pydantic import Field

from pipeline.records import Record
from serving import long_texts


class Truncate(Record):
    """It is cut at its end; of a pair the longer text first."""

    kind: Literal["truncate"] = "truncate"


class Refuse(Record):
    """The server refuses it; none may be among the texts that are answered to be judged."""

    kind: Literal["refuse"] = "refuse"


class Windows(Record):
    """It is computed as windows of which neighbours share `stride` tokens; refused where it has more than
    `max_windows`."""

    kind: Literal["windows"] = "windows"
    stride: int = Field(default=64, ge=0)
    max_windows: int = Field(default=32, ge=1)


LongTexts = Annotated[Truncate | Refuse | Windows, Field(discriminator="kind")]


def served(asked: Truncate | Refuse | Windows) -> long_texts.LongTexts:
    """As serving.yaml has it."""
    told: long_texts.LongTexts = msgspec.convert(asked.model_dump(), type=long_texts.LongTexts)
    return told
