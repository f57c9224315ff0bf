"""How much faster a model is fine-tuned here than by `transformers.Trainer`.

    python -m benchmarks.finetune_bench [CONFIG] [--set a.b=c ...] [--texts 3200] [--blocks 5] [--out FILE.json]

texts_per_s_P   texts per second of fine-tuning the config's teacher on its task's train split, in precision P, the same
                on both sides. The Trainer takes batches of 32 texts, each padded to its longest; ours hold 32 texts on
                average, of like lengths, and its look at dev (64 texts here) is counted. Both start with the same
                weights, run the same texts with AdamW, and read text that was tokenized before.

Sides take turns (A B A B) after a round that warms up; a figure is the ratio of medians. The last line is JSON.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.scoreboard import Figure, Notes, more_is_better
from pipeline.build import git_state
from pipeline.checkpoints import Checkpoints
from pipeline.config import RunConfig, load_config
from pipeline.data.batches import length_batches
from pipeline.data.progress import silent
from pipeline.encoders.heads import load_for_task
from pipeline.encoders.teachers import load_tokenizer
from pipeline.finetuning import finetune
from pipeline.precision import Precision, bf16_on
from pipeline.predicting import seen_by
from pipeline.progress import Console, Silent
from pipeline.schedule import Schedule
from pipeline.tasking.base import Split, TaskData
from pipeline.tasks import AnyTask
from pipeline.workspace import Workspace

BATCH, DEV = 32, 64
AT_LEAST = 1.3


class Race:
    """One teacher, one set of tokenized texts, and both ways to train on them once."""

    def __init__(self, config: RunConfig, data: TaskData, *, folder: Path) -> None:
        self.config, self.data, self.folder = config, data, folder
        self.task: AnyTask = config.task
        self.tokenizer = load_tokenizer(folder)
        length = config.finetune.max_length
        self.train, self.dev = (
            seen_by(self.task, part, self.tokenizer, max_length=length) for part in (data.train, data.dev)
        )
        self.batch_tokens = budget_for(self.train.tokens.lengths.tolist(), texts=BATCH)

    def model(self) -> Any:
        """The teacher with a fresh head, the same each time."""
        return load_for_task(self.folder, self.task, self.data.label_names, seed=0)

    def ours(self, precision: Precision) -> float:
        """Seconds of one epoch."""
        model, optimization = self.model(), self.config.finetune.optimization
        schedule = Schedule(
            epochs=1, batch_tokens=self.batch_tokens, max_length=self.config.finetune.max_length, precision=precision
        )
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            finetune(
                model,
                self.data,
                train=self.train,
                dev=self.dev,
                pad_id=self.tokenizer.pad_token_id,
                schedule=schedule,
                optimization=optimization,
                checkpoints=Checkpoints(Path(folder)),
                reporter=Silent(),
                title="",
            )
            return time.perf_counter() - start

    def trainers(self, precision: Precision) -> float:
        """Seconds of one epoch of transformers.Trainer."""
        from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

        optimization = self.config.finetune.optimization
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                num_train_epochs=1,
                per_device_train_batch_size=BATCH,
                learning_rate=optimization.learning_rate,
                weight_decay=optimization.weight_decay,
                optim="adamw_torch_fused",
                bf16=precision == "bf16",
                use_cpu=True,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=0,
            )
            collator = DataCollatorWithPadding(self.tokenizer)
            trainer = Trainer(self.model(), arguments, data_collator=collator, train_dataset=self._rows())
            start = time.perf_counter()
            trainer.train()
            return time.perf_counter() - start

    def _rows(self) -> Any:
        """The same tokens as a list of rows."""
        tokens, labels = self.train.tokens, self.data.train.labels
        return [
            {
                "input_ids": tokens.ids(row).tolist(),
                "token_type_ids": tokens.type_ids(row).tolist(),
                "attention_mask": [1] * len(tokens.ids(row)),
                "labels": labels[row],
            }
            for row in range(len(tokens))
        ]


def budget_for(lengths: Sequence[int], *, texts: int) -> int:
    """The token budget whose batches hold `texts` texts on average, as nearly as bisection finds it."""
    low, high = max(lengths), max(lengths) * texts
    while low < high:
        middle = (low + high) // 2
        batches = length_batches(lengths, token_budget=middle, seed=0, epoch=0)
        low, high = (low, middle) if len(lengths) / len(batches) >= texts else (middle + 1, high)
    return low


def measure(race: Race, precisions: Sequence[Precision], *, blocks: int, notes: Notes) -> Iterator[Figure]:
    """A figure for each precision, with a bar."""
    texts = len(race.train.tokens)
    with Console().bar("fine-tuning", total=2 * (1 + blocks) * len(precisions), unit="timings") as bar:
        for precision in precisions:
            sides: dict[str, Callable[[Precision], float]] = {"trainer": race.trainers, "ours": race.ours}
            seconds: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(1 + blocks):
                for name, run in sides.items():
                    seconds[name].append(run(precision))
                    bar.advance()
            notes.raw[precision] = seconds
            rates = {name: texts / median(each[1:]) for name, each in seconds.items()}
            yield more_is_better(
                f"texts_per_s_{precision}",
                f"fine-tuning in {precision}",
                baseline=rates["trainer"],
                ours=rates["ours"],
                unit="texts/s",
                at_least=AT_LEAST,
            )


def first(split: Split, count: int) -> Split:
    """The split's first items."""
    return Split(split.items[:count], split.labels[:count])


def main() -> None:
    """Measure, write, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, nargs="?", default=Path("configs/sst2-minilm.yaml"))
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="A.B=VALUE")
    parser.add_argument("--texts", type=int, default=3200)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--workspace", type=Path, default=Path(".retort"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/finetune.json"))
    asked, notes = parser.parse_args(), Notes()
    config, place = load_config(asked.config, asked.settings), Workspace.open(asked.workspace)
    if config.task.kind not in ("classification", "regression"):
        parser.error(f"the Trainer's side is written for classification and regression, not for {config.task.kind}")
    loaded = config.task.load(place.cache, silent)
    splits = {"train": first(loaded.train, asked.texts), "dev": first(loaded.dev, DEV)}
    data = TaskData(loaded.label_names, {"train": splits["train"], "dev": splits["dev"]}, overlap=None)
    race = Race(config, data, folder=config.teacher.folder(place.cache))
    precisions: tuple[Precision, ...] = ("fp32", "bf16") if bf16_on("cpu") else ("fp32",)
    figures = list(measure(race, precisions, blocks=asked.blocks, notes=notes))
    facts = {"git": git_state(), "config": config.model_dump(mode="json"), "threads": torch.get_num_threads()}
    lengths = race.train.tokens.lengths
    facts |= {"texts": len(lengths), "tokens": int(lengths.sum()), "batch_tokens": race.batch_tokens}
    title = f"Fine-tuning {config.teacher.source}, {BATCH} texts a batch; the baseline is transformers.Trainer"
    notes.publish(figures, facts, title=title, out=asked.out)


if __name__ == "__main__":
    main()
