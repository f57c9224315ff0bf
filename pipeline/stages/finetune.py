"""finetune: a model for the task from an encoder (teacher or student); leaves a model folder in the hub's format."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline.optimization import Optimization
from pipeline.precision import bf16_on
from pipeline.records import Record

if TYPE_CHECKING:
    from pipeline.graph import Inputs, Tools


class FinetuneConfig(Record):
    """How long and how; early stopping ends it after `patience` epochs without a better dev score."""

    epochs: int = Field(default=3, ge=1)
    patience: int = Field(default=2, ge=1)
    batch_tokens: int = Field(default=1024, ge=1)
    max_length: int = Field(default=128, ge=2, le=512)
    optimization: Optimization = Optimization(learning_rate=1e-4)
    seed: int = Field(default=0, ge=0)


def run(config: FinetuneConfig, inputs: "Inputs", out: Path, tools: "Tools") -> dict[str, Any]:
    """Train on the task's train split, keep the epoch that is best on dev, and save it with tokenizer and labels."""
    from pipeline.checkpoints import Checkpoints
    from pipeline.curves import save_curve
    from pipeline.encoders.students import parameters_of, save_encoder
    from pipeline.encoders.teachers import load_tokenizer
    from pipeline.finetuning import Schedule, finetune, load_for_task

    folder = inputs.model_folder("model", tools.cache)
    view = inputs.sources["task"]
    data = view.load(tools.cache, tools.progress)
    tokenizer = load_tokenizer(folder)
    tokenizer.model_max_length = config.max_length
    model = load_for_task(folder, view.task, data.label_names, seed=config.seed)
    schedule = Schedule(
        epochs=config.epochs,
        batch_tokens=config.batch_tokens,
        max_length=config.max_length,
        patience=config.patience,
        seed=config.seed,
    )
    outcome = finetune(
        model,
        tokenizer,
        view.task,
        data,
        schedule,
        config.optimization,
        checkpoints=Checkpoints(tools.checkpoints),
        reporter=tools.reporter,
        title=f"finetune {tools.label.removeprefix('finetune-')}",
    )
    save_curve(outcome.history, out, title="fine-tuning")
    save_encoder(model, tokenizer, out)
    return {
        "parameters": parameters_of(model),
        "precision": "bf16" if bf16_on("cpu") else "fp32",
        "metric": view.task.metric_name,
        "train_texts": len(data.train.items),
        "dev_texts": len(data.dev.items),
        "dev_scores": outcome.dev_scores,
        "best_epoch": outcome.best_epoch,
        "schedule": asdict(schedule),
    }
