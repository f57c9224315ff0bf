"""Sentence vectors. Shapes: N items, P pairs (N = 2 P on dev and test), D dimensions."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipeline.data.corpus import CorpusSource
from pipeline.data.docstring_sets import Split as SplitName
from pipeline.data.examples import Rows
from pipeline.data.progress import Progress
from pipeline.data.sentences import sentences
from pipeline.tasking.base import TUNING, BaseTask, Head, Places, Split, TaskData
from pipeline.tasking.criteria import Criterion
from pipeline.tasking.fitted import Fitted
from pipeline.tasking.regression import correlation, scores_of
from serving.bundle import Item

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from pipeline.tasking.base import Outputs


class Embedding(BaseTask):
    """`text` names two columns of sentences and `label` how alike they are: dev and test are judged by how well the
    cosines of their vectors rank the pairs.

    A student learns its teacher's vectors (`finetune.distill_from: teacher`) of train's sentences and those in `texts`;
    no score is learned from. `pooling` and `normalize` lie inside the graph; `as-teacher` is what the teacher's folder
    says (sentence-transformers' `1_Pooling`), or the mean.
    """

    kind: Literal["embedding"] = "embedding"
    text: tuple[str, str] = ("sentence1", "sentence2")
    label: str = "score"
    metric: Literal["spearman", "pearson"] = "spearman"
    pooling: Literal["as-teacher", "mean", "cls"] = "as-teacher"
    normalize: bool = True
    match: Literal["cosine", "mse"] = "cosine"
    texts: CorpusSource | None = None

    learns_labels: ClassVar[bool] = False
    numeric: ClassVar[bool] = True
    compared: ClassVar[tuple[str, ...]] = ("drop",)
    known_metrics: ClassVar[tuple[str, ...]] = ("spearman", "pearson")

    @property
    def texts_per_item(self) -> int:
        """1: a pair is two items."""
        return 1

    def head(self, label_names: Sequence[str]) -> Head:  # noqa: ARG002
        return Head(0, problem_type=None, optimum_task="feature-extraction", output="sentence_embedding")

    def criterion(self, data: TaskData) -> Criterion:
        """None: the teacher's vectors are all there is to learn.

        Raises:
            NotImplementedError: always; `learns_labels` says so beforehand.
        """
        raise NotImplementedError("an embedding learns its teacher's vectors and no labels")

    def targets(self, split: Split, rows: Sequence[int], places: Places | None, length: int) -> "npt.NDArray[Any]":  # noqa: ARG002
        import numpy as np

        return np.zeros(len(rows), np.float32)

    def distilled(self, of: "torch.Tensor", to: "torch.Tensor", targets: "torch.Tensor", *, t: float) -> "torch.Tensor":  # noqa: ARG002
        """1 - cosine, or the squared distance of the vectors."""
        from torch.nn.functional import cosine_similarity

        if self.match == "cosine":
            return (1 - cosine_similarity(of.float(), to.float(), dim=-1)).sum()
        return (of.float() - to.float()).square().sum()

    def fit(self, outputs: "Outputs", data: TaskData, places: Places | None) -> Fitted:  # noqa: ARG002
        return Fitted(kind=self.kind, dimensions=len(outputs[0]))

    def answers(self, outputs: "Outputs", fitted: Fitted, places: Places | None) -> Any:  # noqa: ARG002
        """(P,): the cosine of each pair."""
        import numpy as np

        vectors_ND = np.stack(outputs).astype(np.float64)
        vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True).clip(min=1e-12)
        return (vectors_ND[0::2] * vectors_ND[1::2]).sum(axis=1)

    def score(self, metric: str, answers: Any, truths: Any) -> float:
        return correlation(metric, answers, truths)

    def load(self, cache: Path, progress: Progress, splits: Sequence[SplitName] = TUNING) -> TaskData:
        """As every task's; train's sentences each once, then those of `texts`."""
        data = super().load(cache, progress, splits)
        if "train" not in splits:
            return data
        more = self.texts.texts(cache, progress) if self.texts is not None else ()
        learned = ((sentence,) for text in more for sentence in sentences(text))
        items: tuple[Item, ...] = tuple(dict.fromkeys((*data.train.items, *learned)))
        train = Split(items, (0.0,) * len(items))
        return TaskData(data.label_names, {**data.splits, "train": train}, data.overlap)

    def _split(self, split: SplitName, rows: Rows, names: tuple[str, ...]) -> Split:
        items: tuple[Item, ...] = tuple((text,) for pair in rows.items for text in pair)
        return Split(items, () if split == "train" else self._targets(rows, names))

    def _source_fields(self) -> set[str]:
        return {"texts"}

    def _more(self, cache: Path, splits: Sequence[SplitName]) -> list[str]:
        return [self.texts.identity(cache)] if self.texts is not None and "train" in splits else []

    def _label_names(self, train: Rows) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    def _targets(self, rows: Rows, names: tuple[str, ...]) -> tuple[float, ...]:  # noqa: ARG002
        return scores_of(rows)
