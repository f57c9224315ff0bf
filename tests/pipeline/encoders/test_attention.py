"""Packed documents do not see each other, and padding is not seen: packed == padded == one by one."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import models
import pytest
import torch
from models import text_batch, tiny_config, tiny_encoder
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionMaskInterface

from pipeline.data.layout import Layout, TextBatch
from pipeline.encoders import attention
from pipeline.encoders.attention import (
    ISOLATING,
    attend_in_grid,
    attend_in_groups,
    can_pack,
    gridded,
    grouped,
    inputs_of,
    isolating,
)
from pipeline.encoders.families import FULL, PROJECTIONS, SLIDING, Tap
from pipeline.encoders.reading import reading
from pipeline.errors import BadRequest

CPU = torch.device("cpu")
LAYERS = 4
TAPS: tuple[Tap, ...] = (("hidden", 2), *((kind, LAYERS) for kind in PROJECTIONS))
# Of different lengths, two of one length, not in order of length, and longer than ModernBERT's window.
TEXTS = [
    "sad",
    "a good story and a very bright actor not dull",
    "the plot",
    "awful",
    "strange and heavy and slow and cold and empty and flat",
]


@pytest.fixture(params=[family for family in models.ENCODERS if family != "deberta-v2"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def results(model: Any, batches: Sequence[TextBatch]) -> tuple[dict[Tap, Tensor], dict[str, Tensor]]:
    """The taps at real positions, document after document, and the gradients of a random linear functional of them."""
    model.zero_grad()
    parts: dict[Tap, list[Tensor]] = {tap: [] for tap in TAPS}
    with reading(model, TAPS) as run:
        for batch in batches:
            taps = run(batch)
            for start, length in zip(batch.layout.starts, batch.layout.lengths, strict=True):
                for tap in TAPS:
                    parts[tap].append(taps[tap][start : start + length])
        values = {tap: torch.cat(found) for tap, found in parts.items()}
        generator = torch.Generator().manual_seed(1)
        functional = sum((found * torch.randn(found.shape, generator=generator)).mean() for found in values.values())
        functional.backward()  # type: ignore[union-attr]
        gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    return values, gradients


def assert_close(found: dict[Any, Tensor], wanted: dict[Any, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, values in found.items():
        scale = wanted[name].abs().max().clamp(min=1.0)
        torch.testing.assert_close(values / scale, wanted[name] / scale, atol=1e-5, rtol=0, msg=str(name))


@pytest.mark.parametrize("lay_out", [grouped, gridded])
@pytest.mark.parametrize("texts", [TEXTS, sorted(TEXTS, key=len), TEXTS[1:2]], ids=["mixed", "sorted", "alone"])
def test_packed_is_padded_is_one_by_one(
    family: str, texts: list[str], lay_out: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "grouped", lay_out)
    model = tiny_encoder(family, layers=LAYERS, initializer_range=0.2)

    one_by_one = results(model, [text_batch(family, [text]) for text in texts])

    for packed in (True, False):
        together = results(model, [text_batch(family, texts, packed=packed)])
        for found, wanted in zip(together, one_by_one, strict=True):
            assert_close(found, wanted)


def test_the_functional_has_a_gradient_that_would_show_a_difference(family: str) -> None:
    """Or the test above would compare zeros."""
    model = tiny_encoder(family, layers=LAYERS, initializer_range=0.2)
    _, gradients = results(model, [text_batch(family, TEXTS, packed=True)])
    assert [name for name, g in gradients.items() if name.endswith("weight") and g.abs().max() < 1e-3] == []


def test_a_document_does_not_change_with_what_is_packed_beside_it(family: str) -> None:
    model = tiny_encoder(family, layers=LAYERS)
    with reading(model, TAPS) as run:
        first = run(text_batch(family, ["a good story", "awful"], packed=True))
        other = run(text_batch(family, ["a good story", "very very lovely"], packed=True))

    length = text_batch(family, ["a good story"]).layout.lengths[0]
    for tap in TAPS:
        torch.testing.assert_close(first[tap][:length], other[tap][:length])
        assert (first[tap][length + 1] - other[tap][length + 1]).abs().max() > 0.01


def test_deberta_packs_nothing() -> None:
    assert {family for family in models.ENCODERS if not can_pack(family)} == {"deberta-v2"}
    with pytest.raises(BadRequest) as refused:
        inputs_of(text_batch("deberta-v2", TEXTS, packed=True), tiny_encoder("deberta-v2"))
    assert str(refused.value) == (
        "deberta-v2 has an attention of its own that cannot keep packed documents apart; give it padded batches"
    )


# -- which attention runs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_attention_maps_are_never_materialised(family: str, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []

    def sdpa(query: Tensor, *rest: Any, **named: Any) -> Tensor:
        calls.append(tuple(query.shape))
        return scaled_dot_product_attention(query, *rest, **named)

    def no_softmax(*_: Any, **__: Any) -> None:
        raise AssertionError("softmax outside of SDPA")

    monkeypatch.setattr(attention, "scaled_dot_product_attention", sdpa)
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", sdpa)
    monkeypatch.setattr(nn.functional, "softmax", no_softmax)
    batch = text_batch(family, TEXTS, packed=packed)

    with reading(tiny_encoder(family, layers=LAYERS), [("query", LAYERS)]) as run:
        run(batch)

    lengths = sorted(set(batch.layout.lengths)) if packed else [max(batch.layout.lengths)]
    assert [shape[2] for shape in calls] == lengths * (LAYERS - 1)
    documents = [batch.layout.lengths.count(length) for length in lengths] if packed else [len(TEXTS)]
    assert [shape[0] for shape in calls] == documents * (LAYERS - 1)


def test_an_encoder_set_to_eager_attention_reads_by_sdpa_and_is_eager_again(family: str) -> None:
    model = tiny_encoder(family, layers=LAYERS)
    wanted, _ = results(model, [text_batch(family, TEXTS)])
    model.set_attn_implementation("eager")

    found, _ = results(model, [text_batch(family, TEXTS)])

    assert_close(found, wanted)
    assert model.config._attn_implementation == "eager"


def test_deberta_keeps_its_own_attention() -> None:
    config = tiny_config("deberta-v2")
    config._attn_implementation = "eager"
    with isolating(config):
        assert config._attn_implementation == "eager"


def test_a_mask_of_two_axes_is_not_lost_within(family: str) -> None:
    """transformers drops the masks of an attention it has no masks for."""
    model = tiny_encoder(family)
    batch = text_batch(family, TEXTS)
    ids, mask = (torch.from_numpy(array) for array in (batch.input_ids_RC, batch.attention_mask_RC))
    wanted = model(input_ids=ids, attention_mask=mask).last_hidden_state
    with isolating(model.config):
        torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).last_hidden_state, wanted)
    assert ISOLATING in AttentionMaskInterface()


@pytest.mark.parametrize("packed", [True, False])
def test_batches_of_all_shapes_are_one_compiled_graph(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or torch.compile would start anew with most batches. Packed as on a GPU: in groups it is not compiled."""
    graphs = CompileCounter()
    monkeypatch.setattr(attention, "grouped", gridded)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=graphs))
    torch.compiler.reset()

    with reading(tiny_encoder("bert", layers=LAYERS), TAPS, compiled=True) as run:
        for count in (2, 3, 5):
            run(text_batch("bert", TEXTS[:count], packed=packed))

    assert graphs.frame_count == 1


