"""From raw outputs to what a client is told, each task by itself; tests/serving/test_tasks.py goes the whole way."""

import math
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fakes import tiny_bundle
from scipy.special import expit, softmax

from serving.answers import Floats, given, of_words, probabilities, refused, results, tags_of
from serving.bundle import Aggregation, ServingSpec, TaskKind
from serving.spans import Span
from serving.tokens import Tokens

LARGE = [-1e4, -200.0, -88.0, -1.0, 0.0, 1.0, 88.0, 200.0, 1e4, 1.7e38, -1.7e38]
ITEM = ("a text",)


def floats(values: Any) -> Floats:
    return np.asarray(values, np.float32)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ServingSpec:
    return tiny_bundle(tmp_path_factory.mktemp("bundle")).spec


def spec_of(base: ServingSpec, task: TaskKind, labels: Sequence[str] = (), **changes: Any) -> ServingSpec:
    return msgspec.structs.replace(base, task=task, labels=tuple(labels), **changes)


@pytest.mark.parametrize("task", ["classification", "token-classification"])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_one_label_of_many_is_a_softmax_over_the_last_axis(task: TaskKind, shape: tuple[int, ...]) -> None:
    logits = floats(np.random.default_rng(0).normal(0, 5, shape))
    found = probabilities(logits, task=task)
    np.testing.assert_allclose(found, softmax(logits.astype(np.float64), axis=-1), rtol=2e-6)
    assert found.dtype == np.float32


