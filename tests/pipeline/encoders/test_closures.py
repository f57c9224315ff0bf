"""What a smaller vocabulary must hold: tokenizers trained on real text, whose pieces compete, are cut to part of it."""

import argparse
import inspect
import json
import optparse
from functools import cache
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE, Unigram, WordLevel, WordPiece
from transformers import PreTrainedTokenizerFast

from pipeline.encoders.closures import on_the_way
from pipeline.encoders.vocabulary import PrunedVocabulary, count_tokens, prune_tokenizer
from pipeline.errors import BadRequest

SPECIAL = ["[PAD]", "[UNK]"]
LINES = [line for module in (argparse, optparse) for line in inspect.getsource(module).splitlines() if line.strip()]
CORPUS, REST = LINES[:900], LINES[900:]


def wrapped(fast: Tokenizer) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="[PAD]", unk_token="[UNK]")


@cache
def trained(kind: str) -> Any:
    """A tokenizer of the kind learned from LINES, with 900 tokens or so."""
    common: dict[str, Any] = {"vocab_size": 900, "special_tokens": SPECIAL, "show_progress": False}
    trainer: Any
    if kind == "wordpiece":
        fast, trainer = Tokenizer(WordPiece(unk_token="[UNK]")), trainers.WordPieceTrainer(**common)
        fast.normalizer, fast.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    elif kind == "bytelevel":
        fast = Tokenizer(BPE())
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **common)
        fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    elif kind == "bytefallback":
        bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
        fast = Tokenizer(BPE(byte_fallback=True, unk_token="[UNK]"))
        trainer = trainers.BpeTrainer(**(common | {"vocab_size": 1200, "special_tokens": SPECIAL + bytes_}))
        fast.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        fast, trainer = Tokenizer(Unigram()), trainers.UnigramTrainer(unk_token="[UNK]", **common)
        fast.pre_tokenizer = pre_tokenizers.Metaspace()
    fast.train_from_iterator(LINES, trainer)
    if kind == "bytefallback":  # pieces of the model, as in a hub's tokenizer, and not tokens added to it
        state = json.loads(fast.to_str())
        state["added_tokens"] = state["added_tokens"][: len(SPECIAL)]
        fast = Tokenizer.from_str(json.dumps(state))
    return wrapped(fast)


