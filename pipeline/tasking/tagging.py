"""A tag for every word: token classification in the IOB2 scheme. Shapes: N items, B batch, L tokens, W words, C tags.

Data is either words with tags (two columns of lists) or text with spans (`{start, end, label}`, in characters). Words
are joined by blanks; text is cut into words as the server cuts it (serving/spans.py). The first sub-token of a word
carries its tag, in training and in answers.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from pipeline.data.examples import Rows
from pipeline.data.progress import Progress
from pipeline.data.table import Table
from pipeline.errors import BadArtifact
from pipeline.tasking.base import BaseTask, Head, Places, Split, TaskData
from pipeline.tasking.classification import EACH_ONCE, ClassWeights, Smoothing
from pipeline.tasking.criteria import IGNORED, Criterion, balanced_weights, distribution_kl, label_loss
from pipeline.tasking.fitted import Fitted
from pipeline.tasking.tagged import TaggedRow, read_tagged, tag_names
from serving.bundle import Aggregation
from serving.spans import Span, word_tokens

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    import torch

    from pipeline.data.docstring_sets import Split as SplitName
    from pipeline.tasking.base import Outputs


@dataclass(frozen=True)
class Tagging:
    """Where a text's words are, and the tag of each, by its place among the label names."""

    words: tuple[Span, ...]
    tags: tuple[int, ...]


