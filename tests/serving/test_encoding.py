"""Token ids that a client sends: through as they are, or refused with what would be right."""

from pathlib import Path

import numpy as np
import pytest
from fakes import VOCABULARY, tiny_bundle

from serving.bundle import Bundle, read_bundle, seal_core
from serving.encoding import Encoder
from serving.engine import Engine, Tokens
from serving.errors import BadArtifact, BadRequest
from serving.tokens import Given

LAST = len(VOCABULARY) - 1


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(tiny_bundle(tmp_path_factory.mktemp("bundle"), texts_per_item=2), threads=1)


def with_config(path: Path, config: str) -> Bundle:
    bundle = tiny_bundle(path)
    (path / "config.json").write_text(config)
    seal_core(path, spec=bundle.spec, golden=bundle.golden)
    return read_bundle(path)


def refusal(engine: Engine | Encoder, *items: Given) -> str:
    with pytest.raises(BadRequest) as refused:
        engine.encode(items)
    return str(refused.value)


def test_ids_among_texts_are_answered_as_the_text_they_are_of(engine: Engine) -> None:
    pairs: list[Given] = [("good", "bad day"), ("dull", "fine"), ("bright", "bad")]
    first, second, third = engine.encode(pairs)
    mixed = engine.answer([pairs[0], second, third])
    np.testing.assert_array_equal(np.stack(mixed.scores), np.stack(engine.answer(pairs).scores))
    assert engine.encode([second, pairs[0]]) == [second, first]


def test_ids_without_a_text_beside_them_need_no_tokenizer(engine: Engine) -> None:
    tokens = Tokens([2, 5, 3, 4, 3], [0, 0, 0, 1, 1])
    assert engine.encode([tokens]) == [tokens]


@pytest.mark.parametrize(
    ("ids", "type_ids", "told"),
    [
        ([], [], "item 1 has 0 token id(s); this model takes 1 to 16"),
        ([2] * 17, [0] * 17, "item 1 has 17 token id(s); this model takes 1 to 16"),
        ([2, LAST + 1, 3], [0, 0, 0], f"item 1 has the token id {LAST + 1}; this model's are 0 to {LAST}"),
        ([2, -1, 99], [0, 0, 0], f"item 1 has the token id -1; this model's are 0 to {LAST}"),
        ([2, 3], [0], "item 1 has 2 token id(s) and 1 type id(s); send one for each"),
        ([2, 3], [0, 2], "item 1 has the type id 2; a type id is 0 or 1"),
        ([2, 3], [-1, 0], "item 1 has the type id -1; a type id is 0 or 1"),
    ],
)
def test_ids_that_the_model_has_not_are_refused(engine: Engine, ids: list[int], type_ids: list[int], told: str) -> None:
    assert refusal(engine, ("good", "bad"), Tokens(ids, type_ids)) == told


def test_the_first_and_the_last_id_and_the_full_length_are_let_through(engine: Engine) -> None:
    tokens = Tokens([0, LAST] * 8, [0, 1] * 8)
    assert engine.encode([tokens]) == [tokens]
    assert np.isfinite(engine.answer([Tokens([0, LAST - 1], [0, 0])]).scores).all()


def test_ids_reach_as_far_as_the_embeddings_that_the_config_names(tmp_path: Path) -> None:
    bundle = with_config(tmp_path, '{"vocab_size": 64}')
    encoder = Encoder(bundle.path, spec=bundle.spec)
    assert refusal(encoder, Tokens([64], [0])) == "item 0 has the token id 64; this model's are 0 to 63"
    assert encoder.encode([Tokens([63], [0])]) == [Tokens([63], [0])]


def test_a_config_that_is_none_is_a_bad_artifact(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact) as refused:
        Engine(with_config(tmp_path, '{"vocab_size": "many"}'), threads=1)
    told = "Expected `int | null`, got `str` - at `$.vocab_size`; export it again"
    assert str(refused.value) == f"{tmp_path / 'config.json'}: {told}"