def test_several_labels_are_a_sigmoid_each() -> None:
    logits = floats(np.random.default_rng(0).normal(0, 5, (3, 4)))
    found = probabilities(logits, task="multi-label")
    np.testing.assert_allclose(found, expit(logits.astype(np.float64)), rtol=2e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("task", ["classification", "multi-label", "token-classification"])
def test_large_values_neither_overflow_nor_warn(task: TaskKind) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            found = probabilities(floats(LARGE), task=task)
    assert np.isfinite(found).all()
    assert found.min() >= 0
    assert found.max() == 1


def test_a_small_probability_is_not_rounded_to_nothing() -> None:
    (found,) = probabilities(floats([-40.0]), task="multi-label").tolist()
    assert found == pytest.approx(math.exp(-40), rel=1e-5)


@pytest.mark.parametrize("task", ["regression", "embedding"])
def test_numbers_and_vectors_stay_as_they_are(task: TaskKind) -> None:
    assert probabilities(floats([2.5, -7.0]), task=task).tolist() == [2.5, -7.0]


def test_a_label_is_given_at_its_threshold_and_not_a_hair_below() -> None:
    bound = 0.3
    at, below = math.nextafter(bound, 1), math.nextafter(bound, 0)
    score = floats(bound).item()  # 0.30000001192..., what float32 makes of it
    assert given(floats([bound] * 3), thresholds=[score, at, below]).tolist() == [True, True, True]
    assert given(floats([bound]), thresholds=[math.nextafter(score, 1)]).tolist() == [False]
    assert given(floats([[0.5, 0.2], [0.25, 0.9]]), thresholds=[0.5, 0.5]).tolist() == [[True, False], [False, True]]


def test_an_answer_is_refused_below_the_bound_and_not_at_it() -> None:
    score = floats(0.7).item()  # 0.69999998807...
    assert not refused(floats([0.7, 0.3]), refuse_below=score)
    assert refused(floats([0.7, 0.3]), refuse_below=math.nextafter(score, 1))
    assert refused(floats([[0.7, 0.3], [0.5, 0.5]]), refuse_below=0.6).tolist() == [False, True]
    assert not refused(floats([0.7, 0.3]), refuse_below=None)


def test_classification_tells_the_best_label_and_every_score(base: ServingSpec) -> None:
    spec = spec_of(base, "classification", ["no", "yes"])
    assert results([floats([0.25, 0.75]), floats([0.5, 0.5])], spec=spec, items=[ITEM, ITEM]) == [
        {"label": "yes", "score": 0.75, "scores": {"no": 0.25, "yes": 0.75}},
        {"label": "no", "score": 0.5, "scores": {"no": 0.5, "yes": 0.5}},
    ]


def test_classification_refuses_what_it_is_not_sure_of_and_still_tells_the_scores(base: ServingSpec) -> None:
    spec = spec_of(base, "classification", ["no", "yes"], refuse_below=0.75)
    assert results([floats([0.25, 0.75]), floats([0.375, 0.625])], spec=spec, items=[ITEM, ITEM]) == [
        {"label": "yes", "score": 0.75, "scores": {"no": 0.25, "yes": 0.75}},
        {"label": None, "refused": True, "score": 0.625, "scores": {"no": 0.375, "yes": 0.625}},
    ]


def test_multi_label_tells_the_labels_at_their_thresholds_highest_first(base: ServingSpec) -> None:
    spec = spec_of(base, "multi-label", ["a", "b", "c"], thresholds=(0.25, 0.5, 0.5))
    rows = [floats([0.25, 0.75, 0.375]), floats([0.125, 0.375, 0.25]), floats([0.5, 0.5, 0.5])]
    assert results(rows, spec=spec, items=[ITEM] * 3) == [
        {"labels": ["b", "a"], "scores": {"a": 0.25, "b": 0.75, "c": 0.375}},
        {"labels": [], "scores": {"a": 0.125, "b": 0.375, "c": 0.25}},
        {"labels": ["a", "b", "c"], "scores": {"a": 0.5, "b": 0.5, "c": 0.5}},
    ]


def test_regression_tells_a_plain_number(base: ServingSpec) -> None:
    spec = spec_of(base, "regression")
    assert results([floats([2.5]), floats([-1.0])], spec=spec, items=[ITEM] * 2) == [{"score": 2.5}, {"score": -1.0}]


def test_embedding_tells_the_vector(base: ServingSpec) -> None:
    spec = spec_of(base, "embedding", dimensions=3)
    assert results([floats([0.5, -0.25, 0.0])], spec=spec, items=[ITEM]) == [{"embedding": [0.5, -0.25, 0.0]}]


@pytest.fixture(scope="module")
def tagging(base: ServingSpec) -> ServingSpec:
    return spec_of(base, "token-classification", ["O", "B-x", "I-x", "B-y"])


def one_hot(tags: Sequence[str], sure: Sequence[float], *, spec: ServingSpec) -> Floats:
    """(L, C): the tag of each token with its probability, the rest shared evenly."""
    rows = [[(1 - p) / (len(spec.labels) - 1)] * len(spec.labels) for p in sure]
    for row, tag, p in zip(rows, tags, sure, strict=True):
        row[spec.labels.index(tag)] = p
    return floats(rows)


def tagged(text: str, offsets: list[Span], tags: Sequence[str], sure: Sequence[float], spec: ServingSpec) -> Any:
    (record,) = results([one_hot(tags, sure, spec=spec)], spec=spec, items=[(text,)], offsets=[offsets])
    return record


def test_an_entity_is_cut_from_the_text_and_as_sure_as_its_words_on_average(tagging: ServingSpec) -> None:
    text = "I met “Ann Lee's” dog"
    offsets = [(0, 0), (0, 1), (2, 5), (6, 7), (7, 8), (8, 10), (11, 14), (14, 16), (16, 17), (18, 21), (0, 0)]
    tags = ["B-y", "O", "O", "O", "B-x", "O", "I-x", "O", "O", "O", "B-y"]
    found = tagged(text, offsets, tags, [0.9, 0.9, 0.9, 0.9, 0.75, 0.9, 0.5, 0.9, 0.9, 0.9, 0.9], tagging)
    assert found == {"entities": [{"label": "x", "start": 7, "end": 14, "text": "Ann Lee", "score": 0.625}]}


def test_only_the_first_sub_token_of_a_word_counts(tagging: ServingSpec) -> None:
    found = tagged("Anna", [(0, 0), (0, 2), (2, 4), (0, 0)], ["O", "B-x", "B-y", "O"], [0.5, 0.5, 0.9, 0.5], tagging)
    assert found == {"entities": [{"label": "x", "start": 0, "end": 4, "text": "Anna", "score": 0.5}]}


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("😀😀 Ann", 3, 6),
        ("👩‍👩‍👧 Ann", 6, 9),
        ("e\u0301te\u0301 Ann", 6, 9),
        ("été Ann", 4, 7),
        ("北京 「Ann", 3, 7),
        ("a\r\n\tAnn", 4, 7),
        ("\u3000北 Ann", 3, 6),
    ],
)
def test_places_count_code_points_so_that_slicing_the_text_gives_the_entity(
    tagging: ServingSpec, text: str, start: int, end: int
) -> None:
    begin = len(text) - len(text.lstrip())
    offsets = [(0, 0), (begin, begin + 1), (start, end), (0, 0)]
    found = tagged(text, offsets, ["O", "O", "B-x", "O"], [0.5] * 4, tagging)
    assert found == {"entities": [{"label": "x", "start": start, "end": end, "text": text[start:end], "score": 0.5}]}


