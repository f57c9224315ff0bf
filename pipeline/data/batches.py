"""Token ids and length-bucketed batches under a token budget. Shapes: B batch, L tokens, N examples."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import BadRequest
from serving.bundle import Item

Ids = npt.NDArray[np.int32]
CHUNK = 1024
# Examples sorted together: enough for batches of nearly equal lengths, few enough to stay random over the epoch.
WINDOW_BATCHES = 50


@dataclass(frozen=True)
class Tokens:
    """Token ids of all examples end to end; example i is `flat_ids[starts[i]:starts[i + 1]]`."""

    flat_ids: Ids
    flat_type_ids: npt.NDArray[np.int8]
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each example."""
        return np.diff(self.starts)

    def ids(self, index: int) -> Ids:
        """Token ids of one example."""
        return self.flat_ids[self.starts[index] : self.starts[index + 1]]

    def type_ids(self, index: int) -> npt.NDArray[np.int8]:
        """Which text of a pair each token belongs to."""
        return self.flat_type_ids[self.starts[index] : self.starts[index + 1]]

    def batch(self, indices: Sequence[int], *, pad_id: int) -> "Batch":
        """The examples padded to the longest of them."""
        input_ids_BL, attention_mask_BL = pad([self.ids(i) for i in indices], pad_id)
        type_ids_BL, _ = pad([self.type_ids(i).astype(np.int32) for i in indices], 0)
        return Batch(input_ids_BL, attention_mask_BL, type_ids_BL)


class Batch(NamedTuple):
    """What a model reads: three arrays of shape (B, L)."""

    input_ids: npt.NDArray[np.int64]
    attention_mask: npt.NDArray[np.int64]
    token_type_ids: npt.NDArray[np.int64]


def tokenize(items: Iterable[Item], *, tokenizer: Any, max_length: int) -> Tokens:
    """Texts or pairs as ids with special tokens, cut to `max_length` (pairs: the longer text first).

    `tokenizer` is a tokenizers.Tokenizer or a transformers fast tokenizer; it is copied, not changed.
    """
    fast = truncating(tokenizer, max_length=max_length)
    ids: list[Ids] = [np.empty(0, np.int32)]
    types: list[npt.NDArray[np.int8]] = [np.empty(0, np.int8)]
    remaining = iter(items)
    while chunk := [item[0] if len(item) == 1 else item for item in islice(remaining, CHUNK)]:
        for encoding in fast.encode_batch_fast(chunk):
            ids.append(np.asarray(encoding.ids, np.int32))
            types.append(np.asarray(encoding.type_ids, np.int8))
    starts = np.cumsum([len(one) for one in ids], dtype=np.int64)
    return Tokens(np.concatenate(ids), np.concatenate(types), starts)


def truncating(tokenizer: Any, *, max_length: int) -> Any:
    """A copy of the fast tokenizer (tokenizers.Tokenizer) that cuts to `max_length` and pads nothing."""
    fast = getattr(tokenizer, "backend_tokenizer", tokenizer)
    copy = type(fast).from_str(fast.to_str())
    copy.enable_truncation(max_length, strategy="longest_first")
    copy.no_padding()
    return copy


def length_batches(
    lengths: Sequence[int] | Ids | npt.NDArray[np.int64], token_budget: int, seed: int, epoch: int
) -> list[list[int]]:
    """Every example once, in batches whose padded size keeps the budget; the same for the same (seed, epoch).

    The shuffled epoch is cut into windows, each window sorted by length and cut into batches, the batches shuffled.
    """
    lengths_N = np.asarray(lengths, np.int64)
    if not len(lengths_N):
        return []
    if lengths_N.max() > token_budget:
        raise BadRequest(
            f"an example of {lengths_N.max()} tokens does not fit a batch of {token_budget}: "
            "raise the token budget, or lower the maximum length"
        )
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths_N))
    window = max(1, int(WINDOW_BATCHES * token_budget / lengths_N.mean()))
    windows = (order[start : start + window] for start in range(0, len(order), window))
    batches = [
        batch for w in windows for batch in _cut(w[np.argsort(lengths_N[w], kind="stable")], lengths_N, token_budget)
    ]
    return [batches[i] for i in rng.permutation(len(batches))]


def _cut(ascending: npt.NDArray[np.int64], lengths_N: npt.NDArray[np.int64], token_budget: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for index in ascending.tolist():
        if batch and (len(batch) + 1) * lengths_N[index] > token_budget:
            yield batch
            batch = []
        batch.append(index)
    yield batch


def pad(ids: Sequence[Ids], pad_id: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(input_ids_BL, attention_mask_BL), padded on the right to the longest."""
    longest = max(len(one) for one in ids)
    input_ids_BL = np.full((len(ids), longest), pad_id, np.int64)
    attention_mask_BL = np.zeros((len(ids), longest), np.int64)
    for row, one in enumerate(ids):
        input_ids_BL[row, : len(one)] = one
        attention_mask_BL[row, : len(one)] = 1
    return input_ids_BL, attention_mask_BL
