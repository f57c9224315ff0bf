"""benchmark as a stage: what each variant's answers are judged to be; measuring is tested in tests/benchmarks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import LABELS, tiny_bundle
from models import Fitted, task_of, tuned_folder

from benchmarks.session import Variant
from benchmarks.targets import OrtCpu, Torch
from pipeline import quality
from pipeline.errors import BadArtifact
from pipeline.stages.benchmark import _against_teacher, _judged, _said_of, _score
from pipeline.tasking.base import Judged, Split, TaskData
from pipeline.tasking.tagging import Tagging
from serving.bundle import TaskKind
from serving.engine import Engine


def bundle(path: Path, **settings: Any) -> Variant:
    return Variant(path.name, OrtCpu(), tiny_bundle(path, **settings).path)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each variant answered, by its name: in place of the files that a session leaves."""
    outputs: dict[str, Any] = {}
    monkeypatch.setattr("benchmarks.receipt.read_logits", lambda _folder, name: outputs[name])
    return outputs


def data_of(kind: TaskKind, items: list[str], labels: list[Any], outside: list[str] | None = None) -> TaskData:
    test = Split(tuple((text,) for text in items), tuple(labels))
    return TaskData(LABELS[kind], {"test": test}, 0, tuple((text,) for text in outside or []))


def logits(*rows: Any) -> list[Any]:
    return [np.asarray(row, np.float32) for row in rows]


def values(judged: dict[str, Judged]) -> dict[str, float]:
    return {name: _score(one).value for name, one in judged.items()}


# -- in what a variant answers -----------------------------------------------------------------------------------------


def test_a_bundle_and_a_folder_say_themselves_what_they_answer_in(tmp_path: Path) -> None:
    fitted = Fitted("multi-label", ("negative", "positive"), thresholds=(0.3, 0.7))
    tuned = tuned_folder(tmp_path / "tuned", "bert", fitted, layers=1)

    sealed = bundle(tmp_path / "sealed", task="multi-label", thresholds=(0.3, 0.7), max_length=12)

    assert _said_of(sealed) == (fitted, 12)
    assert _said_of(Variant("torch", Torch(task="multi-label", max_length=20), tuned)) == (fitted, 20)


def test_each_variant_is_judged_by_its_own_thresholds(tmp_path: Path, said: dict[str, Any]) -> None:
    """The same answers, of which one variant gives the label and the other does not."""
    data = data_of("multi-label", ["good", "bad"], [(0, 1), (1, 0)])
    answers = logits([-5, 0.0], [5, 0.0])  # 0.0 is a probability of 0.5
    low = bundle(tmp_path / "low", task="multi-label", thresholds=(0.5, 0.4))
    high = bundle(tmp_path / "high", task="multi-label", thresholds=(0.5, 0.6))
    said |= {"low": answers, "high": answers}

    task = task_of("multi-label")
    found = {variant.name: values(_judged(variant, tmp_path, task, data)) for variant in (low, high)}

    assert found["low"] == {"micro_f1": pytest.approx(0.8), "macro_f1": pytest.approx(5 / 6)}
    assert found["high"] == {"micro_f1": pytest.approx(2 / 3), "macro_f1": pytest.approx(0.5)}


def test_a_variant_that_cuts_texts_earlier_misses_what_stands_behind(tmp_path: Path, said: dict[str, Any]) -> None:
    """Words are found by the variant's own tokenizer at its own length; O is the answer for one that was cut away."""
    text, words = "a good fine day bad", ((0, 1), (2, 6), (7, 11), (12, 15), (16, 19))
    data = data_of("token-classification", [text], [Tagging(words, (0, 1, 0, 0, 1))])
    # The sixth token of the short one is [SEP], whatever is said of it.
    long, short = (
        bundle(tmp_path / name, task="token-classification", max_length=length)
        for name, length in (("l", 16), ("s", 6))
    )
    mood, none = [0, 8, 0], [8, 0, 0]
    said |= {"l": logits([none, none, mood, none, none, mood, none]), "s": logits([none, none, mood, none, none, mood])}

    task = task_of("token-classification")
    found = {variant.name: _judged(variant, tmp_path, task, data)["entity_f1"] for variant in (long, short)}

    assert found["l"].answers == [("O", "B-mood", "O", "O", "B-mood")]
    assert found["s"].answers == [("O", "B-mood", "O", "O", "O")]
    assert [_score(one).value for one in found.values()] == [1.0, pytest.approx(2 / 3)]


