"""How documents become batches: which go together, and the arrays a model reads.

Shapes: R rows, C columns, B documents, T real tokens of a batch, M masked positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import numpy.typing as npt

from pipeline.data.layout import Layout, Masked, TextBatch
from pipeline.data.masking import Masker

Ints = npt.NDArray[np.int64]
# Documents among which one is sought that still fits a row: enough for rows that are nearly full.
LOOK_AHEAD = 64


@dataclass(frozen=True)
class Documents:
    """Token ids of numbered documents end to end: document i is `flat_ids[starts[i]:starts[i + 1]]`, and
    `word_starts` says which of its tokens begin a word (None where nobody asks)."""

    flat_ids: npt.NDArray[np.int32]
    starts: Ints
    numbers: Ints
    word_starts: npt.NDArray[np.bool_] | None

    @property
    def lengths(self) -> Ints:
        """Tokens of each document."""
        return np.diff(self.starts)


def packed_rows(lengths: Sequence[int] | Ints, *, token_budget: int, seed: int) -> Iterator[list[int]]:
    """Every document once, in shuffled order, in rows of at most `token_budget` tokens.

    Where the next document does not fit, the longest that does is taken from the LOOK_AHEAD after it.
    """
    lengths_N = np.asarray(lengths, np.int64)
    order = iter(np.random.default_rng(seed).permutation(len(lengths_N)).tolist())
    waiting = list(islice(order, LOOK_AHEAD))
    while waiting:
        row: list[int] = []
        room = token_budget
        while (place := _fitting(lengths_N[waiting], room)) is not None:
            room -= int(lengths_N[waiting[place]])
            row.append(waiting.pop(place))
            waiting.extend(islice(order, 1))
        assert row, "no document is longer than a row"
        yield row


def _fitting(waiting_lengths: Ints, room: int) -> int | None:
    if not len(waiting_lengths) or waiting_lengths.min() > room:
        return None
    if waiting_lengths[0] <= room:
        return 0
    return int(np.where(waiting_lengths <= room, waiting_lengths, 0).argmax())


def assemble(
    documents: Documents, rows: Sequence[int], *, epoch: int, pad_id: int | None, masker: Masker | None
) -> TextBatch:
    """These documents as one batch: a document a row, filled up with `pad_id`; or end to end where that is None."""
    rows_B = np.asarray(rows, np.int64)
    starts_B, numbers_B = documents.starts[rows_B], documents.numbers[rows_B]
    lengths_B = documents.starts[rows_B + 1] - starts_B
    within_T = np.arange(lengths_B.sum()) - np.repeat(np.cumsum(lengths_B) - lengths_B, lengths_B)
    source_T = within_T + np.repeat(starts_B, lengths_B)
    ids_T = documents.flat_ids[source_T].astype(np.int64)
    masked = None
    if masker is not None:
        word_starts_T = None if documents.word_starts is None else documents.word_starts[source_T]
        ids_T, masked = masker.hide(
            ids_T, lengths_B=lengths_B, numbers_B=numbers_B, epoch=epoch, word_starts_T=word_starts_T
        )
    lengths, numbers = tuple(lengths_B.tolist()), tuple(numbers_B.tolist())
    if pad_id is None:
        return TextBatch(ids_T[None], None, within_T[None], Layout.packed(lengths), numbers, masked)
    return _padded(ids_T, within_T, lengths, numbers, masked, pad_id=pad_id)


def _padded(
    ids_T: Ints,
    within_T: Ints,
    lengths: tuple[int, ...],
    numbers: tuple[int, ...],
    masked: Masked | None,
    *,
    pad_id: int,
) -> TextBatch:
    columns = max(lengths)
    place_T = within_T + np.repeat(np.arange(len(lengths)) * columns, lengths)
    input_ids_RC = np.full((len(lengths), columns), pad_id, np.int64)
    input_ids_RC.reshape(-1)[place_T] = ids_T
    mask_RC = None
    if len(place_T) < input_ids_RC.size:
        mask_RC = np.zeros_like(input_ids_RC)
        mask_RC.reshape(-1)[place_T] = 1
    if masked is not None:
        masked = replace(masked, positions_M=place_T[masked.positions_M])
    return TextBatch(input_ids_RC, mask_RC, None, Layout.padded(lengths, columns=columns), numbers, masked)
