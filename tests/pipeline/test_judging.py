"""What each variant's answers are judged to be, and what is found beside its own fp32 and the teacher's."""

from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fakes import LABELS, tiny_bundle
from models import Fitted, task_of, tuned_folder

from benchmarks.session import Variant
from benchmarks.targets import OrtCpu, Torch
from pipeline import diagnostics, quality
from pipeline.errors import BadArtifact, BadRequest
from pipeline.judging import (
    Answered,
    Behind,
    answered,
    behind,
    facts_of,
    gate_scores,
    own_fp32,
    said_of,
    scores,
)
from pipeline.tasking.base import Judged, Split, TaskData
from pipeline.tasking.tagging import Tagging
from serving.answers import probabilities, results
from serving.bundle import Aggregation, TaskKind, read_bundle
from serving.engine import Engine
from serving.long_texts import Windows


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


def values(found: Answered) -> dict[str, float]:
    return {name: one.value for name, one in scores(found).items()}


# -- in what a variant answers -----------------------------------------------------------------------------------------


def test_a_bundle_and_a_folder_say_themselves_what_they_answer_in(tmp_path: Path) -> None:
    fitted = Fitted("multi-label", ("negative", "positive"), thresholds=(0.3, 0.7))
    tuned = tuned_folder(tmp_path / "tuned", "bert", fitted, layers=1)

    sealed = bundle(tmp_path / "sealed", task="multi-label", thresholds=(0.3, 0.7), max_length=12)

    assert said_of(sealed) == (fitted, 12)
    assert said_of(Variant("torch", Torch(task="multi-label", max_length=20), tuned)) == (fitted, 20)


def test_each_variant_is_judged_by_its_own_thresholds(tmp_path: Path, said: dict[str, Any]) -> None:
    """The same answers, of which one variant gives the label and the other does not."""
    data = data_of("multi-label", ["good", "bad"], [(0, 1), (1, 0)])
    answers = logits([-5, 0.0], [5, 0.0])  # 0.0 is a probability of 0.5
    low = bundle(tmp_path / "low", task="multi-label", thresholds=(0.5, 0.4))
    high = bundle(tmp_path / "high", task="multi-label", thresholds=(0.5, 0.6))
    said |= {"low": answers, "high": answers}

    task = task_of("multi-label")
    found = {variant.name: values(answered(variant, tmp_path, task, data)) for variant in (low, high)}

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
    found = {variant.name: answered(variant, tmp_path, task, data) for variant in (long, short)}

    assert found["l"].first.answers == [("O", "B-mood", "O", "O", "B-mood")]
    assert found["s"].first.answers == [("O", "B-mood", "O", "O", "O")]
    assert [values(one)["entity_f1"] for one in found.values()] == [1.0, pytest.approx(2 / 3)]
    assert [one.lengths for one in found.values()] == [[7], [6]]


def test_a_variant_that_reads_long_texts_in_windows_is_judged_on_all_of_them(
    tmp_path: Path, said: dict[str, Any]
) -> None:
    text, words = "a good fine day bad", ((0, 1), (2, 6), (7, 11), (12, 15), (16, 19))
    data = data_of("token-classification", [text], [Tagging(words, (0, 1, 0, 0, 1))])
    windows = Windows(stride=2, max_windows=3)
    variant = bundle(tmp_path / "w", task="token-classification", max_length=6, long_texts=windows)
    mood, none = [0, 8, 0], [8, 0, 0]
    said["w"] = logits([none, none, mood, none, none, mood, none])

    found = answered(variant, tmp_path, task_of("token-classification"), data)

    assert said_of(variant)[1] == 18
    assert found.first.answers == [("O", "B-mood", "O", "O", "B-mood")]
    assert found.lengths == [7]