# -- masks -------------------------------------------------------------------------------------------------------------


def test_a_padded_batch_is_masked_by_its_keys_alone(family: str) -> None:
    mask = inputs_of(text_batch(family, TEXTS), tiny_encoder(family))["attention_mask"]
    keys = mask[FULL] if family == "modernbert" else mask
    longest = max(text_batch(family, TEXTS).layout.lengths)
    assert tuple(keys.shape) == (len(TEXTS), 1, 1, longest)
    assert keys.dtype == torch.bool


@pytest.mark.parametrize(
    ("texts", "shapes"),
    [
        (["sad"] * 2, (None, None)),
        (["sad", "sad plot"], ((2, 1, 1, 6), (2, 1, 1, 6))),
        (["sad" + " sad" * 8] * 2, (None, (13, 13))),
        (["sad", "sad" + " sad" * 8], ((2, 1, 1, 13), (2, 1, 13, 13))),
    ],
)
def test_a_window_costs_a_mask_only_where_texts_are_longer(texts: list[str], shapes: tuple[Any, Any]) -> None:
    masks = inputs_of(text_batch("modernbert", texts), tiny_encoder("modernbert", local_attention=18))["attention_mask"]
    found = tuple(None if masks[kind] is None else tuple(masks[kind].shape) for kind in (FULL, SLIDING))
    assert found == shapes


