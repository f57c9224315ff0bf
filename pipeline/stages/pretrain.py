"""pretrain: masked language modelling (1810.04805), from scratch or continued; leaves a teacher with a
masked-language-model head in the hub's format."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from pipeline.encoders.families import Shape
from pipeline.encoders.students import StudentConfig
from pipeline.optimization import Optimization
from pipeline.passes import PassConfig
from pipeline.records import Record

if TYPE_CHECKING:
    from pipeline.graph import Inputs, Tools


class Continued(Record):
    """The teacher's own weights (and head, where it has one) go on: it is adapted to the text, or given a head."""

    kind: Literal["continued"] = "continued"

    def shape(self, teacher: Shape) -> Shape:
        """The teacher's."""
        return teacher


class FromScratch(Record):
    """Random weights; tokenizer and family are the teacher's, its size too where no other is given."""

    kind: Literal["scratch"] = "scratch"
    layers: int | None = Field(default=None, ge=1)
    width: int | None = Field(default=None, ge=1)
    heads: int | None = Field(default=None, ge=1)
    feed_forward: int | None = Field(default=None, ge=1)

    def student(self, teacher: Shape) -> StudentConfig:
        """As a student of the teacher's family that copies nothing."""
        given = self.model_dump(exclude={"kind", "layers"})
        if self.width is None and self.feed_forward is None:
            given["feed_forward"] = teacher.feed_forward
        return StudentConfig(layers=self.layers or teacher.layers, init="random", **given)

    def shape(self, teacher: Shape) -> Shape:
        """What will be trained."""
        return self.student(teacher).shape(teacher)


class PretrainConfig(PassConfig):
    """Where training starts, for how many real tokens, and what is hidden."""

    start: Annotated[Continued | FromScratch, Field(discriminator="kind")] = Continued()
    masked_share: float = Field(default=0.15, gt=0, lt=1)
    whole_words: bool = True
    optimization: Optimization = Optimization(learning_rate=3e-4)


def run(config: PretrainConfig, inputs: "Inputs", out: Path, tools: "Tools") -> dict[str, Any]:
    """Train on the text and save model and tokenizer; the loss curve goes to evidence/."""
    from pipeline import pretraining
    from pipeline.curves import save_curve
    from pipeline.encoders.students import parameters_of, save_encoder
    from pipeline.training_report import write_report

    folder = inputs.model_folder("teacher", tools.cache)
    started = time.monotonic()
    model, tokenizer, fresh = pretraining.starting_point(config, folder)
    rows = pretraining.pretrain(model, tokenizer, config, inputs.sources["text"], tools)
    facts = {
        "parameters": parameters_of(model),
        "head_was_drawn": fresh,
        "tokens": rows[-1]["tokens"],
        "steps": rows[-1]["step"],
        "final_loss": rows[-1]["loss"],
        "masked_accuracy": rows[-1]["agreement/accuracy"],
        "seconds": round(time.monotonic() - started, 1),
    }
    save_curve(rows, out, title="pretraining")
    write_report(rows, out, title="pretraining", facts=facts)
    save_encoder(model.to("cpu"), tokenizer, out, like=folder)
    return facts