@pytest.mark.parametrize(("aggregation", "tag"), [("first", "O"), ("average", "B-mood"), ("max", "I-mood")])
def test_words_are_judged_by_the_tags_that_the_server_gives_them(
    tmp_path: Path, said: dict[str, Any], aggregation: Aggregation, tag: str
) -> None:
    data = data_of("token-classification", ["good-bad"], [Tagging(((0, 8),), (1,))])
    variant = bundle(tmp_path / "v", task="token-classification", aggregation=aggregation)
    rows = [[1.0, 0, 0], [0.5, 0.4, 0.1], [0.2, 0.5, 0.3], [0.2, 0.2, 0.6], [1.0, 0, 0]]
    said["v"] = logits(np.log(np.array(rows) + 1e-9))

    found = answered(variant, tmp_path, task_of("token-classification"), data)
    spec = read_bundle(variant.path).spec
    (scores,) = [probabilities(row, task="token-classification") for row in said["v"]]
    spans = [(0, 0), (0, 4), (4, 5), (5, 8), (0, 0)]
    (record,) = results([scores], spec=spec, items=[("good-bad",)], offsets=[spans])

    assert found.first.answers == [(tag,)]
    assert record["entities"] == [] if tag == "O" else len(record["entities"]) == 1  # type: ignore[arg-type]


def test_texts_outside_are_judged_by_the_refusal_that_a_variant_carries(tmp_path: Path, said: dict[str, Any]) -> None:
    data = data_of("classification", ["good", "bad", "dull"], [1, 0, 0], outside=["what", "why"])
    variant = bundle(tmp_path / "v", refuse_below=0.9)
    said["v"] = logits([0, 9], [9, 0], [0, 1], [0, 0], [0, 9])

    task = task_of("classification", refusal={"data": {"kind": "files", "train": "in.csv", "test": "out.csv"}})
    found = values(answered(variant, tmp_path, task, data))

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
        answered(variant, tmp_path, task_of(kind), data_of(kind, ["good"], [0]))
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

    found = answered(variant, tmp_path, task_of(kind), data_of(kind, texts, labels)).first.answers

    answer = engine.answer(items)
    told = results(answer.scores, spec=engine.bundle.spec, items=items, offsets=answer.offsets)
    if kind == "classification":
        assert [LABELS[kind][label] for label in found] == [each["label"] for each in told]
    else:
        assert found == [("O", "B-mood", "O"), ("O", "I-mood", "O")]
        assert [[e["text"] for e in each["entities"]] for each in told] == [["good"], ["awful"]]  # type: ignore[attr-defined]


def test_a_model_of_other_labels_than_the_data_is_refused(tmp_path: Path, said: dict[str, Any]) -> None:
    variant = bundle(tmp_path / "v", labels=("bad", "good"))
    said["v"] = logits([0, 1])

    with pytest.raises(BadArtifact) as refused:
        answered(variant, tmp_path, task_of("classification"), data_of("classification", ["good"], [0]))
    assert str(refused.value) == (
        "v answers in the labels bad, good, the data has negative, positive: judge it on the data it was fine-tuned "
        "for, or fine-tune it on this"
    )


def test_many_labels_are_shown_in_part(tmp_path: Path, said: dict[str, Any]) -> None:
    variant = bundle(tmp_path / "v", labels=[f"l{i}" for i in range(12)])
    said["v"] = logits(range(12))

    with pytest.raises(BadArtifact, match=r"l8, l9, \.\.\. \(12\), the data has negative"):
        answered(variant, tmp_path, task_of("classification"), data_of("classification", ["good"], [0]))


def test_a_pair_of_vectors_is_as_long_as_the_longer_text(tmp_path: Path, said: dict[str, Any]) -> None:
    variant = bundle(tmp_path / "v", task="embedding")
    items = tuple((text,) for text in ("good", "good day", "a fine bad day", "bad"))
    said["v"] = logits(*np.eye(4, 3))

    data = TaskData((), {"test": Split(items, (0.1, 0.9))}, 0)
    assert answered(variant, tmp_path, task_of("embedding"), data).lengths == [4, 6]


