"""What a step of training reads: a batch of documents, and where each lies among its positions.

A batch is R rows of C columns. Padded: a document a row, filled up with padding. Packed: one row, the documents end to
end, with nothing between them but the rule that none sees another. Losses take the flat form (N = R * C positions) and
a `Layout`, so packed and padded are one case to them.

Shapes: R rows, C columns, N = R * C positions, M masked positions.
"""

from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Layout:
    """Document b is at flat positions `starts[b]` to `starts[b] + lengths[b]`; every other position is padding."""

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    positions: int

    @classmethod
    def padded(cls, lengths: tuple[int, ...], *, columns: int) -> "Layout":
        """A document a row."""
        return cls(tuple(row * columns for row in range(len(lengths))), lengths, len(lengths) * columns)

    @classmethod
    def packed(cls, lengths: tuple[int, ...]) -> "Layout":
        """Documents end to end in one row."""
        *starts, end = accumulate(lengths, initial=0)
        return cls(tuple(starts), lengths, end)

    @property
    def tokens(self) -> int:
        """Real tokens."""
        return sum(self.lengths)

    def __len__(self) -> int:
        return len(self.lengths)


@dataclass(frozen=True)
class Masked:
    """Positions whose token the model has to guess (flat, ascending), the tokens that stood there, and the document
    of each."""

    positions_M: npt.NDArray[np.int64]
    labels_M: npt.NDArray[np.int64]
    documents_M: npt.NDArray[np.int64]  # index into layout.lengths


@dataclass(frozen=True)
class TextBatch:
    """One micro-batch of unlabelled text. `attention_mask_RC` is None where nothing is padded (always when packed);
    `position_ids_RC`, counted from 0 in each document, is None when padded."""

    input_ids_RC: npt.NDArray[np.int64]
    attention_mask_RC: npt.NDArray[np.int64] | None
    position_ids_RC: npt.NDArray[np.int64] | None
    layout: Layout
    documents: tuple[int, ...]  # their numbers in the corpus, counted from 0, for messages
    masked: Masked | None = None
