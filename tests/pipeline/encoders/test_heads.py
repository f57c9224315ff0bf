"""What stands behind an encoder: drawn from the seed and named after the labels, and read back as it was left."""

import json
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import torch
from models import LABELS, MAX_LENGTH, TAGS, classifier_folder, encoder_folder, task_of, tuned_folder

from pipeline.data.batches import tokenize
from pipeline.encoders.heads import load_for_task, load_tuned, pooled_as
from pipeline.encoders.sentences import Pooled, write_pooled
from pipeline.encoders.teachers import load_encoder, load_tokenizer
from pipeline.errors import BadArtifact, BadRequest
from pipeline.predicting import predict
from pipeline.tasking.fitted import Fitted

TASK = task_of("classification")
HEADED = {
    "classification": (("sad", "so-so", "happy"), "BertForSequenceClassification", "single_label_classification"),
    "multi-label": (("sad", "happy"), "BertForSequenceClassification", "multi_label_classification"),
    "regression": ((), "BertForSequenceClassification", "regression"),
    "token-classification": (TAGS, "BertForTokenClassification", None),
}


# -- fresh -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HEADED)
def test_the_labels_are_named_in_the_saved_config_and_the_head_is_the_tasks(kind: str, tmp_path: Path) -> None:
    labels, architecture, problem = HEADED[kind]
    model = load_for_task(encoder_folder(tmp_path / "encoder", layers=1), task_of(kind), labels, seed=0)
    model.save_pretrained(tmp_path / "saved")

    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    names = labels or ("score",)
    assert config["architectures"] == [architecture]
    assert config["id2label"] == {str(place): name for place, name in enumerate(names)}
    assert config["label2id"] == {name: place for place, name in enumerate(names)}
    assert config.get("problem_type") == problem
    assert config["dtype"] == "float32"
    assert tuple(model.classifier.weight.shape) == (len(names), 48)


@pytest.mark.parametrize("kind", ["classification", "token-classification"])
@pytest.mark.parametrize("family", models.FAMILIES)
def test_the_encoder_is_the_folders_and_the_head_depends_on_the_seed_alone(
    family: str, kind: str, tmp_path: Path
) -> None:
    folder, task = encoder_folder(tmp_path / "encoder", family, layers=1), task_of(kind)

    first = load_for_task(folder, task, LABELS, seed=1).state_dict()
    torch.rand(7)
    again, other = (load_for_task(folder, task, LABELS, seed=seed).state_dict() for seed in (1, 2))

    encoder = load_encoder(folder).state_dict()
    prefix = {"xlm-roberta": "roberta"}.get(family, family)
    shared = [name for name in encoder if f"{prefix}.{name}" in first]
    assert len(shared) >= len(encoder) - 2  # RoBERTa's classifier and every tagger have no pooler
    assert all(torch.equal(encoder[name], first[f"{prefix}.{name}"]) for name in shared)
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())
    head = [name for name in first if not name.startswith(f"{prefix}.") and name.endswith("weight")]
    assert head
    assert not any(torch.equal(first[name], other[name]) for name in head)


def test_a_head_whose_layers_have_no_bias_is_drawn_too(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path, "modernbert", layers=1)

    model = load_for_task(folder, TASK, LABELS, seed=1)

    assert model.head.dense.bias is None
    assert model.classifier.bias.abs().max() == 0


@pytest.mark.parametrize("stored", [LABELS, ("a", "b", "c")], ids=["same size", "another size"])
def test_a_head_of_another_task_is_not_used(stored: tuple[str, ...], tmp_path: Path) -> None:
    """A fine-tuned model of the hub may be a teacher for any task."""
    folder = classifier_folder(tmp_path / "classifier", labels=stored, layers=1, initializer_range=0.02)

    model = load_for_task(folder, TASK, LABELS, seed=1)

    plain = load_for_task(encoder_folder(tmp_path / "plain", layers=1, initializer_range=0.02), TASK, LABELS, seed=1)
    assert torch.equal(model.classifier.weight, plain.classifier.weight)
    assert model.classifier.bias.abs().max() == 0


def test_a_classifier_may_become_a_tagger(tmp_path: Path) -> None:
    folder = classifier_folder(tmp_path / "classifier", layers=1, initializer_range=0.02)

    model = load_for_task(folder, task_of("token-classification"), TAGS, seed=1)

    assert model.config.id2label == dict(enumerate(TAGS))
    assert torch.equal(
        model.bert.embeddings.word_embeddings.weight, load_encoder(folder).embeddings.word_embeddings.weight
    )


