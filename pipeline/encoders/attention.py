"""Attention of a batch to itself: padding is never attended to, and packed documents do not see each other.

Registered with transformers as one more attention implementation. A padded batch is SDPA under a mask of its keys, one
row of booleans a document: nothing of L x L is built unless a layer has a sliding window shorter than the text. A
packed batch (one row, documents end to end) is cut up again inside each layer's attention only: on a CPU into groups of
documents of one length, which need neither padding nor mask; elsewhere into one padded batch.

Shapes: R rows, C columns, N positions, B documents, L the longest of them, H heads, K channels of a head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pipeline.data.layout import Layout, TextBatch
from pipeline.encoders.families import FULL, SLIDING, family_of, first_position
from pipeline.errors import BadRequest

ISOLATING = "retort_isolating"


@dataclass(frozen=True)
class Groups:
    """Packed documents by length: the positions in order of (length, document), and how many documents of each length
    there are. `order_N` and `inverse_N` are None where the documents lie in that order already."""

    sizes: tuple[tuple[int, int], ...]  # (documents, length)
    order_N: Tensor | None
    inverse_N: Tensor | None


@dataclass(frozen=True)
class Grid:
    """Packed documents as a padded batch: where each position goes (its document's row * L + its place), and which
    places are filled."""

    places_N: Tensor
    filled_BL: Tensor


def can_pack(model_type: str) -> bool:
    """Whether the family's attention can keep packed documents apart."""
    return family_of(model_type).sdpa


def inputs_of(batch: TextBatch, model: Any) -> dict[str, Any]:
    """What the base encoder `model` is called with, on its device, to run `batch`; BadRequest where it is packed and
    the family cannot keep documents apart."""
    config, device = model.config, model.device
    inputs: dict[str, Any] = {"input_ids": moved(batch.input_ids_RC, device)}
    if batch.position_ids_RC is None:
        return {**inputs, "attention_mask": _padding_mask(batch, config, device)}
    if not can_pack(config.model_type):
        raise BadRequest(
            f"{config.model_type} has an attention of its own that cannot keep packed documents apart; "
            "give it padded batches"
        )
    positions_RC = moved(batch.position_ids_RC, device) + first_position(config)
    no_mask = {FULL: None, SLIDING: None} if family_of(config.model_type).windows else None
    lay_out = grouped if device.type == "cpu" else gridded
    return {
        **inputs,
        "position_ids": positions_RC,
        "attention_mask": no_mask,
        "documents": lay_out(batch.layout, device),
    }


@contextmanager
def isolating(config: Any) -> Iterator[None]:
    """Within, the model of this config attends by `isolating_attention` if its family has exchangeable attention."""
    before = config._attn_implementation
    if family_of(config.model_type).sdpa:
        AttentionInterface.register(ISOLATING, isolating_attention)
        AttentionMaskInterface.register(ISOLATING, sdpa_mask)
        config._attn_implementation = ISOLATING
    try:
        yield
    finally:
        config._attn_implementation = before


def isolating_attention(
    module: Any,
    query_BHLK: Tensor,
    key_BHLK: Tensor,
    value_BHLK: Tensor,
    attention_mask: Tensor | None,
    *,
    documents: Groups | Grid | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """SDPA as transformers calls it; `documents` says that B is 1 and how the row divides. Returns (B, L, H, K).

    `sliding_window` counts the position itself: with 3, a position attends to two on either side.
    """
    given = query_BHLK.dtype
    query_BHLK, key_BHLK, value_BHLK = _widened(query_BHLK, key_BHLK, value_BHLK)
    with torch.autocast(query_BHLK.device.type, enabled=query_BHLK.is_cuda and torch.is_autocast_enabled("cuda")):
        if documents is None:
            attended_BLHK = sdpa_attention_forward(
                module, query_BHLK, key_BHLK, value_BHLK, attention_mask, dropout=dropout, scaling=scaling, **others
            )[0]
        else:
            qkv = tuple(states[0].transpose(0, 1) for states in (query_BHLK, key_BHLK, value_BHLK))
            reach = None if sliding_window is None else sliding_window - 1
            attend: Any = attend_in_groups if isinstance(documents, Groups) else attend_in_grid
            attended_BLHK = attend(qkv, documents, reach=reach, dropout=dropout, scale=scaling)[None]
    return attended_BLHK.to(given), None


def _widened(*states: Tensor) -> tuple[Tensor, ...]:
    """On a CPU, bf16 as fp32: the backward of PyTorch's flash attention takes twice as long in bf16 there (two Zen 4
    cores, 16 x 128 tokens, 12 heads: 68 against 32 ms forward and backward)."""
    if states[0].is_cuda or states[0].dtype != torch.bfloat16:
        return states
    return tuple(each.float() for each in states)


def grouped(layout: Layout, device: torch.device) -> Groups:
    """The documents of a packed batch by length."""
    lengths = np.asarray(layout.lengths)
    order = np.argsort(lengths, kind="stable")
    counts = np.unique(lengths, return_counts=True)
    sizes = tuple((int(count), int(length)) for length, count in zip(*counts, strict=True))
    if (order == np.arange(len(lengths))).all():
        return Groups(sizes, None, None)
    positions = np.concatenate([np.arange(layout.starts[b], layout.starts[b] + lengths[b]) for b in order])
    return Groups(sizes, moved(positions, device), moved(np.argsort(positions), device))


def gridded(layout: Layout, device: torch.device) -> Grid:
    """The documents of a packed batch as rows of a padded one."""
    longest = max(layout.lengths)
    places = np.concatenate([row * longest + np.arange(length) for row, length in enumerate(layout.lengths)])
    filled = np.arange(longest) < np.asarray(layout.lengths)[:, None]
    return Grid(moved(places, device), moved(filled, device))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def attend_in_groups(
    qkv: tuple[Tensor, ...], documents: Groups, *, reach: int | None, dropout: float, scale: float | None
) -> Tensor:
    """(N, H, K) from three of (N, H, K): a call of SDPA for each length there is; not compiled, since each batch has
    other lengths."""
    if documents.order_N is not None:
        qkv = tuple(states_NHK.index_select(0, documents.order_N) for states_NHK in qkv)
    portions = [count * length for count, length in documents.sizes]
    parts = []
    for (count, length), *of_group in zip(
        documents.sizes, *(torch.split(states, portions) for states in qkv), strict=True
    ):
        query, key, value = (states.view(count, length, *states.shape[1:]).transpose(1, 2) for states in of_group)
        mask = _window(length, reach, query.device) if reach is not None and length > reach + 1 else None
        attended = scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale)
        parts.append(attended.transpose(1, 2).flatten(0, 1))
    attended_NHK = torch.cat(parts)
    return attended_NHK if documents.inverse_N is None else attended_NHK.index_select(0, documents.inverse_N)


def attend_in_grid(
    qkv: tuple[Tensor, ...], documents: Grid, *, reach: int | None, dropout: float, scale: float | None
) -> Tensor:
    """(N, H, K) from three of (N, H, K): one call of SDPA over the documents padded to the longest."""
    rows, columns = documents.filled_BL.shape

    def spread(states_NHK: Tensor) -> Tensor:
        empty = states_NHK.new_zeros((rows * columns, *states_NHK.shape[1:]))
        return (
            empty.index_copy(0, documents.places_N, states_NHK)
            .view(rows, columns, *states_NHK.shape[1:])
            .transpose(1, 2)
        )

    query, key, value = (spread(states_NHK) for states_NHK in qkv)
    mask = documents.filled_BL[:, None, None, :]
    if reach is not None:  # a padding query would see nothing, and back-ends differ in what is made of that
        window = _window(columns, reach, query.device)
        mask = (mask & window) | torch.eye(columns, dtype=torch.bool, device=query.device)
    attended = scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale)
    return attended.transpose(1, 2).flatten(0, 1).index_select(0, documents.places_N)


