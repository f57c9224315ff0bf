"""One label of several; an answer is refused where the model is not sure enough. Shapes: N items, B batch, C labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from pipeline.data.docstring_sets import Split as SplitName
from pipeline.data.examples import Rows, read_texts
from pipeline.data.labels import class_values, in_order, label_index, shown
from pipeline.data.progress import Progress
from pipeline.data.sources import DataSource
from pipeline.errors import BadArtifact, BadRequest
from pipeline.records import Record
from pipeline.tasking.base import TUNING, BaseTask, Head, Judged, Places, Split, TaskData
from pipeline.tasking.criteria import Criterion, balanced_weights, distribution_kl, label_loss
from pipeline.tasking.fitted import Fitted

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from pipeline.tasking.base import Outputs


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{twice!r} is named more than once: give every label a name of its own")
    return names


EACH_ONCE = AfterValidator(_each_once)
ClassWeights = Literal["equal", "balanced"]
Smoothing = Annotated[float, Field(ge=0, lt=1)]

EDGE = 1e-6  # a bound on a probability is neither 0 nor 1


class Refusal(Record):
    """Answers below a confidence are refused: the one at which `keep` of the dev texts are still answered. The test
    split of `data`, texts that no label fits, says how well that tells them apart."""

    keep: Annotated[float, Field(gt=0, lt=1)] = 0.95
    data: DataSource | None = None


class Classification(BaseTask):
    """`labels` names the classes in order (integer labels count from 0); by default they are what train holds.

    `class_weights: balanced` weighs each class by n / (classes * its count), as scikit-learn does.
    """

    kind: Literal["classification"] = "classification"
    labels: Annotated[tuple[str, ...], Field(min_length=2), EACH_ONCE] | None = None
    metric: Literal["accuracy", "macro_f1", "matthews"] = "accuracy"
    class_weights: ClassWeights = "equal"
    label_smoothing: Smoothing = 0.0
    refusal: Refusal | None = None

    compared: ClassVar[tuple[str, ...]] = ("drop", "flips", "ece")
    known_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1", "matthews")

    @property
    def figures(self) -> tuple[str, ...]:
        if self.refusal is None:
            return self.metrics
        outside = ("oos_auroc", "oos_refused") if self.refusal.data is not None else ()
        return (*self.metrics, "in_scope_refused", *outside)

    def head(self, label_names: Sequence[str]) -> Head:
        return Head(num_outputs=len(label_names), problem_type="single_label_classification")

    def criterion(self, data: TaskData) -> Criterion:
        weights = (
            balanced_weights(data.train.labels, len(data.label_names)) if self.class_weights == "balanced" else None
        )
        return label_loss(weights=weights, smoothing=self.label_smoothing)

    def targets(self, split: Split, rows: Sequence[int], places: Places | None, length: int) -> "npt.NDArray[Any]":  # noqa: ARG002
        import numpy as np

        return np.asarray([split.labels[row] for row in rows], np.int64)

    def distilled(self, of: "torch.Tensor", to: "torch.Tensor", targets: "torch.Tensor", *, t: float) -> "torch.Tensor":  # noqa: ARG002
        return distribution_kl(of, to, temperature=t)

    def fit(self, outputs: "Outputs", data: TaskData, places: Places | None) -> Fitted:  # noqa: ARG002
        import numpy as np

        from serving.answers import probabilities

        below = None
        if self.refusal is not None:
            surest_N = probabilities(np.stack(outputs), task=self.kind).max(axis=-1)
            below = float(np.clip(np.quantile(surest_N, 1 - self.refusal.keep), EDGE, 1 - EDGE))
        return Fitted(kind=self.kind, labels=data.label_names, refuse_below=below)

    def answers(self, outputs: "Outputs", fitted: Fitted, places: Places | None) -> Any:  # noqa: ARG002
        import numpy as np

        from serving.answers import probabilities

        return probabilities(np.stack(outputs), task=self.kind).argmax(axis=-1)  # as a client is told, ties too

    def score(self, metric: str, answers: Any, truths: Any) -> float:
        from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

        if metric == "macro_f1":
            return float(f1_score(truths, answers, labels=sorted(set(truths)), average="macro", zero_division=0))
        return float({"accuracy": accuracy_score, "matthews": matthews_corrcoef}[metric](truths, answers))

    def judged(
        self, outputs: "Outputs", data: TaskData, fitted: Fitted, places: Places | None = None
    ) -> dict[str, Judged]:
        """With a refusal also: how well confidence tells the texts outside apart (`oos_auroc`), and the share of them
        (`oos_refused`) and of the others (`in_scope_refused`) that is refused."""
        import numpy as np

        from serving.answers import probabilities, refused

        found = super().judged(outputs, data, fitted, places)
        if fitted.refuse_below is None:
            return found
        inside, scores_NC = len(data.test.items), probabilities(np.stack(outputs), task=self.kind)
        refuses = refused(scores_NC, refuse_below=fitted.refuse_below).astype(np.int64)
        found["in_scope_refused"] = Judged("accuracy", refuses[:inside], np.ones(inside, np.int64))
        if data.outside:
            in_scope = (np.arange(len(outputs)) < inside).astype(np.int64)
            found["oos_auroc"] = Judged("auroc", scores_NC.max(axis=-1), in_scope)
            found["oos_refused"] = Judged("accuracy", refuses[inside:], np.ones(len(data.outside), np.int64))
        return found

    def load(self, cache: Path, progress: Progress, splits: Sequence[SplitName] = TUNING) -> TaskData:
        """As every task's; with the texts outside where test is asked for."""
        data = super().load(cache, progress, splits)
        if "test" not in splits or self.refusal is None or self.refusal.data is None:
            return data
        if not self.refusal.data.has("test"):
            raise BadRequest("task.refusal.data names no test split, and its texts are reported on: add one")
        table = self.refusal.data.tables(("test",), cache=cache, progress=progress)["test"]
        return TaskData(data.label_names, data.splits, data.overlap, read_texts(table, text=self._columns()))

    def _source_fields(self) -> set[str]:
        return {"refusal"}

    def _more(self, cache: Path, splits: Sequence[SplitName]) -> list[str]:
        if self.refusal is None:
            return []
        source = self.refusal.data if "test" in splits else None
        return [str(self.refusal.keep), *([source.identity(cache, splits=("test",))] if source else [])]

    def label_counts(self, split: Split, names: Sequence[str]) -> dict[str, int]:
        return {name: split.labels.count(place) for place, name in enumerate(names)}

    def _classes_in(self, split: Split) -> set[int]:
        return set(split.labels)

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
        refuse_unknown(set(values) - index.keys(), where=rows.where, names=names, given=self.labels is not None)
        return tuple(index[value] for value in values)


def refuse_unknown(unknown: set[Any], *, where: str, names: tuple[str, ...], given: bool) -> None:
    """BadArtifact where data has labels that the task has not."""
    if unknown:
        raise BadArtifact(
            f"{where} has labels that are not among the task's: {shown(unknown)}; "
            f"the task's are {shown(names)} (from {'the config' if given else 'train'})"
        )
