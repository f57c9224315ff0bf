"""From raw outputs to what a client is told; measuring and judging use the same functions.

Shapes: N items, L tokens of an item, W words, C outputs (labels, dimensions, or 1 for regression).

classification        {"label": "a", "score": 0.9, "scores": {"a": 0.9, "b": 0.1}}
  below refuse_below  {"label": null, "refused": true, "score": 0.5, "scores": {...}}
multi-label           {"labels": ["b", "a"], "scores": {"a": 0.6, "b": 0.9}}
regression            {"score": 2.5}
token-classification  {"entities": [{"label": "x", "start": 0, "end": 3, "text": "Ann", "score": 0.9}]}
  of token ids        {"tokens": [{"label": "B-x", "score": 0.9}]}, special ones included: nobody knows their characters
embedding             {"embedding": [0.1, ...]}
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from serving.bundle import Aggregation, ServingSpec, TaskKind
from serving.spans import OUTSIDE, Span, entities_of, word_tokens, words_of
from serving.tokens import Given, Tokens

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


def probabilities(logits: Floats, *, task: TaskKind) -> Floats:
    """(..., C) raw outputs as (..., C) scores: softmax for one label of many, a sigmoid each for several, numbers and
    vectors as they are. Large values neither overflow nor lose the small probabilities."""
    if task in ("classification", "token-classification"):
        return _softmax(logits)
    return _sigmoid(logits) if task == "multi-label" else logits


def given(scores: Floats, *, thresholds: Sequence[float]) -> Bools:
    """(..., C): which labels of a multi-label answer are given: those whose probability reaches its threshold."""
    found: Bools = scores >= np.asarray(thresholds, np.float64)
    return found


def refused(scores: Floats, *, refuse_below: float | None) -> Bools:
    """(...,): which answers of a classification are refused: those whose highest probability is below the bound."""
    found: Bools = scores.max(axis=-1) < np.float64(0.0 if refuse_below is None else refuse_below)
    return found


def of_words(scores_LC: Floats, *, tokens: Sequence[Span], aggregation: Aggregation) -> Floats:
    """(W, C): the scores of each word, from those of its sub-tokens [first, end): its first's, the average, or those of
    the one that is surest of its label (max). Zeros where a word has none."""
    firsts = np.array([first for first, _ in tokens], np.int64)
    found = np.zeros((len(tokens), scores_LC.shape[1]), np.float32)
    read = np.flatnonzero(firsts >= 0)
    if aggregation == "first":
        found[read] = scores_LC[firsts[read]]
        return found
    sure_L = scores_LC.max(axis=1)
    for word in read.tolist():
        first, end = tokens[word]
        average = aggregation == "average"
        found[word] = scores_LC[first:end].mean(axis=0) if average else scores_LC[first + sure_L[first:end].argmax()]
    return found


def tags_of(scores_WC: Floats, *, labels: Sequence[str]) -> list[str]:
    """One tag per word: its best label, O where it has no scores (`of_words`)."""
    best_W, read_W = scores_WC.argmax(axis=1), np.asarray(scores_WC.any(axis=1))
    return [labels[best] if read else OUTSIDE for best, read in zip(best_W, read_W, strict=True)]


def results(
    scores: Sequence[Floats], *, spec: ServingSpec, items: Sequence[Given], offsets: Sequence[Sequence[Span]] = ()
) -> list[dict[str, object]]:
    """One record per item, as shown at the top. `scores` are probabilities, `items` what they are of, and `offsets`,
    for token-classification, the characters of each token. Places in a text count code points."""
    if spec.per_token:
        return [_of_tokens(*one, spec=spec) for one in zip(scores, items, offsets, strict=True)]
    return [_record(row, spec=spec) for row in scores]


def _record(scores_C: Floats, *, spec: ServingSpec) -> dict[str, object]:
    row = scores_C.tolist()
    if spec.task == "embedding":
        return {"embedding": row}
    if spec.task == "regression":
        return {"score": row[0]}
    named = dict(zip(spec.labels, row, strict=True))
    if spec.task == "multi-label":
        is_given = given(scores_C, thresholds=spec.thresholds).tolist()
        chosen = [label for label, yes in zip(spec.labels, is_given, strict=True) if yes]
        return {"labels": sorted(chosen, key=named.__getitem__, reverse=True), "scores": named}
    best = row.index(max(row))  # of a few labels Python finds it sooner than numpy is called
    if spec.refuse_below is not None and refused(scores_C, refuse_below=spec.refuse_below):
        return {"label": None, "refused": True, "score": row[best], "scores": named}
    return {"label": spec.labels[best], "score": row[best], "scores": named}


def _of_tokens(scores_LC: Floats, item: Given, offsets: Sequence[Span], *, spec: ServingSpec) -> dict[str, object]:
    if not isinstance(item, Tokens):
        return _tagged(scores_LC, item[0], offsets, spec=spec)
    best = zip(scores_LC.argmax(axis=1).tolist(), scores_LC.max(axis=1).tolist(), strict=True)
    return {"tokens": [{"label": spec.labels[label], "score": score} for label, score in best]}


def _tagged(scores_LC: Floats, text: str, offsets: Sequence[Span], *, spec: ServingSpec) -> dict[str, object]:
    """A word is as sure as its tag, and an entity as the mean of its words."""
    words = words_of(text, until=max((end for _, end in offsets), default=0))
    scores_WC = of_words(scores_LC, tokens=word_tokens(offsets, words), aggregation=spec.aggregation)
    best_W = scores_WC.max(axis=1, initial=0).tolist()
    found = []
    for label, first, last in entities_of(tags_of(scores_WC, labels=spec.labels)):
        start, end = words[first][0], words[last][1]
        sure = best_W[first : last + 1]
        found.append(
            {"label": label, "start": start, "end": end, "text": text[start:end], "score": sum(sure) / len(sure)}
        )
    return {"entities": found}


def _softmax(logits: Floats) -> Floats:
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores: Floats = exp / exp.sum(axis=-1, keepdims=True)
    return scores


def _sigmoid(logits: Floats) -> Floats:
    small = np.exp(-np.abs(logits))
    scores: Floats = np.where(logits >= 0, np.float32(1), small) / (1 + small)
    return scores