# -- beside an fp32 ----------------------------------------------------------------------------------------------------

TEACHER, TORCH = "teacher-onnx-fp32", "teacher-torch-fp32"
STUDENT, INT8 = "student-onnx-fp32", "student-onnx-int8"
N = 120
RNG = np.random.default_rng(0)
HIGHEST: dict[TaskKind, str] = {
    "classification": "accuracy",
    "multi-label": "micro_f1",
    "regression": "spearman",
    "token-classification": "entity_f1",
    "embedding": "spearman",
}

GATED: dict[TaskKind, tuple[str, ...]] = {
    "classification": ("drop", "flips", "ece"),
    "multi-label": ("drop", "flips", "ece"),
    "token-classification": ("drop", "flips"),
    "regression": ("drop",),
    "embedding": ("drop",),
}


def worse(truths: Any, share: float, kind: TaskKind) -> Any:
    """The truths, of which a share is answered otherwise; of numbers: with as much noise."""
    rng = np.random.default_rng(int(1000 * share))
    if kind == "token-classification":
        return [tuple("O" if rng.random() < share else tag for tag in tags) for tags in truths]
    if kind in ("regression", "embedding"):
        return truths + share * rng.normal(size=N)
    return np.where(rng.random(truths.shape) < share, 1 - truths, truths)


def truths_of(kind: TaskKind) -> Any:
    if kind == "token-classification":
        return [("O", "B-mood", "I-mood")] * N
    if kind in ("regression", "embedding"):
        return RNG.normal(size=N)
    return RNG.integers(2, size=(N, 2) if kind == "multi-label" else N)


def chances_of(answers: Any, kind: TaskKind) -> Any:
    """As sure as can be doubted: 0.9 of each answer."""
    if kind == "multi-label":
        return np.where(answers == 1, 0.9, 0.1)
    return np.stack([np.where(answers == label, 0.9, 0.1) for label in (0, 1)], axis=1)


@cache
def answering(kind: TaskKind) -> dict[str, Answered]:
    """Four variants, each a little worse than the one it was made from."""
    labels, sure = truths_of(kind), kind in ("classification", "multi-label")
    found = {}
    for name, share in ((TORCH, 0.1), (TEACHER, 0.1), (STUDENT, 0.2), (INT8, 0.5)):
        answers = worse(labels, share, kind)
        figures = {HIGHEST[kind]: Judged(HIGHEST[kind], answers, labels)}
        lengths = [7] * 50 + [20] * 65 + [60] * 5
        found[name] = Answered(figures, lengths, chances_of(answers, kind) if sure else None)
    return found


@cache
def judged(kind: TaskKind) -> dict[str, Behind]:
    return behind(answering(kind), task_of(kind), LABELS[kind])


KINDS = list(HIGHEST)


@pytest.mark.parametrize("kind", KINDS)
def test_every_variant_is_compared_with_its_own_fp32_and_with_the_teachers(kind: TaskKind) -> None:
    found = judged(kind)

    assert {name: one.against_fp32.against for name, one in found.items() if one.against_fp32} == {
        TORCH: TEACHER,
        INT8: STUDENT,
    }
    assert {name: one.against_teacher.against for name, one in found.items() if one.against_teacher} == dict.fromkeys(
        (TORCH, STUDENT, INT8), TEACHER
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_comparison_is_made_of_the_answers_as_they_are(kind: TaskKind) -> None:
    variants = answering(kind)
    mine, theirs, labels = variants[INT8].first.answers, variants[STUDENT].first.answers, variants[INT8].first.labels

    compared = judged(kind)[INT8].against_fp32

    assert compared is not None
    assert compared.difference == quality.paired_difference(HIGHEST[kind], mine, theirs, labels)
    assert compared.difference.estimate < 0
    if kind == "classification":
        assert compared.mcnemar == diagnostics.mcnemar(mine, theirs, labels)
    if kind not in ("regression", "embedding"):
        assert compared.flips == diagnostics.flips(mine, theirs)
    if variants[INT8].chances is not None:
        ece = diagnostics.calibration_difference(variants[INT8].chances, variants[STUDENT].chances, labels)
        assert compared.ece_difference == ece


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("classification", {"mcnemar", "flips", "ece_difference", "ece", "by_class"}),
        ("multi-label", {"flips", "ece_difference", "ece", "by_class"}),
        ("token-classification", {"flips", "by_class"}),
        ("regression", set()),
        ("embedding", set()),
    ],
)
def test_what_makes_no_sense_for_a_task_is_not_there(kind: TaskKind, parts: set[str]) -> None:
    told = msgspec.to_builtins(judged(kind)[INT8])

    assert {*told, *told["against_fp32"]} == parts | {
        *("by_length", "against_fp32", "against_teacher", "against", "difference")
    }