def test_a_word_without_a_token_is_outside_and_parts_what_it_stands_between(tagging: ServingSpec) -> None:
    offsets = [(0, 0), (0, 3), (6, 9), (0, 0)]
    found = tagged("Ann \u200b Lee Rome", offsets, ["O", "B-x", "I-x", "O"], [0.5] * 4, tagging)
    assert [(entity["start"], entity["end"]) for entity in found["entities"]] == [(0, 3), (6, 9)]


def test_texts_without_words_or_entities_have_an_empty_list(tagging: ServingSpec) -> None:
    assert tagged("", [(0, 0), (0, 0)], ["B-x", "B-x"], [0.5, 0.5], tagging) == {"entities": []}
    assert tagged("an", [(0, 0), (0, 2), (0, 0)], ["O", "O", "O"], [0.5] * 3, tagging) == {"entities": []}


def test_each_text_is_tagged_by_its_own_tokens(tagging: ServingSpec) -> None:
    scores = [one_hot(["O", "B-x"], [0.5, 0.5], spec=tagging), one_hot(["O", "O", "B-y"], [0.5] * 3, spec=tagging)]
    offsets = [[(0, 0), (0, 3)], [(0, 0), (0, 2), (3, 5)]]
    found = results(scores, spec=tagging, items=[("Ann",), ("in Bo",)], offsets=offsets)
    assert found == [
        {"entities": [{"label": "x", "start": 0, "end": 3, "text": "Ann", "score": 0.5}]},
        {"entities": [{"label": "y", "start": 3, "end": 5, "text": "Bo", "score": 0.5}]},
    ]


def test_tags_are_the_best_labels_of_words_and_outside_where_there_is_none() -> None:
    scores = of_words(floats([[0.9, 0.1], [0.2, 0.8]]), tokens=[(1, 2), (-1, -1), (0, 1)], aggregation="first")
    assert tags_of(scores, labels=("O", "B-x")) == ["B-x", "O", "O"]
    assert tags_of(scores, labels=("B-x", "I-x")) == ["I-x", "O", "B-x"]


@pytest.mark.parametrize(
    ("aggregation", "label", "score"), [("first", "x", 0.5), ("average", "x", 0.4), ("max", "y", 0.6)]
)
def test_a_word_s_tag_is_told_as_the_bundle_says(
    tagging: ServingSpec, aggregation: Aggregation, label: str, score: float
) -> None:
    rows = floats([[1, 0, 0, 0], [0.3, 0.5, 0, 0.2], [0, 0.4, 0, 0.6], [0.7, 0.3, 0, 0], [1, 0, 0, 0]])
    spec = msgspec.structs.replace(tagging, aggregation=aggregation)
    if aggregation == "max":
        rows[3] = [0.5, 0.5, 0, 0]
    offsets = [(0, 0), (0, 2), (2, 4), (4, 5), (0, 0)]
    (record,) = results([rows], spec=spec, items=[("Annie",)], offsets=[offsets])
    (entity,) = record["entities"]  # type: ignore[misc]
    assert (entity["label"], entity["start"], entity["end"]) == (label, 0, 5)
    assert entity["score"] == pytest.approx(score)


def test_of_token_ids_every_token_is_told_since_nobody_knows_its_characters(tagging: ServingSpec) -> None:
    scores = one_hot(["O", "B-x", "O"], [0.5, 0.75, 0.5], spec=tagging)
    items = [Tokens([2, 5, 3], [0, 0, 0])]
    assert results([scores], spec=tagging, items=items, offsets=[()]) == [
        {"tokens": [{"label": "O", "score": 0.5}, {"label": "B-x", "score": 0.75}, {"label": "O", "score": 0.5}]}
    ]


def test_answers_need_no_onnxruntime(tmp_path: Path) -> None:
    asking = "import sys, serving.answers; print(sorted({'onnxruntime', 'tokenizers', 'torch'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout == "[]\n"
