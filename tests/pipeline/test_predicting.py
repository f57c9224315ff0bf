"""What a model answers, item by item and in their order, whatever batch an item is computed in."""

from typing import Any

import numpy as np
import pytest
import torch
from models import FAMILIES, ITEMS, sentences, task_of, tiny_config, tiny_encoder, tiny_tokenizer

from pipeline import predicting
from pipeline.data.batches import Tokens, tokenize
from pipeline.encoders.sentences import Pooled, SentenceEncoder
from pipeline.predicting import inputs_for, predict, seen_by, unreadable
from pipeline.tasking.base import Split
from pipeline.tasking.tagging import Tagging
from serving.bundle import Item

TEXTS = sentences(30)


def tokens_of(items: list[Item], family: str = "bert", *, max_length: int = 24) -> Tokens:
    return tokenize(items, tokenizer=tiny_tokenizer(family), max_length=max_length)


class Echo(torch.nn.Module):
    """Answers with the ids it reads: order and length are visible."""

    def __init__(self, *, per_token: bool) -> None:
        super().__init__()
        self.config = type("Config", (), {})()
        self.per_token = per_token
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        assert not self.training
        self.shapes.append(tuple(input_ids.shape))
        outputs = input_ids[:, :, None] if self.per_token else input_ids[:, 1:2]
        return type("Output", (), {"logits": outputs.to(torch.bfloat16)})()


# -- predict -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_answers_come_in_the_order_of_the_items_and_in_fp32(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "BATCH_TOKENS", 64)
    tokens, model = tokens_of([(text,) for text in TEXTS]), Echo(per_token=False).train(training)

    outputs = predict(model, tokens, pad_id=0)

    assert len(model.shapes) > 2  # several batches, none over the budget
    assert max(rows * length for rows, length in model.shapes) <= 64
    assert [output.tolist() for output in outputs] == [[float(tokens.ids(i)[1])] for i in range(30)]
    assert {output.dtype for output in outputs} == {np.dtype(np.float32)}
    assert model.training == training


def test_answers_token_by_token_are_each_items_own_without_padding() -> None:
    tokens = tokens_of([(text,) for text in TEXTS])

    outputs = predict(Echo(per_token=True), tokens, pad_id=0)

    assert [output[:, 0].astype(int).tolist() for output in outputs] == [tokens.ids(i).tolist() for i in range(30)]


def test_one_text_longer_than_a_batch_is_answered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "BATCH_TOKENS", 8)

    assert len(predict(Echo(per_token=False), tokens_of([("a good story " * 5,), ("bad",)]), pad_id=0)) == 2


def test_no_items_are_no_answers() -> None:
    assert predict(Echo(per_token=False), tokens_of([]), pad_id=0) == []


def test_an_answer_does_not_depend_on_the_batch_it_is_computed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SentenceEncoder(tiny_encoder("bert", layers=1), Pooled("mean", normalize=True))
    together = predict(model, tokens_of(ITEMS), pad_id=0)
    monkeypatch.setattr(predicting, "BATCH_TOKENS", 1)

    alone = predict(model, tokens_of(ITEMS), pad_id=0)

    np.testing.assert_allclose(np.stack(together), np.stack(alone), atol=1e-5)


# -- what a model is called with ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "types"), [("bert", [0, 0, 0, 1, 1]), ("distilbert", None), ("roberta", None), ("xlm-roberta", None)]
)
def test_token_types_are_fed_where_the_encoder_makes_use_of_them(family: str, types: list[int] | None) -> None:
    model = type("Model", (), {"config": tiny_config(family)})()

    fed = inputs_for(model, tokens_of([("good", "bad")]), [0], pad_id=0)

    assert fed.keys() == {"input_ids", "attention_mask"} | ({"token_type_ids"} if types else set())
    assert types is None or fed["token_type_ids"].tolist() == [types]


def test_the_rows_asked_for_are_padded_to_the_longest_of_them() -> None:
    model = type("Model", (), {"config": tiny_config("distilbert")})()

    fed = inputs_for(model, tokens_of([("good",), ("a very good story",), ("bad",)]), [2, 0], pad_id=7)
    longer = inputs_for(model, tokens_of([("good",), ("a good story",)]), [0, 1], pad_id=7)

    assert fed["input_ids"].shape == (2, 3)
    assert longer["input_ids"][0].tolist()[3:] == [7, 7]
    assert longer["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_of_unknown_tokens_only_is_unreadable(family: str) -> None:
    """Where a blank is a token of its own, that says nothing either."""
    items: list[Item] = [("good",), ("ЖЖ",), ("a Ж",), ("Ж Щ",)]

    found = unreadable(tokens_of(items, family), tiny_tokenizer(family))

    assert found == [1, 3]


def test_of_no_texts_none_is_unreadable() -> None:
    assert unreadable(tokens_of([]), tiny_tokenizer("bert")) == []


# -- a split as a model sees it ----------------------------------------------------------------------------------------


def test_a_split_is_seen_with_its_tokens_and_of_a_tagging_where_its_words_begin() -> None:
    tagged = Split((("a kim story",),), (Tagging(((0, 1), (2, 5), (6, 11)), (0, 1, 2)),))
    plain = Split((("a kim story",),), (0,))

    tags = seen_by(task_of("token-classification"), tagged, tiny_tokenizer("bert"), max_length=24)
    label = seen_by(task_of("classification"), plain, tiny_tokenizer("bert"), max_length=24)

    assert tags.places is not None
    assert [places.tolist() for places in tags.places] == [[[1, 2], [2, 5], [5, 6]]]  # [CLS] a k ##i ##m story [SEP]
    assert tags.tokens.lengths.tolist() == label.tokens.lengths.tolist() == [7]
    assert label.places is None
    short = seen_by(task_of("token-classification"), tagged, tiny_tokenizer("bert"), max_length=5)
    assert short.places is not None
    assert [places.tolist() for places in short.places] == [[[1, 2], [2, 4], [-1, -1]]]  # the last word was cut away