def test_each_range_of_lengths_and_each_class_has_its_figures() -> None:
    found = judged("classification")[INT8]

    assert {name: part.n for name, part in found.by_length.items()} == {"1-8": 50, "17-32": 65}, "60: too few"
    assert tuple(found.by_class) == LABELS["classification"]
    assert sum(part.support for part in found.by_class.values()) == N


def test_the_manifest_has_all_but_the_classes() -> None:
    found = judged("classification")
    facts = facts_of(found)

    assert {part: set(each) for part, each in facts.items()} == {
        "against_fp32": {TORCH, INT8},
        "against_teacher": {TORCH, STUDENT, INT8},
        "by_length": {*found},
        "ece": {*found},
    }
    assert facts_of(judged("regression"))["ece"] == {}


@pytest.mark.parametrize(
    ("name", "fp32"),
    [
        (INT8, STUDENT),
        (STUDENT, STUDENT),
        (TORCH, TEACHER),
        ("student-openvino-bf16", STUDENT),
        ("student-wide-onnx-int8", "student-wide-onnx-fp32"),
    ],
)
def test_the_fp32_of_a_variant_is_that_of_its_own_student(name: str, fp32: str) -> None:
    assert own_fp32(name, [name, TEACHER, STUDENT, "student-wide-onnx-fp32"]) == fp32


def test_a_variant_measured_without_its_fp32_is_refused_with_those_that_were() -> None:
    with pytest.raises(BadRequest) as refused:
        own_fp32("small-onnx-int8", [TEACHER, STUDENT, "small-onnx-int8"])
    assert str(refused.value) == (
        "variant small-onnx-int8 has no fp32 of its own to be compared with: measured in fp32 are teacher-onnx-fp32, "
        "student-onnx-fp32; measure it beside NAME-onnx-fp32, NAME being what its own name begins with"
    )


# -- for the gate ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_gate_gets_what_the_task_has_and_a_drop_is_a_loss(kind: TaskKind) -> None:
    found = judged(kind)
    told = gate_scores(found[INT8], task_of(kind), n=N)

    assert tuple(told) == task_of(kind).compared == GATED[kind]
    compared = found[INT8].against_fp32
    assert compared is not None
    lost = compared.difference
    assert told["drop"] == quality.Score("drop", -lost.estimate, -lost.high, -lost.low, N)
    assert told["drop"].low < told["drop"].value < told["drop"].high
    assert all(one.low <= one.value <= one.high for one in told.values())


def test_an_fp32_has_lost_nothing_to_itself() -> None:
    """So that a gate on drops does not shut it out."""
    found = judged("classification")
    told = gate_scores(found[STUDENT], task_of("classification"), n=N)
    assert told == {
        "drop": quality.Score("drop", 0.0, 0.0, 0.0, N),
        "flips": quality.Score("flips", 0.0, 0.0, 0.0, N),
        "ece": found[STUDENT].ece,
    }
