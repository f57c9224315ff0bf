"""Training steps from a text stream that is opened where training begins, or where a checkpoint says it was."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.data.layout import TextBatch
from pipeline.training import Step

if TYPE_CHECKING:
    from pipeline.data.stream import TextStream

NAMED_DOCUMENTS = 4
NAMED_CHARACTERS = 60


class Feed:
    """`open_stream(position)` makes the stream; None is its beginning. Nothing is read before the first step."""

    def __init__(
        self,
        open_stream: "Callable[[Mapping[str, Any] | None], TextStream]",
        *,
        tokenizer: Any,
        weight: Callable[[TextBatch], float] = lambda batch: len(batch.layout),
    ) -> None:
        self._open, self._tokenizer, self._weight = open_stream, tokenizer, weight
        self._stream: TextStream | None = None

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def step_at(self, _step: int) -> Step:
        """The next step; a loss is the sum over what `weight` counts (documents)."""
        batches = self._opened().step()
        return Step(
            batches,
            tokens=sum(batch.layout.tokens for batch in batches),
            positions=sum(batch.layout.positions for batch in batches),
            weight=sum(self._weight(batch) for batch in batches),
            describe=lambda: describe(batches, self._tokenizer),
        )

    def position(self) -> dict[str, Any]:
        """Where the stream is, for a checkpoint."""
        return self._opened().position()

    def seek(self, position: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.close()
        self._stream = self._open(position)

    def close(self) -> None:
        """Stop reading ahead."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _opened(self) -> "TextStream":
        if self._stream is None:
            self._stream = self._open(None)
        return self._stream


def describe(batches: Sequence[TextBatch], tokenizer: Any) -> str:
    """The documents of a step by number and first words: `documents 3 ("The cat sat..."), 8 ("..."), and 5 more`."""
    named = []
    for batch in batches:
        ids_N = batch.input_ids_RC.flatten()
        if batch.masked is not None:
            ids_N[batch.masked.positions_M] = batch.masked.labels_M
        layout = batch.layout
        for number, start, length in zip(batch.documents, layout.starts, layout.lengths, strict=True):
            named.append((number, ids_N[start : start + length]))
    texts = [
        f'{number} ("{tokenizer.decode(ids, skip_special_tokens=True)[:NAMED_CHARACTERS]}...")'
        for number, ids in named[:NAMED_DOCUMENTS]
    ]
    more = len(named) - len(texts)
    return f"documents {', '.join(texts)}" + (f", and {more} more" if more else "")
