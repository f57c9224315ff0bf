"""What every task has: splits read and checked, a head, a loss, what is fitted on dev, and what is judged.

Shapes: N items, B batch, L tokens, C outputs (labels, 1, or a vector's dimensions), W words.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from pipeline.data.digests import json_digest
from pipeline.data.docstring_sets import Split as SplitName
from pipeline.data.examples import Rows, count_overlap, cut_dev, read_rows, take
from pipeline.data.labels import refuse_unseen
from pipeline.data.progress import Progress
from pipeline.data.sources import DataSource
from pipeline.errors import BadRequest
from pipeline.records import Record
from pipeline.tasking.fitted import Fitted
from serving.bundle import Item

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from pipeline.tasking.criteria import Criterion

    Floats = npt.NDArray[np.float32]
    Outputs = Sequence[Floats]

# What may be looked at while choosing; the test split is read by who reports on it.
TUNING: tuple[SplitName, ...] = ("train", "dev")
ALL: tuple[SplitName, ...] = ("train", "dev", "test")
OptimumTask = Literal["text-classification", "token-classification", "feature-extraction"]


@dataclass(frozen=True)
class Split:
    """Items with their targets: label indices, rows of 0 and 1, scores, or taggings; for an embedding the scores of
    pairs, items 2n and 2n + 1 being pair n."""

    items: tuple[Item, ...]
    labels: tuple[Any, ...]


@dataclass(frozen=True)
class TaskData:
    """The splits that were asked for; `overlap` counts test items whose text occurs in train (None: test not read),
    `outside` are test items that no label fits."""

    label_names: tuple[str, ...]
    splits: Mapping[SplitName, Split]
    overlap: int | None
    outside: tuple[Item, ...] = ()

    @property
    def train(self) -> Split:
        return self.splits["train"]

    @property
    def dev(self) -> Split:
        return self.splits["dev"]

    @property
    def test(self) -> Split:
        return self.splits["test"]

    @property
    def reported(self) -> tuple[Item, ...]:
        """The items a report is made from: those of test, then those outside."""
        return (*self.test.items, *self.outside)


@dataclass(frozen=True)
class Head:
    """What the model's head has to be, in transformers' and optimum's terms, and what the graph calls its output;
    `num_outputs` 0: no head."""

    num_outputs: int
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] | None
    optimum_task: OptimumTask = "text-classification"
    output: str = "logits"


@dataclass(frozen=True)
class Judged:
    """One figure to report: a metric of quality.py, answers, and what would have been right."""

    metric: str
    answers: Any
    labels: Any


Places = Sequence["npt.NDArray[np.int64]"]
"""For tagging: each item's words as sub-tokens [first, end), (W, 2); -1 and -1 where a word has none."""


