"""Words, sub-tokens and entities by their places in a text."""

import random
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from seqeval.metrics.sequence_labeling import get_entities
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from serving.spans import Entity, Span, entities_of, word_starts, word_tokens, words_of

ALPHABET = "ab.,'\"’“”…()[]<>!?-@#/s \t\n\u00a0é\u0301😀好\u200b"  # noqa: RUF001 the typographic ones are meant
TAGS = ("O", "B-x", "I-x", "B-y", "I-y", "B-x-y", "I-x-y")


def cut(text: str) -> list[str]:
    return [text[start:end] for start, end in words_of(text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \t\n\u00a0\u3000", []),
        ("Ann lives in  Rome", ["Ann", "lives", "in", "Rome"]),
        ("Hello, world!", ["Hello", ",", "world", "!"]),
        ("(see [this]);", ["(", "see", "[", "this", "]", ")", ";"]),
        ("{<\"'a'\">}", ["{", "<", '"', "'", "a", "'", '"', ">", "}"]),
        ("“Ann” ‘Bo’ «Cy» „Di“", ["“", "Ann", "”", "‘", "Bo", "’", "«", "Cy", "»", "„", "Di", "“"]),  # noqa: RUF001
        ("Wait… what?!", ["Wait", "…", "what", "?", "!"]),
        ("Wait...", ["Wait", ".", ".", "."]),
        ("the end.", ["the", "end", "."]),
        ("the U.S.", ["the", "U.S."]),
        ("(the U.S.), 3.5.", ["(", "the", "U.S.", ")", ",", "3.5", "."]),
        ("See www.x.org. (i.e. 10.4.)", ["See", "www.x.org", ".", "(", "i.e.", "10.4", ".", ")"]),
        ("...and.", ["...and", "."]),
        ("Ann's cat, Bo’s, James'", ["Ann", "'s", "cat", ",", "Bo", "’s", ",", "James", "'"]),  # noqa: RUF001
        ("'it's' \"Ann\"'s 's ANN'S", ["'", "it", "'s", "'", '"', "Ann", '"', "'s", "'s", "ANN", "'S"]),
        ("don't rock'n'roll", ["don't", "rock'n'roll"]),
        ("@ann: #tag, (@bo)", ["@ann", ":", "#tag", ",", "(", "@bo", ")"]),
        ("https://a.io/b?c=d see http://a.io/b!", ["https://a.io/b?c=d", "see", "http://a.io/b", "!"]),
        ("-- ?! :-) . —", ["-", "-", "?", "!", ":", "-", ")", ".", "—"]),
        ("state-of-the-art AT&T C++ $5", ["state-of-the-art", "AT&T", "C++", "$5"]),
        ("😀😀 👩‍👩‍👧!", ["😀😀", "👩‍👩‍👧", "!"]),
        ("e\u0301te\u0301, «naïve»", ["e\u0301te\u0301", ",", "«", "naïve", "»"]),
        ("我爱北京 (北京)", ["我爱北京", "(", "北京", ")"]),
    ],
)
def test_plain_text_is_cut_into_words_as_tagged_corpora_are(text: str, words: list[str]) -> None:
    assert cut(text) == words


@pytest.mark.parametrize("seed", range(20))
def test_words_ascend_apart_and_lose_nothing_but_white_space(seed: int) -> None:
    text = "".join(random.Random(seed).choices(ALPHABET, k=400))
    words = words_of(text)
    assert all(start < end for start, end in words)
    assert all(before[1] <= after[0] for before, after in pairwise(words))
    assert "".join(cut(text)) == "".join(text.split())


def test_characters_are_code_points_so_that_slicing_the_text_gives_the_word() -> None:
    assert words_of("😀 e\u0301 好!") == [(0, 1), (2, 4), (5, 6), (6, 7)]


@pytest.mark.parametrize("chunk", ["." * 20_000, "'s" * 10_000, "a." * 10_000, "(" * 10_000 + ")" * 10_000])
def test_a_hostile_chunk_is_cut_like_any_other(chunk: str) -> None:
    assert "".join(cut(chunk)) == chunk


def test_words_beyond_a_limit_are_not_looked_for_and_one_across_it_stays_whole() -> None:
    assert words_of("one two three", until=5) == [(0, 3), (4, 7)]
    assert words_of("one two three", until=4) == [(0, 3)]


@pytest.mark.parametrize(
    ("offsets", "words", "starts"),
    [
        ([], [(0, 3)], [-1]),
        ([(0, 0), (0, 3), (0, 0)], [], []),
        ([(0, 0), (0, 3), (4, 7), (0, 0)], [(0, 3), (4, 7)], [1, 2]),
        ([(0, 0), (0, 2), (2, 5), (6, 8), (0, 0)], [(0, 5), (6, 8)], [1, 3]),  # two sub-tokens
        ([(0, 0), (0, 3), (3, 7), (0, 0)], [(0, 3), (4, 7)], [1, 2]),  # the token takes the space before its word
        ([(0, 0), (0, 3), (3, 4), (4, 7), (0, 0)], [(0, 3), (4, 7)], [1, 3]),  # the space is a token of its own
        ([(0, 0), (0, 7), (0, 0)], [(0, 3), (4, 7)], [1, 1]),  # one token over two words
        ([(0, 0), (0, 1), (0, 1), (0, 1), (2, 3), (0, 0)], [(0, 1), (2, 3)], [1, 4]),  # the bytes of one character
        ([(0, 0), (0, 3), (8, 9), (0, 0)], [(0, 3), (4, 7), (8, 9)], [1, -1, 2]),  # a word the tokenizer dropped
        ([(0, 0), (0, 3), (0, 0)], [(0, 3), (4, 7), (8, 9)], [1, -1, -1]),  # cut away
        ([(0, 0), (1, 1), (1, 3), (0, 0)], [(0, 3)], [2]),  # an empty token inside a word
    ],
)
def test_a_word_starts_at_the_first_token_that_shares_a_character(
    offsets: list[Span], words: list[Span], starts: list[int]
) -> None:
    assert word_starts(offsets, words) == starts


