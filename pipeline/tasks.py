"""EXTENSION POINT: what a model is fine-tuned for. A task is a record with `kind`, its labels, metric, loss and head;
its name goes into the union at the foot.

    kind: classification   one label of several; accuracy
    kind: regression       one number; Spearman's rank correlation
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt

from pipeline.data.digests import json_digest
from pipeline.data.docstring_sets import Split as SplitName
from pipeline.data.examples import Rows, count_overlap, cut_dev, read_rows, take
from pipeline.data.labels import class_values, in_order, label_index, number, shown
from pipeline.data.progress import Progress
from pipeline.data.sources import DataSource
from pipeline.errors import BadArtifact, BadRequest
from pipeline.records import Record
from serving.bundle import Item

if TYPE_CHECKING:
    import torch

# What may be looked at while choosing; the test split is read by who reports on it.
TUNING: tuple[SplitName, ...] = ("train", "dev")
ALL: tuple[SplitName, ...] = ("train", "dev", "test")


@dataclass(frozen=True)
class Split:
    """Items with their targets: label indices, or scores."""

    items: tuple[Item, ...]
    labels: tuple[int, ...] | tuple[float, ...]


@dataclass(frozen=True)
class TaskData:
    """The splits that were asked for; `overlap` counts test items whose text occurs in train (None: test not read)."""

    label_names: tuple[str, ...]
    splits: Mapping[SplitName, Split]
    overlap: int | None

    @property
    def train(self) -> Split:
        return self.splits["train"]

    @property
    def dev(self) -> Split:
        return self.splits["dev"]

    @property
    def test(self) -> Split:
        return self.splits["test"]


@dataclass(frozen=True)
class Head:
    """What the model's head has to be, in transformers' and optimum's terms."""

    num_outputs: int
    problem_type: Literal["single_label_classification", "regression"]
    optimum_task: Literal["text-classification"] = "text-classification"


