import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fakes import tiny_bundle

from serving.agreement import Agreement, Compared, Sums, compared, cosines, unlike_answers, unlike_limits
from serving.bundle import ServingSpec, TaskKind
from serving.long_texts import Refuse


def labelled(positive: float) -> dict[str, Any]:
    label = "positive" if positive > 0.5 else "negative"
    return {"label": label, "score": max(positive, 1 - positive)} | {
        "scores": {"negative": 1 - positive, "positive": positive}
    }


def test_classes_agree_by_label_and_are_as_far_apart_as_their_probabilities() -> None:
    found = compared(labelled(0.9), labelled(0.4), task="classification")
    assert found.agrees is False
    assert found.value == pytest.approx(0.9 * math.log(0.9 / 0.4) + 0.1 * math.log(0.1 / 0.6))
    assert compared(labelled(0.9), labelled(0.9), task="classification") == Compared(True, 0.0)


def test_a_probability_of_nought_is_far_away_and_no_infinity() -> None:
    assert compared(labelled(1.0), labelled(0.0), task="classification").value == pytest.approx(math.log(1e9))


def test_an_answer_that_is_refused_by_both_is_the_same_answer() -> None:
    refused = {"label": None, "refused": True, "score": 0.5, "scores": {"negative": 0.5, "positive": 0.5}}
    assert compared(refused, refused, task="classification").agrees is True
    assert compared(refused, labelled(0.6), task="classification").agrees is False


def test_several_labels_agree_as_a_set_and_each_is_a_yes_or_no() -> None:
    first = {"labels": ["b", "a"], "scores": {"a": 0.7, "b": 0.9}}
    second = {"labels": ["a", "b"], "scores": {"a": 0.7, "b": 0.8}}
    found = compared(first, second, task="multi-label")
    assert found.agrees is True
    assert found.value == pytest.approx(0.9 * math.log(0.9 / 0.8) + 0.1 * math.log(0.1 / 0.2))


def test_numbers_differ_by_so_much() -> None:
    assert compared({"score": 2.5}, {"score": 3.0}, task="regression") == Compared(None, 0.5)


def test_vectors_have_a_cosine_each() -> None:
    vectors = [np.array(vector, np.float32) for vector in ([2.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, 0.0], [3.0, 4.0])]
    found = cosines([np.array([1.0, 0.0], np.float32)] * len(vectors), vectors)
    assert found == [Compared(None, cosine) for cosine in (1.0, 0.0, -1.0, 0.0, 0.6)]
    assert cosines([], []) == []


@pytest.mark.parametrize("key", ["entities", "tokens"])
def test_entities_agree_by_label_and_place_and_not_by_how_sure_a_model_is(key: str) -> None:
    entity = {"label": "x", "start": 0, "end": 3, "text": "Ann", "score": 0.9}
    surer, other = entity | {"score": 0.99}, entity | {"label": "y"}
    task: TaskKind = "token-classification"
    assert compared({key: [entity]}, {key: [surer]}, task=task) == Compared(True, None)
    assert compared({key: [entity]}, {key: [other]}, task=task) == Compared(False, None)
    assert compared({key: [entity]}, {key: []}, task=task) == Compared(False, None)


def test_the_worst_divergence_is_the_largest_and_the_worst_cosine_the_smallest() -> None:
    classes, vectors = Agreement("classification"), Agreement("embedding")
    classes.add([Compared(True, 0.0), Compared(False, 0.5)])
    vectors.add([Compared(None, 1.0), Compared(None, 0.5)])
    assert classes.sums() == Sums(compared=2, asked=2, agreed=1, mean=0.25, worst=0.5)
    assert vectors.sums() == Sums(compared=2, asked=0, agreed=0, mean=0.75, worst=0.5)


def test_before_anything_was_compared_there_is_no_mean() -> None:
    assert Agreement("classification").sums() == Sums(0, 0, 0, None, None)


def spec(root: Path, **options: Any) -> ServingSpec:
    return tiny_bundle(root / str(len(list(root.iterdir()))), **options).spec


def test_answers_are_compared_of_models_for_the_same_task_and_labels(tmp_path: Path) -> None:
    plain, vectors = spec(tmp_path), spec(tmp_path, task="embedding")
    assert unlike_answers(plain, spec(tmp_path, labels=("positive", "negative"))) == ""
    assert unlike_answers(plain, spec(tmp_path, labels=("a", "b"))) == "its labels are others"
    assert unlike_answers(plain, spec(tmp_path, task="multi-label")) == "it does multi-label, not classification"
    assert unlike_answers(plain, spec(tmp_path, texts_per_item=2)) == "it reads 2 text(s) per item, not 1"
    assert unlike_answers(vectors, spec(tmp_path, task="embedding")) == ""
    wider = msgspec.structs.replace(vectors, dimensions=7)
    assert unlike_answers(vectors, wider) == "its vectors have 7 dimensions, not 3"


@pytest.mark.parametrize(
    "limit", [{"max_items": 8}, {"max_characters": 100}, {"max_length": 8}, {"long_texts": Refuse()}]
)
def test_a_model_that_would_refuse_or_cut_more_or_less_has_other_limits(tmp_path: Path, limit: dict[str, Any]) -> None:
    plain, other = spec(tmp_path), spec(tmp_path, **limit)
    assert unlike_answers(plain, other) == unlike_limits(plain, spec(tmp_path, bias=1.0)) == ""
    assert unlike_limits(plain, other) == f"its {next(iter(limit))} in serving.yaml is other"


def test_all_limits_that_are_other_are_named(tmp_path: Path) -> None:
    other = spec(tmp_path, max_items=8, max_length=8)
    assert unlike_limits(spec(tmp_path), other) == "its max_items, max_length in serving.yaml are other"
