"""Taps of every family against a plain forward pass, and the model as it was afterwards."""

from collections.abc import Collection
from functools import partial
from operator import attrgetter
from typing import Any

import models
import pytest
import torch
from models import sentences, text_batch, tiny_encoder
from torch import Tensor

from pipeline.encoders.families import FULL, PROJECTIONS, SLIDING, Tap, attention_kinds
from pipeline.encoders.reading import reading
from pipeline.errors import BadRequest

LAYERS = 4
TEXTS = sentences(4)
# Where transformers keeps a layer's projections, written down a second time on purpose.
_BERT = ("encoder.layer", "attention.self.query", "attention.self.key", "attention.self.value")
PATHS = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), _BERT),
    "distilbert": ("transformer.layer", "attention.q_lin", "attention.k_lin", "attention.v_lin"),
    "deberta-v2": ("encoder.layer", *(f"attention.self.{name}_proj" for name in PROJECTIONS)),
}
SHAPES = {
    "4x48": {"layers": LAYERS, "width": 48, "heads": 4},
    "3x40, a wide feed-forward": {"layers": 3, "width": 40, "heads": 5, "intermediate_size": 130, "hidden_dim": 130},
}


@pytest.fixture(params=models.ENCODERS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def encoder(family: str, *, layers: int = LAYERS, **changes: Any) -> Any:
    """ModernBERT with a window in its second layer and full attention in those of which projections are read below."""
    if family == "modernbert":
        changes = {"layer_types": [FULL, SLIDING, FULL, FULL][:layers], **changes}
    return tiny_encoder(family, layers=layers, **changes)


@pytest.fixture
def model(family: str) -> Any:
    return encoder(family)


def layers_of(model: Any) -> Any:
    family = model.config.model_type
    return model.layers if family == "modernbert" else attrgetter(PATHS[family][0])(model)


def plain_run(model: Any) -> tuple[Tensor, ...]:
    """All hidden states of the padded batch, in transformers' own way."""
    batch = text_batch(model.config.model_type, TEXTS)
    assert batch.attention_mask_RC is not None
    hidden: tuple[Tensor, ...] = model(
        input_ids=torch.from_numpy(batch.input_ids_RC),
        attention_mask=torch.from_numpy(batch.attention_mask_RC),
        output_hidden_states=True,
    ).hidden_states
    return hidden


def plain_projections(layer: Any, states_BLD: Tensor, family: str) -> tuple[Tensor, ...]:
    """Queries, keys and values from the weights of one layer and what goes into it."""
    if family == "modernbert":
        fused_BLD = layer.attn_norm(states_BLD) @ layer.attn.Wqkv.weight.T
        return fused_BLD.chunk(3, dim=2)
    linears = [attrgetter(path)(layer) for path in PATHS[family][1:]]
    return tuple(states_BLD @ linear.weight.T + linear.bias for linear in linears)


def plain_taps(model: Any) -> dict[Tap, Tensor]:
    """Every tap by the long way: all hidden states, and each projection of the layer's input."""
    hidden, taps = plain_run(model), {}
    for number, layer in enumerate(layers_of(model), start=1):
        projections = plain_projections(layer, hidden[number - 1], model.config.model_type)
        named = {**dict(zip(PROJECTIONS, projections, strict=True)), "hidden": hidden[number]}
        taps |= {(kind, number): values.flatten(0, 1) for kind, values in named.items()}
    return taps  # type: ignore[return-value]


def read_taps(model: Any, taps: Collection[Tap], **how: Any) -> dict[Tap, Tensor]:
    with reading(model, taps, **how) as run:
        return run(text_batch(model.config.model_type, TEXTS))


def assert_equal_where_there_is_text(found: Tensor, wanted: Tensor, family: str) -> None:
    mask = text_batch(family, TEXTS).attention_mask_RC
    assert mask is not None
    assert mask.min() == 0
    real = torch.from_numpy(mask.reshape(-1).astype(bool))
    torch.testing.assert_close(found[real], wanted[real], atol=2e-5, rtol=1e-4)


def all_taps(model: Any) -> tuple[Tap, ...]:
    kinds = attention_kinds(model.config)
    taps = [(kind, number) for number in range(1, len(kinds) + 1) for kind in (*PROJECTIONS, "hidden")]
    return tuple((kind, number) for kind, number in taps if kind == "hidden" or kinds[number - 1] == FULL)


WANTED: dict[str, tuple[Tap, ...]] = {
    "projections of the last": tuple((kind, LAYERS) for kind in PROJECTIONS),
    "projections of the first": tuple((kind, 1) for kind in PROJECTIONS),
    "projections of a middle one": tuple((kind, 3) for kind in PROJECTIONS),
    "one value": (("value", 3),),
    "hidden states": (("hidden", 2), ("hidden", 4)),
    "hidden states of the first": (("hidden", 1),),
    "hidden below, projections above": (("hidden", 2), ("query", 3)),
    "both of one layer": (("hidden", 3), ("key", 3)),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_every_tap_is_what_a_plain_forward_pass_computes(family: str, shape: dict[str, int]) -> None:
    model = encoder(family, **shape)
    taps = all_taps(model)

    found, wanted = read_taps(model, taps), plain_taps(model)

    assert set(found) == set(taps)
    for tap in taps:
        assert_equal_where_there_is_text(found[tap], wanted[tap], family)


@pytest.mark.parametrize("taps", WANTED.values(), ids=WANTED.keys())
def test_taps_of_the_cut_model_are_those_of_the_whole_model(model: Any, family: str, taps: tuple[Tap, ...]) -> None:
    found, wanted = read_taps(model, taps), read_taps(model, all_taps(model))

    assert set(found) == set(taps)
    for tap in taps:
        assert_equal_where_there_is_text(found[tap], wanted[tap], family)


def test_taps_differ_from_each_other(model: Any) -> None:
    """Or the tests above would not see one tap taken for another."""
    wanted = plain_taps(model)
    for one in wanted:
        for other in wanted:
            assert one == other or (wanted[one] - wanted[other]).abs().mean() > 0.02, (one, other)


def test_without_padding_no_mask_is_needed(model: Any, family: str) -> None:
    batch = text_batch(family, TEXTS[:1] * 3)
    assert batch.attention_mask_RC is None
    with reading(model, [("value", 4)]) as run:
        alone = run(text_batch(family, TEXTS[:1]))["value", 4]
        torch.testing.assert_close(run(batch)["value", 4], alone.repeat(3, 1), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("extras", [{"conv_kernel_size": 3}, {"share_att_key": False}, {"relative_attention": False}])
def test_debertas_variants_are_read_as_well(extras: dict[str, Any]) -> None:
    """With a convolution behind its first layer (v2-xlarge), matrices of their own for positions, and without them."""
    model = tiny_encoder("deberta-v2", layers=3, **extras)

    found, wanted = read_taps(model, all_taps(model)), plain_taps(model)

    for tap in all_taps(model):
        assert_equal_where_there_is_text(found[tap], wanted[tap], "deberta-v2")


# -- what is computed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taps", WANTED.values(), ids=WANTED.keys())
def test_no_parameter_of_the_cut_model_goes_without_a_gradient(model: Any, family: str, taps: tuple[Tap, ...]) -> None:
    with reading(model, taps) as run:
        sum(values.square().sum() for values in run(text_batch(family, TEXTS)).values()).backward()  # type: ignore[union-attr]
        without = [name for name, weight in model.named_parameters() if weight.grad is None]

    assert without == []


def test_nothing_above_what_is_read_is_computed(model: Any, family: str) -> None:
    ran: list[str] = []

    def note(name: str, *_: Any) -> None:
        ran.append(name)

    for number, layer in enumerate(layers_of(model), start=1):
        layer.register_forward_hook(partial(note, f"layer {number}"))
    for name, module in layers_of(model)[2].named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.LayerNorm):
            module.register_forward_hook(partial(note, name))
    for name in ("pooler", "final_norm"):
        if hasattr(model, name):
            getattr(model, name).register_forward_hook(partial(note, name))

    read_taps(model, [("query", 3), ("hidden", 1)])

    top = ["attn_norm"] if family == "modernbert" else [PATHS[family][1]]
    assert ran == ["layer 1", "layer 2", *top]


def test_of_a_fused_projection_only_what_is_read_is_multiplied() -> None:
    model = encoder("modernbert")

    read_taps(model, [("key", 4)])["key", 4].square().sum().backward()

    query, key, value = layers_of(model)[3].attn.Wqkv.weight.grad.chunk(3)
    assert key.abs().min() > 0
    assert not query.any()
    assert not value.any()


def test_gradient_flows_to_the_embeddings(model: Any) -> None:
    read_taps(model, [("key", 3)])["key", 3].square().sum().backward()

    assert model.get_input_embeddings().weight.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in layers_of(model)[3].parameters())


@pytest.mark.parametrize("layer_types", [[SLIDING, FULL, SLIDING, SLIDING], [FULL, FULL, FULL, FULL]])
def test_layers_keep_their_own_attention_when_the_model_is_cut(layer_types: list[str]) -> None:
    model = tiny_encoder("modernbert", layers=LAYERS, layer_types=layer_types)

    found, wanted = read_taps(model, [("value", 2), ("hidden", 3)]), plain_taps(model)

    for tap, values in found.items():
        assert_equal_where_there_is_text(values, wanted[tap], "modernbert")


def test_a_compiled_model_reads_the_same(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder(family, layers=3)
    taps: tuple[Tap, ...] = (("hidden", 1), ("hidden", 2), ("query", 3), ("value", 3))
    wanted = read_taps(model, taps)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))

    with reading(model, taps, compiled=True) as run:
        for _ in range(2):
            found = run(text_batch(family, TEXTS))
            for tap in taps:
                torch.testing.assert_close(found[tap], wanted[tap])