def test_texts_outside_are_judged_by_the_refusal_that_a_variant_carries(tmp_path: Path, said: dict[str, Any]) -> None:
    data = data_of("classification", ["good", "bad", "dull"], [1, 0, 0], outside=["what", "why"])
    variant = bundle(tmp_path / "v", refuse_below=0.9)
    said["v"] = logits([0, 9], [9, 0], [0, 1], [0, 0], [0, 9])

    task = task_of("classification", refusal={"data": {"kind": "files", "train": "in.csv", "test": "out.csv"}})
    found = values(_judged(variant, tmp_path, task, data))

    assert tuple(found) == task.figures
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert (found["in_scope_refused"], found["oos_refused"]) == (pytest.approx(1 / 3), 0.5)
    assert found["oos_auroc"] == pytest.approx(4 / 6)  # of six pairs three are right, and two are ties


@pytest.mark.parametrize("kind", ["classification", "token-classification"])
def test_an_answer_that_is_not_finite_is_a_broken_model(kind: TaskKind, tmp_path: Path, said: dict[str, Any]) -> None:
    variant = bundle(tmp_path / "v", task=kind)
    row = [np.nan] * len(LABELS[kind])
    said["v"] = logits([row] * 3 if kind == "token-classification" else row)

    with pytest.raises(BadArtifact) as refused:
        _judged(variant, tmp_path, task_of(kind), data_of(kind, ["good"], [0]))
    assert str(refused.value) == "the logits of 1 of 1 examples are not finite: the model is broken"


@pytest.mark.parametrize("kind", ["classification", "token-classification"])
def test_what_is_judged_is_what_a_client_of_the_bundle_would_be_told(
    kind: TaskKind, tmp_path: Path, said: dict[str, Any]
) -> None:
    """The engine's own outputs, against its results."""
    from serving.answers import results
    from serving.spans import words_of

    variant, texts = bundle(tmp_path / "v", task=kind), ["a good day", "bad awful day"]
    engine, items = Engine(tiny_bundle(tmp_path / "e", task=kind), threads=1), [(text,) for text in texts]
    said["v"] = engine.logits(items)
    labels = [0, 0] if kind == "classification" else [Tagging(tuple(words_of(t)), (0, 0, 0)) for t in texts]

    found = next(iter(_judged(variant, tmp_path, task_of(kind), data_of(kind, texts, labels)).values())).answers

    answer = engine.answer(items)
    told = results(answer.scores, spec=engine.bundle.spec, items=items, offsets=answer.offsets)
    if kind == "classification":
        assert [LABELS[kind][label] for label in found] == [each["label"] for each in told]
    else:
        assert found == [("O", "B-mood", "O"), ("O", "I-mood", "O")]
        assert [[e["text"] for e in each["entities"]] for each in told] == [["good"], ["awful"]]  # type: ignore[attr-defined]


# -- beside the teacher ------------------------------------------------------------------------------------------------

TEACHER = "teacher-onnx-fp32"


def test_every_variant_is_compared_with_the_teacher_and_numbers_do_not_agree() -> None:
    labels = np.array([0, 1, 1, 0])
    mine, theirs = np.array([0, 1, 0, 0]), np.array([0, 1, 1, 1])
    judged = {"student": Judged("accuracy", mine, labels), TEACHER: Judged("accuracy", theirs, labels)}

    found = _against_teacher(judged, numeric=False)

    assert found.keys() == {"student"}
    assert found["student"]["difference"]["estimate"] == 0.0
    assert found["student"]["agreement"]["value"] == quality.agreement(mine, theirs).value == 0.5
    ranks = {name: Judged("spearman", one.answers + 0.5, labels) for name, one in judged.items()}
    assert _against_teacher(ranks, numeric=True)["student"].keys() == {"difference"}