def _padding_mask(batch: TextBatch, config: Any, device: torch.device) -> Any:
    """In the form the family takes; a mask with four axes is taken as it is, without a look at its values (a
    synchronisation)."""
    family, mask_RC = family_of(config.model_type), batch.attention_mask_RC
    if not family.sdpa:
        return moved(np.ones_like(batch.input_ids_RC) if mask_RC is None else mask_RC, device)
    keys_R11C = None if mask_RC is None else moved(mask_RC.astype(bool), device)[:, None, None, :]
    if not family.windows:
        return keys_R11C
    columns, reach = batch.input_ids_RC.shape[1], config.sliding_window
    if columns <= reach + 1:
        return {FULL: keys_R11C, SLIDING: keys_R11C}
    window_CC = _window(columns, reach, device)
    itself_CC = torch.eye(columns, dtype=torch.bool, device=device)
    return {FULL: keys_R11C, SLIDING: window_CC if keys_R11C is None else (keys_R11C & window_CC) | itself_CC}


def _window(length: int, reach: int, device: torch.device) -> Tensor:
    place_L = torch.arange(length, device=device)
    return (place_L[:, None] - place_L).abs() <= reach


def moved(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Sent off without waiting for it; from pinned memory, or a GPU's copy would wait all the same."""
    values = torch.from_numpy(array)
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