def test_a_projection_within_a_window_is_refused_before_anything_is_cut() -> None:
    model = encoder("modernbert")
    before = state_of(model)
    with pytest.raises(BadRequest, match=r"its full-attention layers are 1, 3, 4$"), reading(model, [("key", 2)]):
        pass
    assert state_of(model) == before


# -- afterwards --------------------------------------------------------------------------------------------------------


def state_of(model: Any) -> dict[str, Any]:
    return {
        "weights": {name: weight.data_ptr() for name, weight in model.state_dict().items()},
        "modules": dict(model.named_modules()),
        "hooks": [name for name, module in model.named_modules() if module._forward_hooks],
        "attention": model.config._attn_implementation,
        "relative": getattr(getattr(model, "encoder", None), "relative_attention", None),
    }


@pytest.mark.parametrize("taps", WANTED.values(), ids=WANTED.keys())
def test_the_model_is_whole_again_afterwards(model: Any, family: str, taps: tuple[Tap, ...]) -> None:
    batch = text_batch(family, TEXTS)
    ids, mask = (torch.from_numpy(array) for array in (batch.input_ids_RC, batch.attention_mask_RC))
    before, answer = state_of(model), model(input_ids=ids, attention_mask=mask).last_hidden_state

    read_taps(model, taps)

    assert state_of(model) == before
    assert list(state_of(model)["weights"]) == list(before["weights"])
    assert torch.equal(model(input_ids=ids, attention_mask=mask).last_hidden_state, answer)


def test_the_model_is_whole_again_after_an_exception(model: Any) -> None:
    before = state_of(model)

    def fail_while_cut() -> None:
        with reading(model, [("value", 1)]):
            assert len(model.state_dict()) < len(before["weights"])
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_while_cut()

    assert state_of(model) == before


def test_a_model_without_a_pooler_is_left_without_one() -> None:
    model = tiny_encoder("bert")
    model.pooler = None

    read_taps(model, [("query", 2)])

    assert model.pooler is None
