"""Texts of an exact number of tokens."""

from pathlib import Path

import pytest
from fakes import tiny_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from benchmarks.lengths import exact_length_items, read_tokenizer, real_items, token_count
from serving.errors import BadArtifact, BadRequest

WORDS = ["bad", "good", "awful", "fine", "dull", "bright"]


def texts(count: int, *, words: int) -> list[tuple[str, ...]]:
    return [(" ".join(WORDS[(i + j * (i + 1)) % len(WORDS)] for j in range(words)),) for i in range(count)]


def test_a_long_text_is_cut_at_the_end_of_a_token() -> None:
    items = exact_length_items([("good bad  fine, dull",)], tiny_tokenizer(), length=5, most=1)
    assert items == (("good bad  fine",),)


def test_short_texts_go_on_with_the_texts_that_follow() -> None:
    items = exact_length_items([("good",), ("bad fine",), ("dull",)], tiny_tokenizer(), length=5, most=9)
    assert items == (("good bad fine",),)


@pytest.mark.parametrize("length", [4, 8, 13])
def test_every_item_encodes_to_exactly_that_length(length: int) -> None:
    tokenizer = tiny_tokenizer()
    items = exact_length_items(texts(40, words=9), tokenizer, length=length, most=10)
    assert {token_count(item, tokenizer) for item in items} == {length}
    assert len(set(items)) == len(items)


def test_a_pair_is_cut_to_halves_unless_one_side_is_short() -> None:
    tokenizer = tiny_tokenizer(2)
    even = exact_length_items([("good " * 9, "bad " * 9)], tokenizer, length=9, most=1)
    short_second = exact_length_items([("good " * 9, "bad")], tokenizer, length=9, most=1)
    short_first = exact_length_items([("good", "bad " * 9)], tokenizer, length=9, most=1)
    counts = [tuple(len(text.split()) for text in item) for (item,) in (even, short_second, short_first)]
    assert counts == [(3, 3), (5, 1), (1, 5)]
    assert token_count(even[0], tokenizer) == 9


def test_cuts_hold_for_a_tokenizer_whose_merges_cross_the_cut() -> None:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    corpus = ["the cut and the cutting of the cutter's cutlery", "naïve café straße"] * 5
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>"]))
    items = exact_length_items([(text,) for text in corpus], tokenizer, length=11, most=5)
    assert {token_count(item, tokenizer) for item in items} == {11}


def test_a_length_no_text_reaches_is_refused() -> None:
    message = "^none of 1 items can be cut to exactly 64 tokens: choose another length or give more text$"
    with pytest.raises(BadRequest, match=message):
        exact_length_items([("good",)], tiny_tokenizer(), length=64, most=1)


def test_a_length_without_room_for_text_is_refused() -> None:
    with pytest.raises(BadRequest, match="exactly 2 tokens"):
        exact_length_items([("good bad",)], tiny_tokenizer(), length=2, most=1)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match=r"has no tokenizer.json: name a bundle or a folder saved by finetune$"):
        read_tokenizer(tmp_path)


def test_texts_as_they_come_are_distinct_ones_drawn_by_a_seed() -> None:
    items = [("good",), ("bad fine",), ("good",), ("dull awful bright",), ("bad",)]
    drawn = real_items(items, most=3)
    assert len(set(drawn)) == len(drawn) == 3
    assert set(drawn) <= set(items)
    assert drawn == real_items(items, most=3)
    assert sorted(real_items(items, most=100)) == sorted(set(items))
    assert real_items(items, most=0) == ()


def test_their_lengths_are_those_of_the_data() -> None:
    items = [(f"{'fine ' * (i % 10)}{i}",) for i in range(5000)]
    words = [len(item[0].split()) for item in real_items(items, most=1000)]
    assert [words.count(n + 1) for n in range(10)] == pytest.approx([100] * 10, abs=35)
