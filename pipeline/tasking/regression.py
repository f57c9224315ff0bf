"""One number. Shapes: N items, B batch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipeline.data.examples import Rows
from pipeline.data.labels import number
from pipeline.errors import BadArtifact
from pipeline.tasking.base import BaseTask, Head, Places, Split, TaskData
from pipeline.tasking.criteria import Criterion
from pipeline.tasking.fitted import Fitted

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from pipeline.tasking.base import Outputs


class Regression(BaseTask):
    """`label` is a column of numbers."""

    kind: Literal["regression"] = "regression"
    metric: Literal["spearman", "pearson"] = "spearman"

    numeric: ClassVar[bool] = True
    compared: ClassVar[tuple[str, ...]] = ("drop",)
    known_metrics: ClassVar[tuple[str, ...]] = ("spearman", "pearson")

    def head(self, label_names: Sequence[str]) -> Head:  # noqa: ARG002
        return Head(num_outputs=1, problem_type="regression")

    def criterion(self, data: TaskData) -> Criterion:  # noqa: ARG002
        from torch.nn.functional import mse_loss

        return Criterion(lambda outputs, targets: mse_loss(outputs.float().reshape(-1), targets, reduction="sum"))

    def targets(self, split: Split, rows: Sequence[int], places: Places | None, length: int) -> "npt.NDArray[Any]":  # noqa: ARG002
        import numpy as np

        return np.asarray([split.labels[row] for row in rows], np.float32)

    def distilled(self, of: "torch.Tensor", to: "torch.Tensor", targets: "torch.Tensor", *, t: float) -> "torch.Tensor":  # noqa: ARG002
        """The squared error: a number has no temperature."""
        from torch.nn.functional import mse_loss

        return mse_loss(of.float(), to.float(), reduction="sum")

    def fit(self, outputs: "Outputs", data: TaskData, places: Places | None) -> Fitted:  # noqa: ARG002
        return Fitted(kind=self.kind)

    def answers(self, outputs: "Outputs", fitted: Fitted, places: Places | None) -> Any:  # noqa: ARG002
        import numpy as np

        return np.stack(outputs).reshape(-1)

    def score(self, metric: str, answers: Any, truths: Any) -> float:
        return correlation(metric, answers, truths)

    def _label_names(self, train: Rows) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    def _targets(self, rows: Rows, names: tuple[str, ...]) -> tuple[float, ...]:  # noqa: ARG002
        return scores_of(rows)


def scores_of(rows: Rows) -> tuple[float, ...]:
    """Every row's number; BadArtifact where one is none, or all are the same."""
    scores = tuple(number(value, place=f"{rows.where}, row {n}") for n, value in enumerate(rows.labels, start=1))
    if len(set(scores)) == 1:
        raise BadArtifact(f"{rows.where} has the score {scores[0]:g} in every row: there is nothing to rank")
    return scores


def correlation(metric: str, answers: Any, truths: Any) -> float:
    """Spearman's or Pearson's; answers that are all equal rank nothing: 0."""
    import numpy as np
    from scipy.stats import pearsonr, spearmanr

    found_N = np.asarray(answers, np.float64)
    if np.ptp(found_N) == 0:
        return 0.0
    return float({"spearman": spearmanr, "pearson": pearsonr}[metric](found_N, truths).statistic)