# -- vectors -----------------------------------------------------------------------------------------------------------


def test_vectors_need_no_head_and_the_encoder_is_the_folders(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path, layers=1)

    model = load_for_task(folder, task_of("embedding"), (), seed=1)

    wanted = {name: weight for name, weight in load_encoder(folder).state_dict().items() if "pooler" not in name}
    found = {name.removeprefix("encoder."): weight for name, weight in model.state_dict().items()}
    assert found.keys() == wanted.keys()
    assert all(torch.equal(weight, found[name]) for name, weight in wanted.items())


def test_a_student_pools_as_its_teachers_folder_says_and_a_teacher_as_its_own(tmp_path: Path) -> None:
    task, folder = task_of("embedding"), encoder_folder(tmp_path / "student", layers=1)
    teacher = encoder_folder(tmp_path / "teacher", layers=1, seed=1)
    write_pooled(teacher, Pooled("cls", normalize=True), width=48)

    assert load_for_task(folder, task, (), seed=0, teacher=teacher).pooled == Pooled("cls", normalize=True)
    assert load_for_task(teacher, task, (), seed=0).pooled == Pooled("cls", normalize=True)
    assert load_for_task(folder, task, (), seed=0).pooled == Pooled("mean", normalize=True)  # nothing says otherwise


def test_what_the_task_says_of_pooling_comes_first(tmp_path: Path) -> None:
    write_pooled(tmp_path, Pooled("cls", normalize=True), width=48)

    asked: Any = task_of("embedding", pooling="mean", normalize=False)

    assert pooled_as(asked, tmp_path) == Pooled("mean", normalize=False)


def test_a_pooling_that_is_not_known_does_not_stand_in_the_way_of_a_task_that_names_its_own(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode": "lasttoken"}')
    as_teacher: Any = task_of("embedding")
    mean: Any = task_of("embedding", pooling="mean")

    assert pooled_as(mean, tmp_path).pooling == "mean"
    with pytest.raises(BadRequest, match="pools by lasttoken"):
        pooled_as(as_teacher, tmp_path)


# -- read back ---------------------------------------------------------------------------------------------------------

TUNED = [
    Fitted("classification", LABELS),
    Fitted("multi-label", LABELS, thresholds=(0.5, 0.5)),
    Fitted("regression"),
    Fitted("token-classification", TAGS),
    Fitted("embedding", dimensions=48),
]


@pytest.mark.parametrize("fitted", TUNED, ids=lambda fitted: fitted.kind)
def test_what_was_left_answers_the_same_by_either_attention(fitted: Fitted, tmp_path: Path) -> None:
    folder = tuned_folder(tmp_path, "bert", fitted, layers=1)
    tokenizer = load_tokenizer(folder)
    tokens = tokenize(models.ITEMS[:6], tokenizer=tokenizer, max_length=MAX_LENGTH)

    asked = {"eager": "eager", "sdpa": "sdpa"}
    read = {name: load_tuned(folder, task_of(fitted.kind), fitted.labels, attention=name) for name in asked}
    eager, sdpa = (predict(model, tokens, pad_id=tokenizer.pad_token_id) for model in read.values())

    assert {name: model.config._attn_implementation for name, model in read.items()} == asked
    assert not any(model.training for model in read.values())
    width = len(fitted.labels) or fitted.dimensions or 1
    assert {row.shape[-1] for row in eager} == {width}
    for one, other in zip(eager, sdpa, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("fitted", [TUNED[0], *TUNED[3:]], ids=lambda fitted: fitted.kind)
def test_a_family_with_attention_of_its_own_is_read_with_that(fitted: Fitted, tmp_path: Path) -> None:
    """As a teacher of its student's task it is asked for the fast attention, which DeBERTa has not."""
    folder = tuned_folder(tmp_path, "deberta-v2", fitted, layers=1)

    model = load_tuned(folder, task_of(fitted.kind), fitted.labels, attention="sdpa")

    assert model.config._attn_implementation == "eager"


def test_a_folder_without_the_head_that_it_names_is_no_tuned_model(tmp_path: Path) -> None:
    """Where a head is missing, one would be drawn at random."""
    folder = encoder_folder(tmp_path, layers=1)
    Fitted("classification", LABELS).write(folder)

    with pytest.raises(BadArtifact) as refused:
        load_tuned(folder, TASK, LABELS)
    assert str(refused.value) == (
        f"{folder}: the weights do not fit config.json: classifier.bias is missing or differs in size (2 in all)"
    )
