"""Taps of every family against a plain forward pass, and the model as it was afterwards."""

from collections.abc import Collection
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import models
import pytest
import torch
from models import sentences, tiny_config, tiny_encoder, tiny_tokenizer
from torch import Tensor

from pipeline.data.batches import tokenize
from pipeline.encoders.families import FAMILIES, PROJECTIONS, Shape, Tap, family_of, reading, shape_of
from pipeline.errors import BadRequest

LAYERS = 4
# Where transformers keeps a layer's projections, written down a second time on purpose.
PATHS = {
    "distilbert": ("transformer.layer", "attention.q_lin", "attention.k_lin", "attention.v_lin"),
    **dict.fromkeys(
        ("bert", "roberta", "xlm-roberta"),
        ("encoder.layer", "attention.self.query", "attention.self.key", "attention.self.value"),
    ),
}


@pytest.fixture(params=models.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(family: str) -> Any:
    return tiny_encoder(family, layers=LAYERS)


def fed(family: str) -> dict[str, Tensor]:
    """A padded batch of real texts."""
    tokenizer = tiny_tokenizer(family)
    tokens = tokenize([(text,) for text in sentences(4)], tokenizer=tokenizer, max_length=20)
    batch = tokens.batch(range(4), pad_id=tokenizer.pad_token_id)
    assert batch.attention_mask.min() == 0
    return {"input_ids": torch.from_numpy(batch.input_ids), "attention_mask": torch.from_numpy(batch.attention_mask)}


def plain_taps(model: Any, family: str) -> dict[Tap, Tensor]:
    """Every tap by the long way: all hidden states, and each projection called on the layer's input."""
    hidden = model(**fed(family), output_hidden_states=True).hidden_states
    layers, *projections = PATHS[family]
    taps: dict[Tap, Tensor] = {}
    for number, layer in enumerate(attrgetter(layers)(model), start=1):
        taps["hidden", number] = hidden[number]
        for name, path in zip(PROJECTIONS, projections, strict=True):
            taps[name, number] = attrgetter(path)(layer)(hidden[number - 1])
    return taps


def read_taps(model: Any, family: str, taps: Collection[Tap]) -> dict[Tap, Tensor]:
    with reading(model, taps) as take:
        model(**fed(family))
        return take()


ALL_TAPS: tuple[Tap, ...] = tuple((kind, n) for n in range(1, LAYERS + 1) for kind in (*PROJECTIONS, "hidden"))
WANTED: dict[str, tuple[Tap, ...]] = {
    "all": ALL_TAPS,
    "projections of the last": tuple((kind, LAYERS) for kind in PROJECTIONS),
    "projections of the first": tuple((kind, 1) for kind in PROJECTIONS),
    "projections of a middle one": tuple((kind, 3) for kind in PROJECTIONS),
    "one value": (("value", 2),),
    "hidden states": (("hidden", 2), ("hidden", 4)),
    "hidden below, projections above": (("hidden", 2), ("query", 3)),
    "both of one layer": (("hidden", 3), ("key", 3)),
}


def test_these_are_the_families_that_are_tested() -> None:
    assert set(models.FAMILIES) == set(FAMILIES)


@pytest.mark.parametrize("taps", WANTED.values(), ids=WANTED.keys())
def test_taps_of_the_cut_model_are_those_of_the_whole_model(model: Any, family: str, taps: tuple[Tap, ...]) -> None:
    found, wanted = read_taps(model, family, taps), plain_taps(model, family)

    assert set(found) == set(taps)
    for tap in taps:
        torch.testing.assert_close(found[tap], wanted[tap], atol=1e-6, rtol=1e-5)


def test_taps_differ_from_each_other(model: Any, family: str) -> None:
    """Or the test above would not see one tap taken for another."""
    wanted = plain_taps(model, family)
    for one in wanted:
        for other in wanted:
            assert one == other or (wanted[one] - wanted[other]).abs().mean() > 0.1


def test_nothing_above_what_is_read_is_computed(model: Any, family: str) -> None:
    layers = attrgetter(PATHS[family][0])(model)
    ran: list[str] = []
    for number, layer in enumerate(layers, start=1):
        layer.register_forward_hook(lambda *_, number=number: ran.append(f"layer {number}"))
    for name, module in layers[2].named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))

    read_taps(model, family, [("query", 3), ("hidden", 1)])

    projections = list(PATHS[family][1:])
    assert ran == ["layer 1", "layer 2", *projections]


