"""Sentence vectors: pooled as the plain formula says, padding or not, and a folder that says how."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import encoder_folder, sentences, task_of, tiny_encoder, tiny_tokenizer

from pipeline.data.batches import tokenize
from pipeline.encoders.heads import load_for_task, load_tuned
from pipeline.encoders.sentences import POOLING_FILE, Pooled, SentenceEncoder, carry_pooling, read_pooling
from pipeline.encoders.students import save_encoder
from pipeline.encoders.teachers import load_encoder
from pipeline.errors import BadArtifact, BadRequest
from pipeline.predicting import predict

TEXTS = sentences(12)
POOLED = [Pooled("mean", normalize=True), Pooled("cls", normalize=True), Pooled("mean", normalize=False)]


def vectors(model: Any, texts: list[str], family: str = "bert") -> Any:
    tokenizer = tiny_tokenizer(family)
    tokens = tokenize([(text,) for text in texts], tokenizer=tokenizer, max_length=24)
    return np.stack(predict(model, tokens, pad_id=tokenizer.pad_token_id))


# -- pooling -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooled", POOLED, ids=str)
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_vector_is_the_mean_of_the_real_tokens_states_or_the_first_ones(family: str, pooled: Pooled) -> None:
    """Batched with padding, against each text alone."""
    encoder = tiny_encoder(family)

    found = vectors(SentenceEncoder(tiny_encoder(family), pooled).eval(), TEXTS, family)

    for text, vector in zip(TEXTS, found, strict=True):
        ids = torch.tensor([tiny_tokenizer(family)(text).input_ids])
        with torch.inference_mode():
            states_LD = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].numpy()
        wanted = states_LD[0] if pooled.pooling == "cls" else states_LD.mean(axis=0)
        wanted = wanted / np.linalg.norm(wanted) if pooled.normalize else wanted
        np.testing.assert_allclose(vector, wanted, atol=1e-5)
    assert (np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5) == pooled.normalize


def test_a_classifiers_pooler_is_left_behind() -> None:
    """No vector goes through it, so it is neither trained, saved nor counted."""
    model = SentenceEncoder(tiny_encoder("bert"), POOLED[0])

    assert not [name for name, _ in model.named_parameters() if "pooler" in name]


def test_hidden_states_are_handed_on_where_they_are_asked_for() -> None:
    model, ids = SentenceEncoder(tiny_encoder("bert", layers=2), POOLED[0]).eval(), torch.tensor([[2, 7, 9, 3]])
    mask = torch.ones_like(ids)

    assert model(ids, mask).hidden_states is None
    states = model(ids, mask, output_hidden_states=True).hidden_states

    assert [tuple(state.shape) for state in states] == [(1, 4, 48)] * 3
    mean_D = states[-1][0].mean(dim=0)
    torch.testing.assert_close(model(ids, mask).logits[0], mean_D / mean_D.norm())


# -- the folder --------------------------------------------------------------------------------------------------------


def saved(folder: Path, pooled: Pooled) -> SentenceEncoder:
    model = SentenceEncoder(tiny_encoder("bert", layers=1), pooled).eval()
    model.save_pretrained(folder)
    tiny_tokenizer("bert").save_pretrained(folder)
    return model


@pytest.mark.parametrize("pooled", POOLED, ids=str)
def test_a_folder_read_back_gives_the_same_vectors(pooled: Pooled, tmp_path: Path) -> None:
    model = saved(tmp_path, pooled)

    again = load_tuned(tmp_path, task_of("embedding", normalize=pooled.normalize))

    assert again.pooled == pooled
    np.testing.assert_allclose(vectors(again, TEXTS), vectors(model, TEXTS), atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # the library's own
@pytest.mark.parametrize("pooled", POOLED, ids=str)
def test_sentence_transformers_reads_the_folder_and_gives_the_same_vectors(pooled: Pooled, tmp_path: Path) -> None:
    library: Any = pytest.importorskip("sentence_transformers")
    model = saved(tmp_path, pooled)

    theirs = library.SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS, show_progress_bar=False)

    np.testing.assert_allclose(theirs, vectors(model, TEXTS), atol=1e-5)


def test_the_folder_says_how_it_pools_as_sentence_transformers_writes_it(tmp_path: Path) -> None:
    saved(tmp_path / "unit", Pooled("cls", normalize=True))
    saved(tmp_path / "plain", Pooled("mean", normalize=False))

    names = {"unit": ["", "1_Pooling", "2_Normalize"], "plain": ["", "1_Pooling"]}
    for kind, paths in names.items():
        modules = json.loads((tmp_path / kind / "modules.json").read_text())
        assert [module["path"] for module in modules] == paths
        assert [module["type"] for module in modules] == [
            f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Normalize")[: len(paths)]
        ]
        assert (tmp_path / kind / "2_Normalize").is_dir() == (kind == "unit")
    assert json.loads((tmp_path / "unit" / POOLING_FILE).read_text()) == {
        "pooling_mode_mean_tokens": False,
        "pooling_mode_cls_token": True,
        "word_embedding_dimension": 48,
    }


def test_an_encoder_made_from_another_is_pooled_as_that(tmp_path: Path) -> None:
    saved(tmp_path / "teacher", Pooled("cls", normalize=True))
    for name in ("student", "again"):
        save_encoder(tiny_encoder("bert", layers=1), tiny_tokenizer("bert"), tmp_path / name, like=tmp_path / "teacher")
    assert read_pooling(tmp_path / "student") == "cls"
    assert load_for_task(tmp_path / "student", task_of("embedding"), (), seed=0).pooled == Pooled("cls", normalize=True)
    carry_pooling(tmp_path / "teacher", tmp_path / "again", width=24)
    assert json.loads((tmp_path / "again" / POOLING_FILE).read_text())["word_embedding_dimension"] == 24


def test_an_encoder_made_from_one_without_a_pooling_has_none(tmp_path: Path) -> None:
    teacher = encoder_folder(tmp_path / "teacher", layers=1)
    save_encoder(tiny_encoder("bert", layers=1), tiny_tokenizer("bert"), tmp_path / "student", like=teacher)
    assert not (tmp_path / "student" / POOLING_FILE).exists()


def test_a_folder_without_a_pooling_says_nothing(tmp_path: Path) -> None:
    assert read_pooling(encoder_folder(tmp_path, layers=1)) is None
    assert load_encoder(tmp_path).config.num_hidden_layers == 1


def written(folder: Path, settings: Any) -> Path:
    (folder / "1_Pooling").mkdir()
    (folder / POOLING_FILE).write_text(settings if isinstance(settings, str) else json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "word_embedding_dimension": 8}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "include_prompt": True}, "mean"),
        ({"embedding_dimension": 8, "pooling_mode": "mean", "include_prompt": True}, "mean"),
        ({"embedding_dimension": 8, "pooling_mode": ["cls"]}, "cls"),
    ],
)
def test_both_forms_of_the_library_are_read(settings: dict[str, Any], pooling: str, tmp_path: Path) -> None:
    assert read_pooling(written(tmp_path, settings)) == pooling


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False}, "pooling_mode_max_tokens"),
        (
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            "pooling_mode_cls_token, pooling_mode_mean_tokens",
        ),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({"pooling_mode": ["mean", "max"]}, "mean, max"),
        ({"pooling_mode_mean_tokens": False}, "nothing"),
    ],
)
def test_another_pooling_is_refused_with_the_way_out(settings: dict[str, Any], asked: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as refused:
        read_pooling(written(tmp_path, settings))
    assert str(refused.value) == (
        f"{tmp_path / POOLING_FILE} pools by {asked}, and Retort by the mean or the first token: set task.pooling to "
        "mean or cls"
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[1]", "it holds list, not an object"),
    ],
)
def test_a_pooling_that_cannot_be_read_is_a_bad_artifact(content: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(BadArtifact) as refused:
        read_pooling(written(tmp_path, content))
    assert str(refused.value) == f"{tmp_path / POOLING_FILE} does not say how to pool: {why}"
