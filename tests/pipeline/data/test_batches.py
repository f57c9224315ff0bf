import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pipeline.data.batches import length_batches, pad, tokenize
from pipeline.errors import BadRequest

VOCABULARY = {word: n for n, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcd"))}


@pytest.fixture
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


@pytest.fixture
def lengths() -> np.ndarray:
    return np.random.default_rng(0).integers(3, 129, 2000)


def test_texts_become_ids_with_special_tokens(tokenizer: Tokenizer) -> None:
    tokens = tokenize([("a b",), ("c",)], tokenizer=tokenizer, max_length=8)

    assert [tokens.ids(i).tolist() for i in range(len(tokens))] == [[2, 4, 5, 3], [2, 6, 3]]
    assert tokens.flat_ids.dtype == np.int32
    assert tokens.lengths.tolist() == [4, 3]


def test_the_longer_text_of_a_pair_is_cut_first(tokenizer: Tokenizer) -> None:
    tokens = tokenize([("a a a a", "b"), ("a", "b b")], tokenizer=tokenizer, max_length=6)

    assert tokens.ids(0).tolist() == [2, 4, 4, 3, 5, 3]
    assert tokens.type_ids(0).tolist() == [0, 0, 0, 0, 1, 1]
    assert tokens.ids(1).tolist() == [2, 4, 3, 5, 5, 3]


def test_a_transformers_tokenizer_gives_the_same_and_is_not_changed(tokenizer: Tokenizer) -> None:
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    items = [("a b c d",)]

    ids = tokenize(items, tokenizer=wrapped, max_length=4).ids(0)

    assert ids.tolist() == tokenize(items, tokenizer=tokenizer, max_length=4).ids(0).tolist() == [2, 4, 5, 3]
    assert wrapped.backend_tokenizer.truncation is None
    assert tokenizer.truncation is None


def test_no_text_gives_no_tokens(tokenizer: Tokenizer) -> None:
    assert len(tokenize([], tokenizer=tokenizer, max_length=8)) == 0


def test_a_batch_is_padded_to_its_longest_example(tokenizer: Tokenizer) -> None:
    tokens = tokenize([("a b",), ("c",), ("a", "b")], tokenizer=tokenizer, max_length=8)

    batch = tokens.batch([2, 1], pad_id=0)

    assert batch.input_ids.tolist() == [[2, 4, 3, 5, 3], [2, 6, 3, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]


def test_padding_uses_the_models_pad_id() -> None:
    input_ids_BL, attention_mask_BL = pad([np.array([5, 6], np.int32), np.array([7], np.int32)], 1)

    assert input_ids_BL.tolist() == [[5, 6], [7, 1]]
    assert attention_mask_BL.tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize("epoch", range(3))
def test_every_example_comes_once_an_epoch(lengths: np.ndarray, epoch: int) -> None:
    batches = length_batches(lengths, 1024, 7, epoch)

    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))


@pytest.mark.parametrize("budget", [128, 500, 4096, 10**9])
def test_no_batch_passes_the_token_budget_and_none_is_empty(lengths: np.ndarray, budget: int) -> None:
    batches = length_batches(lengths, budget, 0, 0)

    assert all(batch and len(batch) * max(lengths[i] for i in batch) <= budget for batch in batches)


def test_batches_are_the_same_for_the_same_seed_and_epoch_only(lengths: np.ndarray) -> None:
    first = length_batches(lengths, 1024, 1, 1)

    assert length_batches(lengths, 1024, 1, 1) == first
    assert length_batches(lengths, 1024, 1, 2) != first
    assert length_batches(lengths, 1024, 2, 1) != first


def padding_share(lengths: np.ndarray, batches: list[list[int]]) -> float:
    """The share of padding in these batches."""
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return 1.0 - sum(int(lengths[batch].sum()) for batch in batches) / padded


def test_bucketing_leaves_little_padding_and_keeps_the_order_of_lengths_random(lengths: np.ndarray) -> None:
    batches = length_batches(lengths, 1024, 0, 0)
    unsorted = [list(range(start, start + 8)) for start in range(0, 2000, 8)]
    longest = [max(lengths[i] for i in batch) for batch in batches]

    assert padding_share(lengths, batches) < 0.08 < 0.3 < padding_share(lengths, unsorted)
    assert abs(np.corrcoef(np.arange(len(longest)), longest)[0, 1]) < 0.2


def test_an_example_longer_than_the_budget_is_a_bad_request() -> None:
    with pytest.raises(BadRequest) as caught:
        length_batches([3, 600], 512, 0, 0)

    assert str(caught.value) == (
        "an example of 600 tokens does not fit a batch of 512: raise the token budget, or lower the maximum length"
    )