def word_piece() -> Tokenizer:
    pieces = ["[UNK]", "[CLS]", "[SEP]", *"abs", *(f"##{letter}" for letter in "abse"), *".,'\"!?-@#/()[]<>", "好"]
    core = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return core


def byte_level(*, trim: bool) -> Tokenizer:
    pieces = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġa", "ab"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ġ", "a"), ("a", "b")]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=trim)
    return core


def unigram() -> Tokenizer:
    pieces = ["<unk>", "▁", "▁a", "▁ab", *"ab.,'\"!?()s", "é"]
    core = Tokenizer(models.Unigram([(piece, -float(index)) for index, piece in enumerate(pieces)], unk_id=0))
    core.normalizer, core.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    return core


def by_definition(offsets: Sequence[Span], words: Sequence[Span]) -> list[int]:
    def first(start: int, end: int) -> int:
        shares = (at for at, (a, b) in enumerate(offsets) if b > start and a < end and b > a)
        return next(shares, -1)

    return [first(*word) for word in words]


TOKENIZERS = {
    "word-piece": word_piece(),
    "byte-level": byte_level(trim=False),
    "byte-level, trimmed": byte_level(trim=True),
    "unigram": unigram(),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_with_real_tokenizers_every_word_starts_where_the_definition_says(kind: str) -> None:
    for seed in range(30):
        text = "".join(random.Random(seed).choices(ALPHABET, k=80))
        (encoded,) = TOKENIZERS[kind].encode_batch([text])
        words = words_of(text)
        assert word_starts(encoded.offsets, words) == by_definition(encoded.offsets, words), text


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_with_real_tokenizers_the_first_token_of_a_word_lies_in_it(kind: str) -> None:
    text = "a 😀 ab, (e\u0301ab) 好 'ab's"
    (encoded,) = TOKENIZERS[kind].encode_batch([text])
    words = words_of(text)
    for (start, end), token in zip(words, word_starts(encoded.offsets, words), strict=True):
        begin = encoded.offsets[token][0]
        assert begin == start or (begin == start - 1 and text[begin] == " "), text[start:end]


def tokens_by_definition(offsets: Sequence[Span], words: Sequence[Span]) -> list[Span]:
    def shared(start: int, end: int) -> list[int]:
        return [at for at, (a, b) in enumerate(offsets) if b > start and a < end and b > a]

    return [(found[0], found[-1] + 1) if found else (-1, -1) for found in (shared(*word) for word in words)]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_with_real_tokenizers_every_word_has_the_tokens_that_share_a_character(kind: str) -> None:
    for seed in range(30):
        text = "".join(random.Random(seed).choices([*ALPHABET, "\r\n", "\u200d", "👩‍👩‍👧"], k=80))
        (encoded,) = TOKENIZERS[kind].encode_batch([text])
        words = words_of(text)
        assert word_tokens(encoded.offsets, words) == tokens_by_definition(encoded.offsets, words), text


def test_an_empty_token_inside_a_word_is_among_its_own_and_one_behind_it_is_not() -> None:
    offsets = [(0, 0), (0, 2), (2, 2), (2, 4), (4, 4), (5, 6), (0, 0)]
    assert word_tokens(offsets, [(0, 4), (5, 6), (7, 8)]) == [(1, 4), (5, 6), (-1, -1)]


def test_finding_the_starts_takes_time_in_proportion_to_words_and_tokens() -> None:
    looks = 0

    class Counted(list[Span]):
        def __getitem__(self, index: Any) -> Any:
            nonlocal looks
            looks += 1
            return super().__getitem__(index)

    spans = [(at, at + 1) for at in range(0, 4000, 2)]
    assert word_starts(Counted(spans), spans) == list(range(2000))
    assert looks < 20_000


@pytest.mark.parametrize(
    ("tags", "entities"),
    [
        ([], []),
        (["O", "O"], []),
        (["B-x"], [("x", 0, 0)]),
        (["B-x", "I-x", "O", "B-y"], [("x", 0, 1), ("y", 3, 3)]),
        (["B-x", "B-x"], [("x", 0, 0), ("x", 1, 1)]),
        (["I-x", "I-x"], [("x", 0, 1)]),
        (["B-x", "I-y", "I-y"], [("x", 0, 0), ("y", 1, 2)]),
        (["O", "I-x", "O", "I-x"], [("x", 1, 1), ("x", 3, 3)]),
    ],
)
def test_tags_spell_entities(tags: list[str], entities: list[tuple[str, int, int]]) -> None:
    assert entities_of(tags) == [Entity(*entity) for entity in entities]


def test_entities_are_those_that_seqeval_finds() -> None:
    generator = random.Random(0)
    for _ in range(500):
        tags = generator.choices(TAGS, k=generator.randrange(12))
        assert entities_of(tags) == get_entities(tags), tags


def test_spans_need_nothing_heavy() -> None:
    asking = "import sys, serving.spans; print(sorted({'numpy', 'msgspec', 'onnxruntime'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout == "[]\n"
