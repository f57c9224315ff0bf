"""Any number of labels at once. Shapes: N items, B batch, C labels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from pipeline.data.examples import Rows
from pipeline.data.labels import class_value, in_order, label_index
from pipeline.errors import BadArtifact
from pipeline.tasking.base import BaseTask, Head, Places, Split, TaskData
from pipeline.tasking.classification import EACH_ONCE, EDGE, ClassWeights, Smoothing, refuse_unknown
from pipeline.tasking.criteria import Criterion, bernoulli_kl
from pipeline.tasking.fitted import Fitted

TINY = 1e-30  # where all is improbable a threshold still lies between what occurs

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from pipeline.tasking.base import Outputs


class MultiLabel(BaseTask):
    """`label` is a column of lists, or of cells cut at `separator`; an empty one is an item that no label fits.

    A label is given where its probability reaches its threshold, which dev chooses: one for all labels (`shared`: the
    best micro-F1) or each its own (`per-label`: the best F1; 0.5 where dev has no such item).
    """

    kind: Literal["multi-label"] = "multi-label"
    labels: Annotated[tuple[str, ...], Field(min_length=1), EACH_ONCE] | None = None
    separator: Annotated[str, Field(min_length=1)] | None = None
    metric: Literal["micro_f1", "macro_f1"] = "micro_f1"
    threshold: Literal["shared", "per-label"] = "shared"
    class_weights: ClassWeights = "equal"
    label_smoothing: Smoothing = 0.0

    compared: ClassVar[tuple[str, ...]] = ("drop", "flips", "ece")
    known_metrics: ClassVar[tuple[str, ...]] = ("micro_f1", "macro_f1")

    def head(self, label_names: Sequence[str]) -> Head:
        return Head(num_outputs=len(label_names), problem_type="multi_label_classification")

    def criterion(self, data: TaskData) -> Criterion:
        """Binary cross entropy, mean over the labels; balanced: a label's items weigh as much as those without it."""
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits

        weights = None
        if self.class_weights == "balanced":
            with_C = torch.tensor(data.train.labels, dtype=torch.float32).sum(dim=0).clamp(min=1)
            weights = (len(data.train.labels) - with_C).clamp(min=1) / with_C
        smoothing = self.label_smoothing

        def total(outputs: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
            smooth = targets * (1 - smoothing) + smoothing / 2
            losses_BC = binary_cross_entropy_with_logits(outputs.float(), smooth, pos_weight=weights, reduction="none")
            return losses_BC.mean(dim=1).sum()

        return Criterion(total)

    def targets(self, split: Split, rows: Sequence[int], places: Places | None, length: int) -> "npt.NDArray[Any]":  # noqa: ARG002
        import numpy as np

        return np.asarray([split.labels[row] for row in rows], np.float32)

    def distilled(self, of: "torch.Tensor", to: "torch.Tensor", targets: "torch.Tensor", *, t: float) -> "torch.Tensor":  # noqa: ARG002
        return bernoulli_kl(of, to, temperature=t)

    def fit(self, outputs: "Outputs", data: TaskData, places: Places | None) -> Fitted:  # noqa: ARG002
        import numpy as np

        from serving.answers import probabilities

        chances_NC = probabilities(np.stack(outputs), task=self.kind)
        truths_NC = np.asarray(data.dev.labels, bool)
        if self.threshold == "shared":
            thresholds = [best_threshold(chances_NC.ravel(), truths_NC.ravel())] * len(data.label_names)
        else:
            thresholds = [best_threshold(chances_NC[:, c], truths_NC[:, c]) for c in range(len(data.label_names))]
        return Fitted(kind=self.kind, labels=data.label_names, thresholds=tuple(thresholds))

    def answers(self, outputs: "Outputs", fitted: Fitted, places: Places | None) -> Any:  # noqa: ARG002
        import numpy as np

        from serving.answers import given, probabilities

        return given(probabilities(np.stack(outputs), task=self.kind), thresholds=fitted.thresholds).astype(np.int64)

    def truths(self, split: Split, fitted: Fitted) -> Any:  # noqa: ARG002
        import numpy as np

        return np.asarray(split.labels, np.int64)

    def score(self, metric: str, answers: Any, truths: Any) -> float:
        from sklearn.metrics import f1_score

        # One column alone is taken for two classes, yes and no, and no is not a label.
        average = metric.removesuffix("_f1") if truths.shape[1] > 1 else "binary"
        return float(f1_score(truths, answers, average=average, zero_division=0))

    def label_counts(self, split: Split, names: Sequence[str]) -> dict[str, int]:
        return {name: sum(row[place] for row in split.labels) for place, name in enumerate(names)}

    def _classes_in(self, split: Split) -> set[int]:
        return {place for row in split.labels for place, given in enumerate(row) if given}

    def _lists(self, rows: Rows) -> list[list[int | str]]:
        """Every row's labels as text or integers."""
        found = []
        for number, value in enumerate(rows.labels, start=1):
            place = f"{rows.where}, row {number}"
            if self.separator is not None and (value is None or isinstance(value, str | int | float)):
                value = self._parts(value, coded=self.labels is not None or bool(rows.class_names))
            if not isinstance(value, list | tuple):
                raise BadArtifact(
                    f"{place}: the labels are {value!r}: expected a list, or text with task.separator set"
                )
            found.append([class_value(each, place=place) for each in value])
        return found

    def _parts(self, cell: object, *, coded: bool) -> list[int | str]:
        """The labels of one cell of a table, where one code alone is read as a number, and none as nothing."""
        code = int(cell) if isinstance(cell, float) and cell.is_integer() else cell
        text = "" if code is None else str(code)
        parts = (part.strip() for part in text.split(self.separator))
        return [int(part) if coded and part.isdecimal() else part for part in parts if part]

    def _label_names(self, train: Rows) -> tuple[str, ...]:
        if self.labels is not None:
            return self.labels
        found = {value for row in self._lists(train) for value in row}
        if not found:
            raise BadArtifact(f"{train.where} has no label in any row: there is nothing to learn")
        return train.class_names or tuple(str(value) for value in in_order(found))

    def _targets(self, rows: Rows, names: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
        index = label_index(names, coded=self.labels is not None or bool(rows.class_names))
        lists = self._lists(rows)
        unknown = {value for row in lists for value in row} - index.keys()
        refuse_unknown(unknown, where=rows.where, names=names, given=self.labels is not None)
        places = [{index[value] for value in row} for row in lists]
        return tuple(tuple(int(c in row) for c in range(len(names))) for row in places)


def best_threshold(chances: "npt.NDArray[Any]", truths: "npt.NDArray[Any]") -> float:
    """The probability from which on a yes gives the best F1: midway between two that occur, so that rounding moves
    nothing; 0.5 where nothing is true. Both are (N,)."""
    import numpy as np

    if not truths.any():
        return 0.5
    order = np.argsort(-chances, kind="stable")
    ranked, hits = chances[order].astype(np.float64), np.cumsum(truths[order])  # wide enough for what lies between
    f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + truths.sum())
    last_of_equals = np.append(ranked[1:] != ranked[:-1], True)  # a threshold takes equals together
    best = int(np.where(last_of_equals, f1, -1.0).argmax())
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float(np.clip((ranked[best] + below) / 2, TINY, 1 - EDGE))