class BaseTask(Record):
    """`text` is a column, or two for pairs; dev is cut from train (`dev_share`) where the data names none."""

    data: DataSource
    text: str | tuple[str, str] = "text"
    label: str = "label"
    dev_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    max_train: PositiveInt | None = None
    max_dev: PositiveInt | None = None
    max_test: PositiveInt | None = None

    known_metrics: ClassVar[tuple[str, ...]]
    """what is reported; more is better"""
    learns_labels: ClassVar[bool] = True
    """whether there is anything to learn without a teacher"""
    numeric: ClassVar[bool] = False
    """whether answers are numbers: no temperature softens them, and no two variants give the same"""
    compared: ClassVar[tuple[str, ...]] = ("drop", "flips")
    """what a gate may ask of a variant beside its own fp32: `ece` where labels of a whole text may be too sure"""

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is reported; the first is what early stopping follows and the summary shows."""
        first: str = getattr(self, "metric", self.known_metrics[0])
        return (first, *(name for name in self.known_metrics if name != first))

    @property
    def figures(self) -> tuple[str, ...]:
        """The names of all that `judged` gives."""
        return self.metrics

    @abstractmethod
    def head(self, label_names: Sequence[str]) -> Head:
        """The head that fits these labels."""

    @abstractmethod
    def criterion(self, data: TaskData) -> "Criterion":
        """The training loss of raw outputs (B, C) or (B, L, C) against `targets`."""

    @abstractmethod
    def targets(self, split: Split, rows: Sequence[int], places: Places | None, length: int) -> "npt.NDArray[Any]":
        """What the criterion compares a batch's outputs with; `length` is the batch's padded length."""

    @abstractmethod
    def distilled(self, of: "torch.Tensor", to: "torch.Tensor", targets: "torch.Tensor", *, t: float) -> "torch.Tensor":
        """How far a student's outputs are from its teacher's, summed over what `units` counts: t^2 KL at temperature t
        (1503.02531), or the squared error."""

    def units(self, targets: "npt.NDArray[Any]") -> int:
        """How many answers a batch of targets asks for; 1 where it is none, as what a sum is divided by."""
        return len(targets)

    @abstractmethod
    def fit(self, outputs: "Outputs", data: TaskData, places: Places | None) -> Fitted:
        """What is chosen on dev, given the dev split's outputs."""

    @abstractmethod
    def answers(self, outputs: "Outputs", fitted: Fitted, places: Places | None) -> Any:
        """Outputs as quality.py compares them with `truths`."""

    def truths(self, split: Split, fitted: Fitted) -> Any:  # noqa: ARG002
        """What would have been right, as quality.py takes it."""
        return split.labels

    @abstractmethod
    def score(self, metric: str, answers: Any, truths: Any) -> float:
        """The metric by the library that defines it."""

    def judged(
        self, outputs: "Outputs", data: TaskData, fitted: Fitted, places: Places | None = None
    ) -> dict[str, Judged]:
        """Every figure of the outputs for `data.reported`, the primary first."""
        outputs = outputs[: len(data.test.items)]
        answers, truths = self.answers(outputs, fitted, places), self.truths(data.test, fitted)
        return {name: Judged(name, answers, truths) for name in self.metrics}

    def places(self, split: Split, tokenizer: Any, *, max_length: int) -> Places | None:  # noqa: ARG002
        """Where the words begin, for tasks that answer word by word."""
        return None

    @abstractmethod
    def _label_names(self, train: Rows) -> tuple[str, ...]: ...

    @abstractmethod
    def _targets(self, rows: Rows, names: tuple[str, ...]) -> tuple[Any, ...]: ...

    @property
    def texts_per_item(self) -> int:
        """1, or 2 for pairs."""
        return len(self._columns())

    def identity(self, cache: Path, splits: Sequence[SplitName] = ALL) -> str:
        """sha256 of the settings and of the data that `load` of the same splits reads; fast, no heavy import."""
        unread = set() if "test" in splits else {"max_test"}
        settings = self.model_dump(mode="json", exclude={"data", *unread, *self._source_fields()})
        return json_digest(
            [settings, self.data.identity(cache, splits=self._needed(splits)), *self._more(cache, splits)]
        )

    def load(self, cache: Path, progress: Progress, splits: Sequence[SplitName] = TUNING) -> TaskData:
        """The splits asked for; train is always read (it names the labels), test only on request."""
        if "test" in splits and not self.data.has("test"):
            raise BadRequest("the task's data names no test split, and this reports on it: add one")
        rows = self._read(self._needed(splits), cache=cache, progress=progress)
        names = self._label_names(rows["train"])
        if not self.data.has("dev"):
            rows["train"], rows["dev"] = cut_dev(rows["train"], share=self.dev_share)
        limits: dict[SplitName, int | None] = {"train": self.max_train, "dev": self.max_dev, "test": self.max_test}
        taken = {split: take(rows[split], limit=limits[split]) for split in ALL if split in splits}
        overlap = count_overlap(taken["test"], train=rows["train"]) if "test" in splits else None
        loaded = {split: self._split(split, part, names) for split, part in taken.items()}
        if "train" in splits:
            classes = {split: self._classes_in(part) for split, part in loaded.items()}
            refuse_unseen(classes, names=names, max_train=self.max_train, dev_is_cut=not self.data.has("dev"))
        return TaskData(label_names=names, splits=loaded, overlap=overlap)

    def _split(self, split: SplitName, rows: Rows, names: tuple[str, ...]) -> Split:  # noqa: ARG002
        return Split(rows.items, self._targets(rows, names))

    def label_counts(self, split: Split, names: Sequence[str]) -> dict[str, int]:  # noqa: ARG002
        """How often each label occurs; nothing where there are no labels."""
        return {}

    def _classes_in(self, split: Split) -> set[int]:  # noqa: ARG002
        """The labels that occur in a split, by their place."""
        return set()

    def _source_fields(self) -> set[str]:
        """Fields whose identity is that of what they name."""
        return set()

    def _more(self, cache: Path, splits: Sequence[SplitName]) -> list[str]:  # noqa: ARG002
        """Identities of what `load` of these splits reads beside `data`."""
        return []

    def _columns(self) -> tuple[str, ...]:
        return (self.text,) if isinstance(self.text, str) else self.text

    def _needed(self, splits: Sequence[SplitName]) -> tuple[SplitName, ...]:
        return tuple(split for split in ALL if split == "train" or (split in splits and self.data.has(split)))

    def _read(self, splits: Sequence[SplitName], *, cache: Path, progress: Progress) -> dict[SplitName, Rows]:
        tables = self.data.tables(splits, cache=cache, progress=progress)
        return {split: read_rows(t, text=self._columns(), label=self.label) for split, t in tables.items()}
