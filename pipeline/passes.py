"""A pass over unlabelled text: what distillation and pretraining have in common of their settings, and the feed of
batches that the settings ask for."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipeline.data.masking import Masking
from pipeline.encoders.families import family_of
from pipeline.errors import BadRequest
from pipeline.precision import Precision
from pipeline.records import Record

if TYPE_CHECKING:
    from pipeline.data.feed import Feed
    from pipeline.data.layout import TextBatch
    from pipeline.team import Team

Layout = Literal["auto", "padded", "packed"]


class PassConfig(Record):
    """How text becomes steps. A step is one micro-batch from each of `micro_batches` shards of the text, wherever they
    are computed: one process takes them one after the other, N processes side by side (N divides their number)."""

    tokens: int = Field(default=2_000_000, ge=1)
    batch_tokens: int = Field(default=2048, ge=1, description="positions of a micro-batch, padding counted")
    micro_batches: int = Field(default=1, ge=1)
    max_length: int = Field(default=128, ge=2)
    layout: Layout = Field(
        default="auto", description="padded: buckets of like lengths; packed: end to end; auto: packed on a GPU"
    )
    shuffle_tokens: int = Field(default=1_000_000, ge=1, description="tokens held in memory and shuffled together")
    precision: Precision = "auto"
    compiled: bool = Field(default=False, description="torch.compile the models: a minute first, then faster steps")
    seed: int = Field(default=0, ge=0)

    def check(self, section: str, model_type: str) -> None:
        """BadRequest for what can only fail, in the section of the config where it stands."""
        if self.max_length > self.batch_tokens:
            raise BadRequest(
                f"{section}.max_length is {self.max_length}, more than the {self.batch_tokens} of "
                f"{section}.batch_tokens; lower the one or raise the other"
            )
        if self.layout == "packed" and not family_of(model_type).sdpa:
            raise BadRequest(
                f"{section}.layout: packed, but documents of a {model_type} cannot be kept apart in one row (its "
                "attention is its own); set layout to padded"
            )
        if self.compiled and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            raise BadRequest(
                f"{section}.compiled: torch.compile needs a C++ compiler, and none (c++, g++, clang++) is on the PATH; "
                f"install one, or set {section}.compiled=false"
            )

    def packs(self, model_type: str, *, device: str) -> bool:
        """Whether documents lie end to end, on a device of this type."""
        able = family_of(model_type).sdpa
        return self.layout == "packed" or (self.layout == "auto" and able and device != "cpu")

    def feed(
        self,
        source: Any,
        tokenizer: Any,
        *,
        cache: Path,
        team: "Team",
        packed: bool,
        masking: Masking | None,
        weight: "Callable[[TextBatch], float] | None" = None,
    ) -> "Feed":
        """The steps of a pass over the corpus `source`, of which this process of the team gets its share."""
        from pipeline.data.feed import Feed
        from pipeline.data.progress import silent
        from pipeline.data.stream import Portion, TextStream

        portion = Portion(
            batch_tokens=self.batch_tokens,
            max_length=self.max_length,
            micro_batches=self.micro_batches,
            seed=self.seed,
            packed=packed,
            masking=replace(masking, seed=self.seed) if masking is not None else None,
            shuffle_tokens=self.shuffle_tokens,
        )

        def open_stream(position: Mapping[str, Any] | None) -> TextStream:
            return TextStream(
                lambda: source.texts(cache, silent),
                tokenizer,
                portion,
                rank=team.rank,
                world=team.size,
                position=position,
            )

        return Feed(open_stream, tokenizer=tokenizer, **({"weight": weight} if weight else {}))