class TokenClassification(BaseTask):
    """`text` is a column of words (lists) with `label` their tags, or a column of texts with `label` their spans.

    `labels` names the types of entities in order (default: those of train). `alternatives` is what separates tags that
    annotators could not agree on: an entity gets the type that fits all of its words, or most, the first of equals.
    `aggregation` is how a word's tag is told from its sub-tokens: by its first, on which alone it is learned, by their
    average, or by the one that is surest (max); it is judged so and shipped in serving.yaml.
    """

    kind: Literal["token-classification"] = "token-classification"
    text: str = "tokens"
    label: str = "tags"
    labels: Annotated[tuple[str, ...], Field(min_length=1), EACH_ONCE] | None = None
    alternatives: Annotated[str, Field(min_length=1)] | None = None
    class_weights: ClassWeights = "equal"
    label_smoothing: Smoothing = 0.0
    aggregation: Aggregation = "first"

    known_metrics: ClassVar[tuple[str, ...]] = ("entity_f1",)

    def head(self, label_names: Sequence[str]) -> Head:
        return Head(num_outputs=len(label_names), problem_type=None, optimum_task="token-classification")

    def criterion(self, data: TaskData) -> Criterion:
        tags = [tag for each in data.train.labels for tag in each.tags]
        weights = balanced_weights(tags, len(data.label_names)) if self.class_weights == "balanced" else None
        return label_loss(weights=weights, smoothing=self.label_smoothing)

    def targets(self, split: Split, rows: Sequence[int], places: Places | None, length: int) -> "npt.NDArray[Any]":
        """(B, L): a word's tag at its first sub-token, IGNORED elsewhere."""
        import numpy as np

        assert places is not None
        targets_BL = np.full((len(rows), length), IGNORED, np.int64)
        for at, row in enumerate(rows):
            firsts = places[row][:, 0]
            found = firsts >= 0
            targets_BL[at, firsts[found]] = np.asarray(split.labels[row].tags, np.int64)[found]
        return targets_BL

    def distilled(self, of: "torch.Tensor", to: "torch.Tensor", targets: "torch.Tensor", *, t: float) -> "torch.Tensor":
        """At the first sub-tokens, which are all that the teacher learned to tag."""
        tagged = (targets != IGNORED) & to.isfinite().all(dim=-1)
        return distribution_kl(of[tagged], to[tagged], temperature=t)

    def units(self, targets: "npt.NDArray[Any]") -> int:
        return int((targets != IGNORED).sum()) or 1

    def fit(self, outputs: "Outputs", data: TaskData, places: Places | None) -> Fitted:  # noqa: ARG002
        return Fitted(kind=self.kind, labels=data.label_names, aggregation=self.aggregation)

    def answers(self, outputs: "Outputs", fitted: Fitted, places: Places | None) -> Any:
        """Each item's tags, word by word; O for a word that has no sub-token or was cut away."""
        from serving.answers import of_words, probabilities, tags_of

        assert places is not None
        answers = []
        for output_LC, where in zip(outputs, places, strict=True):
            scores_LC, tokens = (
                probabilities(output_LC, task=self.kind),
                [(first, end) for first, end in where.tolist()],
            )
            scores_WC = of_words(scores_LC, tokens=tokens, aggregation=fitted.aggregation)
            answers.append(tuple(tags_of(scores_WC, labels=fitted.labels)))
        return answers

    def truths(self, split: Split, fitted: Fitted) -> Any:
        return [tuple(fitted.labels[tag] for tag in each.tags) for each in split.labels]

    def score(self, metric: str, answers: Any, truths: Any) -> float:  # noqa: ARG002
        from seqeval.metrics import f1_score

        return float(f1_score([list(tags) for tags in truths], [list(tags) for tags in answers], zero_division=0))

    def places(self, split: Split, tokenizer: Any, *, max_length: int) -> Places:
        """BadArtifact where the tokenizer drops a word that an entity begins or goes on with."""
        import numpy as np

        from pipeline.data.batches import truncating

        fast = truncating(tokenizer, max_length=max_length)
        encodings = fast.encode_batch([item[0] for item in split.items])
        places = []
        for item, tagging, encoding in zip(split.items, split.labels, encodings, strict=True):
            tokens = word_tokens(encoding.offsets, tagging.words)
            _require_tokens(item[0], tagging, [first for first, _ in tokens], cut=bool(encoding.overflowing))
            places.append(np.array(tokens, np.int64).reshape(-1, 2))
        return places

    def label_counts(self, split: Split, names: Sequence[str]) -> dict[str, int]:
        """Entities of each type, by their B tags."""
        found = Counter(tag for each in split.labels for tag in each.tags)
        return {names[tag].removeprefix("B-"): found[tag] for tag in range(1, len(names), 2)}

    def _classes_in(self, split: Split) -> set[int]:
        """The types of entities, by the place of their B tag: that one never goes on in train is no fault."""
        return {tag - (tag - 1) % 2 for each in split.labels for tag in each.tags if tag}

    def _read(self, splits: "Sequence[SplitName]", *, cache: "Path", progress: Progress) -> "dict[SplitName, Rows]":
        tables = self.data.tables(splits, cache=cache, progress=progress)
        return {split: self._rows(table) for split, table in tables.items()}

    def _rows(self, table: Table) -> Rows:
        names = table.class_names.get(self.label, ())
        tagged = read_tagged(table, text=self.text, label=self.label, names=names, alternatives=self.alternatives)
        return Rows(table.where, tuple((each.text,) for each in tagged), tuple(tagged), ())

    def _label_names(self, train: Rows) -> tuple[str, ...]:
        return tag_names(_tagged(train), where=train.where, types=self.labels)

    def _targets(self, rows: Rows, names: tuple[str, ...]) -> tuple[Tagging, ...]:
        index = {name: place for place, name in enumerate(names)}
        tagged = _tagged(rows)
        unknown = sorted({tag for each in tagged for tag in each.tags} - index.keys())
        if unknown:
            raise BadArtifact(
                f"{rows.where} has tags that are not among the task's: {', '.join(unknown[:10])}; the task's are "
                f"{', '.join(names)} (from {'the config' if self.labels else 'train'}); where several tags stand in "
                "one, task.alternatives says what separates them"
            )
        return tuple(Tagging(each.words, tuple(index[tag] for tag in each.tags)) for each in tagged)


def _tagged(rows: Rows) -> "Sequence[TaggedRow]":
    return [each for each in rows.labels if isinstance(each, TaggedRow)]


def _require_tokens(text: str, tagging: Tagging, starts: Sequence[int], *, cut: bool) -> None:
    """A word of an entity that has no sub-token can be neither learned nor found, unless the text was cut before it."""
    kept = max((word for word, place in enumerate(starts) if place >= 0), default=-1) if cut else len(starts)
    for word, ((start, end), tag) in enumerate(zip(tagging.words, tagging.tags, strict=True)):
        if starts[word] < 0 and tag and word < kept:
            raise BadArtifact(
                f"the word {text[start:end]!r} (characters {start} to {end} of {text[:60]!r}) belongs to an entity, "
                "and the tokenizer makes no token of it: mend the text, or leave the word out of the entity"
            )