def test_every_position_sees_something() -> None:
    """Padding far from any text too: back-ends of SDPA differ in what they make of a query that sees nothing."""
    batch = text_batch("modernbert", ["sad", "sad" + " sad" * 20])
    mask = inputs_of(batch, tiny_encoder("modernbert"))["attention_mask"][SLIDING]
    assert mask.shape[2] > 1
    assert mask.any(dim=3).all()


def test_packed_rows_have_no_mask(family: str) -> None:
    """transformers would build one of N x N for ModernBERT's windows."""
    mask = inputs_of(text_batch(family, TEXTS, packed=True), tiny_encoder(family))["attention_mask"]
    assert mask == ({FULL: None, SLIDING: None} if family == "modernbert" else None)


# -- the two ways for packed rows --------------------------------------------------------------------------------------


def plain(qkv: tuple[Tensor, ...], layout: Layout, reach: int | None) -> Tensor:
    """Softmax attention of one document after another."""
    parts = []
    for start, length in zip(layout.starts, layout.lengths, strict=True):
        query, key, value = (states[start : start + length].transpose(0, 1) for states in qkv)
        logits = query @ key.transpose(1, 2) * 0.3
        if reach is not None:
            place = torch.arange(length)
            logits = logits.masked_fill((place[:, None] - place).abs() > reach, -torch.inf)
        parts.append((logits.softmax(dim=2) @ value).transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("reach", [None, 0, 1, 3, 20])
@pytest.mark.parametrize("lengths", [(5,), (1, 1, 1), (3, 7, 3, 1, 9, 7), (9, 4, 2), (2, 4, 4, 9)])
@pytest.mark.parametrize("way", ["groups", "grid"])
def test_packed_attention_is_softmax_attention_within_each_document(
    way: str, lengths: tuple[int, ...], reach: int | None
) -> None:
    layout = Layout.packed(lengths)
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn((3, sum(lengths), 2, 4), generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn((sum(lengths), 2, 4), generator=generator, dtype=torch.float64)

    if way == "groups":
        found = attend_in_groups(tuple(qkv), grouped(layout, CPU), reach=reach, dropout=0.0, scale=0.3)
    else:
        found = attend_in_grid(tuple(qkv), gridded(layout, CPU), reach=reach, dropout=0.0, scale=0.3)
    wanted = plain(tuple(qkv), layout, reach)

    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad((values * weight).sum(), qkv)[0] for values in (found, wanted)]
    torch.testing.assert_close(*gradients)


def test_every_place_of_the_grid_sees_something(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = []

    def sdpa(*states: Tensor, attn_mask: Tensor, **named: Any) -> Tensor:
        masks.append(attn_mask)
        return scaled_dot_product_attention(*states, attn_mask=attn_mask, **named)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", sdpa)
    qkv = tuple(torch.randn(3, 12, 2, 4))
    attend_in_grid(qkv, gridded(Layout.packed((2, 10)), CPU), reach=1, dropout=0.0, scale=0.3)
    assert masks[0].any(dim=3).all()


def test_documents_in_order_of_length_are_not_moved() -> None:
    assert grouped(Layout.packed((2, 2, 5)), CPU).order_N is None
    assert grouped(Layout.packed((2, 5, 2)), CPU).order_N is not None


def test_documents_of_one_length_are_attended_to_together() -> None:
    assert grouped(Layout.packed((2, 5, 2, 2)), CPU).sizes == ((3, 2), (1, 5))