class _Task(Record):
    """`text` is a column, or two for pairs; dev is cut from train (`dev_share`) where the data names none."""

    data: DataSource
    text: str | tuple[str, str] = "text"
    label: str = "label"
    dev_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    max_train: PositiveInt | None = None
    max_dev: PositiveInt | None = None
    max_test: PositiveInt | None = None

    @property
    @abstractmethod
    def metric_name(self) -> str:
        """The metric's name; more is better."""

    @abstractmethod
    def score(self, logits: Any, labels: Sequence[float]) -> float:
        """The metric of raw model outputs (N, outputs) against the targets."""

    @abstractmethod
    def head(self, label_names: Sequence[str]) -> Head:
        """The head that fits these labels."""

    @abstractmethod
    def loss(self, logits: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
        """The mean training loss of a batch of raw outputs."""

    @abstractmethod
    def _label_names(self, train: Rows) -> tuple[str, ...]: ...

    @abstractmethod
    def _targets(self, rows: Rows, names: tuple[str, ...]) -> tuple[int, ...] | tuple[float, ...]: ...

    @property
    def texts_per_item(self) -> int:
        """1, or 2 for pairs."""
        return len(self._columns())

    def identity(self, cache: Path, splits: Sequence[SplitName] = ALL) -> str:
        """sha256 of the settings and of the data that `load` of the same splits reads; fast, no heavy import."""
        unread = set() if "test" in splits else {"max_test"}
        settings = self.model_dump(mode="json", exclude={"data", *unread})
        return json_digest([settings, self.data.identity(cache, splits=self._needed(splits))])

    def load(self, cache: Path, progress: Progress, splits: Sequence[SplitName] = TUNING) -> TaskData:
        """The splits asked for; train is always read (it names the labels), test only on request."""
        if "test" in splits and not self.data.has("test"):
            raise BadRequest("the task's data names no test split, and this reports on it: add one")
        rows = self._read(self._needed(splits), cache=cache, progress=progress)
        names = self._label_names(rows["train"])
        if "dev" not in rows:
            rows["train"], rows["dev"] = cut_dev(rows["train"], share=self.dev_share)
        limits: dict[SplitName, int | None] = {"train": self.max_train, "dev": self.max_dev, "test": self.max_test}
        taken = {split: take(rows[split], limit=limits[split]) for split in ALL if split in splits}
        overlap = count_overlap(taken["test"], train=rows["train"]) if "test" in splits else None
        loaded = {split: Split(part.items, self._targets(part, names)) for split, part in taken.items()}
        return TaskData(label_names=names, splits=loaded, overlap=overlap)

    def _columns(self) -> tuple[str, ...]:
        return (self.text,) if isinstance(self.text, str) else self.text

    def _needed(self, splits: Sequence[SplitName]) -> tuple[SplitName, ...]:
        return tuple(split for split in ALL if split == "train" or (split in splits and self.data.has(split)))

    def _read(self, splits: Sequence[SplitName], *, cache: Path, progress: Progress) -> dict[SplitName, Rows]:
        tables = self.data.tables(splits, cache=cache, progress=progress)
        return {split: read_rows(t, text=self._columns(), label=self.label) for split, t in tables.items()}


class Classification(_Task):
    """`labels` names the classes in order (integer labels count from 0); by default they are what train holds."""

    kind: Literal["classification"] = "classification"
    labels: Annotated[tuple[str, ...], Field(min_length=2)] | None = None

    @property
    def metric_name(self) -> str:
        return "accuracy"

    def score(self, logits: Any, labels: Sequence[float]) -> float:
        import numpy as np
        from sklearn.metrics import accuracy_score

        return float(accuracy_score(np.asarray(labels), np.asarray(logits).argmax(axis=-1)))

    def head(self, label_names: Sequence[str]) -> Head:
        return Head(num_outputs=len(label_names), problem_type="single_label_classification")

    def loss(self, logits: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits.float(), labels.long())

    def _label_names(self, train: Rows) -> tuple[str, ...]:
        found = set(class_values(train))
        if len(found) < 2:
            raise BadArtifact(f"{train.where} holds one class only ({shown(found)}): a classifier needs two or more")
        if self.labels is not None:
            return self.labels
        return train.class_names or tuple(str(value) for value in in_order(found))

    def _targets(self, rows: Rows, names: tuple[str, ...]) -> tuple[int, ...]:
        coded = self.labels is not None or bool(rows.class_names)
        index = label_index(names, coded=coded)
        values = class_values(rows)
        if unknown := set(values) - index.keys():
            raise BadArtifact(
                f"{rows.where} has labels that are not among the task's: {shown(unknown)}; "
                f"the task's are {shown(names)} (from {'the config' if self.labels else 'train'})"
            )
        return tuple(index[value] for value in values)


class Regression(_Task):
    """`label` is a column of numbers."""

    kind: Literal["regression"] = "regression"

    @property
    def metric_name(self) -> str:
        return "spearman"

    def score(self, logits: Any, labels: Sequence[float]) -> float:
        """Outputs that are all equal rank nothing: 0."""
        import numpy as np
        from scipy.stats import spearmanr

        outputs_N = np.asarray(logits, dtype=np.float64).reshape(len(labels))
        return float(spearmanr(outputs_N, labels).statistic) if np.ptp(outputs_N) > 0 else 0.0

    def head(self, label_names: Sequence[str]) -> Head:  # noqa: ARG002
        return Head(num_outputs=1, problem_type="regression")

    def loss(self, logits: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
        from torch.nn.functional import mse_loss

        return mse_loss(logits.float().reshape(-1), labels.float())

    def _label_names(self, train: Rows) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    def _targets(self, rows: Rows, names: tuple[str, ...]) -> tuple[float, ...]:  # noqa: ARG002
        scores = tuple(number(value, place=f"{rows.where}, row {n}") for n, value in enumerate(rows.labels, start=1))
        if len(set(scores)) == 1:
            raise BadArtifact(f"{rows.where} has the score {scores[0]:g} in every row: there is nothing to rank")
        return scores


Task = Annotated[Classification | Regression, Field(discriminator="kind")]


@dataclass(frozen=True)
class TaskSplits:
    """A task reduced to the splits a stage may read: the reported split is not in reach of what chooses."""

    task: Classification | Regression
    splits: tuple[SplitName, ...]

    def identity(self, cache: Path) -> str:
        """Digest of the settings and of these splits' data."""
        return self.task.identity(cache, self.splits)

    def load(self, cache: Path, progress: Progress) -> TaskData:
        """These splits."""
        return self.task.load(cache, progress, self.splits)
