"""EXTENSION POINT: what a model is fine-tuned for. A task is a record with `kind`, its labels, metrics, loss and head,
in a module of pipeline/tasking; its name goes into the union here. How the server answers is serving/answers.py.

    kind: classification        one label of several; accuracy, macro-F1, Matthews
    kind: multi-label           any number of labels; micro-F1, macro-F1
    kind: regression            one number; Spearman, Pearson
    kind: token-classification  a tag for every word; entity F1
    kind: embedding             a vector; Spearman of the cosines of pairs
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from pipeline.data.docstring_sets import Split as SplitName
from pipeline.data.progress import Progress
from pipeline.tasking.base import TaskData
from pipeline.tasking.classification import Classification
from pipeline.tasking.embedding import Embedding
from pipeline.tasking.multi_label import MultiLabel
from pipeline.tasking.regression import Regression
from pipeline.tasking.tagging import TokenClassification

AnyTask = Classification | MultiLabel | Regression | TokenClassification | Embedding
Task = Annotated[AnyTask, Field(discriminator="kind")]


@dataclass(frozen=True)
class TaskSplits:
    """A task reduced to the splits a stage may read: the reported split is not in reach of what chooses."""

    task: AnyTask
    splits: Sequence[SplitName]

    def identity(self, cache: Path) -> str:
        """Digest of the settings and of these splits' data."""
        return self.task.identity(cache, self.splits)

    def load(self, cache: Path, progress: Progress) -> TaskData:
        """These splits."""
        return self.task.load(cache, progress, self.splits)