def test_gradient_flows_through_taps(model: Any, family: str) -> None:
    read_taps(model, family, [("key", 2)])["key", 2].sum().backward()

    layers = PATHS[family][0]
    assert model.get_parameter("embeddings.word_embeddings.weight").grad.abs().sum() > 0
    assert model.get_parameter(f"{layers}.1.{PATHS[family][2]}.weight").grad.abs().sum() > 0
    assert model.get_parameter(f"{layers}.1.{PATHS[family][1]}.weight").grad is None
    assert model.get_parameter(f"{layers}.2.{PATHS[family][2]}.weight").grad is None


def test_the_model_is_whole_again_afterwards(model: Any, family: str) -> None:
    before, answer = dict(model.state_dict()), model(**fed(family)).last_hidden_state
    modules = dict(model.named_modules())

    read_taps(model, family, [("query", 2), ("hidden", 1)])

    assert_same(model, before, modules)
    assert torch.equal(model(**fed(family)).last_hidden_state, answer)


def test_the_model_is_whole_again_after_an_exception(model: Any, family: str) -> None:
    before, modules = dict(model.state_dict()), dict(model.named_modules())

    def fail_while_cut() -> None:
        with reading(model, [("value", 1)]):
            assert len(model.state_dict()) < len(before)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_while_cut()

    assert_same(model, before, modules)


def assert_same(model: Any, before: dict[str, Tensor], modules: dict[str, Any]) -> None:
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(after[name].data_ptr() == before[name].data_ptr() for name in before)
    assert dict(model.named_modules()) == modules
    assert not any(module._forward_hooks for module in model.modules())


def test_what_was_taken_is_handed_over_once(model: Any, family: str) -> None:
    with reading(model, [("query", 1)]) as take:
        model(**fed(family))
        assert set(take()) == {("query", 1)}
        assert take() == {}


def test_a_model_without_a_pooler_is_left_without_one() -> None:
    model = tiny_encoder("bert")
    model.pooler = None

    read_taps(model, "bert", [("query", 2)])

    assert model.pooler is None


def test_a_pooler_is_not_run_and_comes_back() -> None:
    model = tiny_encoder("bert")
    pooler = model.pooler

    with reading(model, [("hidden", 2)]):
        assert model(**fed("bert")).pooler_output is None

    assert model.pooler is pooler


# -- shapes ------------------------------------------------------------------------------------------------------------


def test_the_shape_is_read_whatever_the_family_calls_its_parts(family: str) -> None:
    config = tiny_config(family, layers=3, width=48, heads=6)
    assert shape_of(config) == Shape(layers=3, width=48, heads=6, feed_forward=96)


def test_the_shape_is_read_from_the_plain_fields_of_config_json(family: str) -> None:
    fields = SimpleNamespace(**tiny_config(family, layers=3, width=48, heads=6).to_dict())
    assert shape_of(fields) == Shape(layers=3, width=48, heads=6, feed_forward=96)


@pytest.mark.parametrize("model_type", ["gpt2", "deberta", "None"])
def test_an_unknown_family_is_answered_with_the_known_ones(model_type: str) -> None:
    with pytest.raises(BadRequest) as refused:
        family_of(model_type)
    assert str(refused.value) == (
        f"{model_type!r} is not an encoder Retort knows; teachers may be of the families "
        "bert, distilbert, roberta, xlm-roberta"
    )