@pytest.fixture(params=["wordpiece", "bytelevel", "bytefallback", "unigram"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def pruned_to_corpus(kind: str, **limits: int) -> PrunedVocabulary:
    tokenizer = trained(kind)
    return prune_tokenizer(tokenizer, count_tokens(CORPUS, tokenizer, max_length=1000), **limits)


def tokens(tokenizer: Any, texts: list[str]) -> list[list[str]]:
    return [encoding.tokens for encoding in tokenizer.backend_tokenizer.encode_batch(texts)]


@pytest.mark.parametrize("limits", [{}, {"min_count": 20}, {"max_size": 600}], ids=str)
def test_every_word_whose_tokens_were_all_kept_is_cut_as_before(kind: str, limits: dict[str, int]) -> None:
    tokenizer, pruned = trained(kind), pruned_to_corpus(kind, **limits)
    words = sorted({word for line in LINES for word in line.split()} | set(LINES))
    kept = set(pruned.tokenizer.get_vocab())
    same = [word for word, cut in zip(words, tokens(tokenizer, words), strict=True) if set(cut) <= kept]

    assert len(kept) < len(tokenizer)
    assert len(words) > len(same) > 200
    assert tokens(pruned.tokenizer, same) == tokens(tokenizer, same)


def test_the_corpus_itself_is_cut_as_before(kind: str) -> None:
    assert tokens(pruned_to_corpus(kind).tokenizer, CORPUS) == tokens(trained(kind), CORPUS)


def test_where_there_are_bytes_nothing_is_unknown() -> None:
    for kind in ("bytelevel", "bytefallback"):
        pruned = pruned_to_corpus(kind, min_count=10**9)
        text = "語 naïve №"
        ids = pruned.tokenizer(text).input_ids
        assert pruned.tokenizer.unk_token_id not in ids
    assert set(pre_tokenizers.ByteLevel.alphabet()) <= set(pruned_to_corpus("bytelevel").tokenizer.get_vocab())


def test_seen_characters_stay_though_their_words_do_not() -> None:
    for kind in ("wordpiece", "unigram"):
        pruned = pruned_to_corpus(kind, min_count=10**9)
        assert all(pruned.tokenizer.unk_token not in cut for cut in tokens(pruned.tokenizer, CORPUS))


def test_a_merge_stays_only_with_its_parts_and_its_result() -> None:
    state = json.loads(pruned_to_corpus("bytelevel").tokenizer.backend_tokenizer.to_str())
    vocab, merges = state["model"]["vocab"], state["model"]["merges"]
    assert all({a, b, a + b} <= vocab.keys() for a, b in merges)
    made = {a + b for a, b in merges}
    assert [token for token in vocab if len(token) > 1 and token not in made and token not in SPECIAL] == []


def test_the_way_to_a_token_is_the_one_that_its_merges_take() -> None:
    """(b, c) comes first, so "abc" is a + bc: "ab" is not on the way, though it has a merge to "abc" too."""
    ranks: dict[tuple[str, ...], int] = {("b", "c"): 0, ("a", "b"): 1, ("ab", "c"): 2, ("a", "bc"): 3}
    assert on_the_way("abc", ranks) == {"a", "b", "c", "bc", "abc"}


def test_a_merge_loses_its_place_with_one_of_its_parts() -> None:
    """ "ab" is not on the way to "abc", though a merge of the list makes it of that."""
    vocab = {token: number for number, token in enumerate([*SPECIAL, "a", "b", "c", "ab", "bc", "abc"])}
    tokenizer = wrapped(Tokenizer(BPE(vocab, [("b", "c"), ("a", "b"), ("ab", "c"), ("a", "bc")])))
    pruned = prune_tokenizer(tokenizer, {vocab["abc"]: 1})
    state = json.loads(pruned.tokenizer.backend_tokenizer.to_str())
    assert state["model"]["merges"] == [["b", "c"], ["a", "bc"]]
    assert tokens(pruned.tokenizer, ["abcab"]) == [["abc", "a", "b"]]


def test_of_equal_merges_the_left_one_is_made_first() -> None:
    assert on_the_way("aaa", {("a", "a"): 0, ("aa", "a"): 1}) == {"a", "aa", "aaa"}


def test_an_unknown_character_costs_what_it_did() -> None:
    """x is no piece of its own. Beside the worst piece of the corpus alone (-16) it would cost 26, and "a", unknown,
    "bcd" would be cheaper than "axb", "cd"."""
    scores = {"[PAD]": 0.0, "[UNK]": 0.0, "axb": -16.0, "cd": -16.0, "a": -1.0, "bcd": -1.0, "y": -2.0, "z": -90.0}
    tokenizer = wrapped(Tokenizer(Unigram(list(scores.items()), unk_id=1)))
    number_of = tokenizer.get_vocab()
    pruned = prune_tokenizer(tokenizer, {number_of[piece]: 1 for piece in ("axb", "cd", "bcd")})

    assert "y" not in pruned.tokenizer.get_vocab()
    assert tokens(tokenizer, ["axbcd"]) == [["axb", "cd"]]
    assert tokens(pruned.tokenizer, ["axbcd"]) == [["axb", "cd"]]


def test_characters_of_special_tokens_and_of_prefixes_are_no_alphabet() -> None:
    unigram = wrapped(
        Tokenizer(Unigram([(piece, -1.0) for piece in ("[PAD]", "[UNK]", "ab", "P", "a", "b")], unk_id=1))
    )
    pieces = [*SPECIAL, "ab", "##ab", "a", "b", "##a", "##b", "#", "###"]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    wordpiece = wrapped(Tokenizer(WordPiece(vocab, unk_token="[UNK]")))

    assert set(prune_tokenizer(unigram, {0: 9, 2: 1}).tokenizer.get_vocab()) == {*SPECIAL, "ab", "a", "b"}
    assert set(prune_tokenizer(wordpiece, {0: 9, 3: 1}).tokenizer.get_vocab()) == set(pieces) - {"ab", "#", "###"}


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_the_unknown_token_stays_though_nobody_calls_it_special(kind: str) -> None:
    if kind == "wordpiece":
        fast = Tokenizer(WordPiece({"[PAD]": 0, "<?>": 1, "a": 2, "b": 3}, unk_token="<?>"))
    else:
        fast = Tokenizer(Unigram([("[PAD]", 0.0), ("<?>", 0.0), ("a", -1.0), ("b", -1.0)], unk_id=1))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="[PAD]")
    pruned = prune_tokenizer(tokenizer, {2: 1})
    assert pruned.kept_ids == (0, 1, 2)
    assert pruned.tokenizer.backend_tokenizer.encode("b").ids == [1]


def test_a_kind_whose_rules_are_not_known_is_refused() -> None:
    words = wrapped(Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2}, unk_token="[UNK]")))
    suffixed = wrapped(Tokenizer(BPE({"[PAD]": 0, "[UNK]": 1, "a</w>": 2}, [], end_of_word_suffix="</w>")))
    for kind, tokenizer in (("WordLevel", words), ("BPE", suffixed)):
        with pytest.raises(BadRequest) as refused:
            prune_tokenizer(tokenizer, {2: 1})
        assert str(refused.value) == (
            f"vocabulary: a {kind} tokenizer of this kind cannot be pruned; WordPiece, Unigram, and BPE without word "
            "prefix or suffix can; give kind: teacher"
        )
