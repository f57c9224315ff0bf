"""A shard of a corpus, read window by window: so many tokens are held, shuffled and cut into batches at a time."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from threading import Event
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data.batches import length_batches, truncating
from pipeline.data.masking import Masking, special_table
from pipeline.data.packing import Documents, packed_rows
from pipeline.errors import BadArtifact

# Documents tokenized in one call.
CHUNK_DOCUMENTS = 256
# The first windows of all are smaller by 2 ** 4, 2 ** 3, ...: nobody waits long for the first step.
SMALLER_WINDOWS = 4


@dataclass(frozen=True)
class Portion:
    """What a global step holds, together with the corpus: one micro-batch of at most `batch_tokens` positions (padding
    counted) from each of `micro_batches` shards, drawn from `shuffle_tokens` tokens held at a time and shard."""

    batch_tokens: int
    max_length: int
    micro_batches: int = 1
    seed: int = 0
    packed: bool = False
    masking: Masking | None = None
    shuffle_tokens: int = 1_000_000

    def window_tokens(self, place: "Place") -> int:
        """How many tokens the window that begins here may hold."""
        if place.epoch > 0:
            return self.shuffle_tokens
        smaller = self.shuffle_tokens >> max(0, SMALLER_WINDOWS - place.window)
        return min(self.shuffle_tokens, max(self.batch_tokens, smaller))


@dataclass(frozen=True)
class Place:
    """Where a window begins: the epoch, its number in it, and the first document that it may hold."""

    epoch: int = 0
    window: int = 0
    document: int = 0


@dataclass(frozen=True)
class Window:
    """Documents, the batches made of them, and where the next window begins."""

    place: Place
    after: Place
    documents: Documents
    plan: list[list[int]]


class Encoded(NamedTuple):
    """One document's tokens, of which some have content."""

    number: int
    ids: npt.NDArray[np.int32]
    word_starts: npt.NDArray[np.bool_] | None


class Encoder:
    """Texts as token ids, cut to `max_length`; documents of special tokens alone are left out."""

    def __init__(self, tokenizer: Any, settings: Portion) -> None:
        self._whole_word = settings.masking is not None and settings.masking.whole_word
        self._special_V = special_table(tokenizer)
        fast = truncating(tokenizer, max_length=settings.max_length)
        self._encode = fast.encode_batch if self._whole_word else fast.encode_batch_fast  # the fast one knows no words

    def __call__(self, numbered: Sequence[tuple[int, str]]) -> Iterator[Encoded]:
        """The documents that have content, in their order."""
        for (number, _), encoding in zip(numbered, self._encode([text for _, text in numbered]), strict=True):
            ids = np.asarray(encoding.ids, np.int32)
            if not self._special_V[ids].all():
                yield Encoded(number, ids, _word_starts(encoding.word_ids) if self._whole_word else None)


def _word_starts(word_ids: list[int | None]) -> npt.NDArray[np.bool_]:
    words = np.asarray(word_ids, np.float64)  # None becomes NaN, which differs from everything
    starts = np.ones(len(words), np.bool_)
    starts[1:] = words[1:] != words[:-1]
    return starts


class ShardReader:
    """The windows of one shard: the documents whose number leaves `shard` when divided by the number of shards.

    A shard that fits one window is read once and kept. One thread at a time may use it; `stopped` ends a read early
    (CancelledError).
    """

    def __init__(
        self,
        texts: Callable[[], Iterable[str]],
        encode: Encoder,
        settings: Portion,
        *,
        shard: int,
        stopped: Event,
    ) -> None:
        self._texts, self._encode, self._settings = texts, encode, settings
        self._shard, self._stopped = shard, stopped
        self._reading: Generator[Encoded] | None = None
        self._carried: Encoded | None = None  # read, but too long for the window before
        self._stands_at: Place | None = None
        self._kept: list[Documents] | None = None  # the epoch so far, while that may prove to be all

    def close(self) -> None:
        """Close what is being read."""
        if self._reading is not None:
            self._reading.close()

    def read(self, place: Place) -> Window:
        """The window that begins here."""
        if place.document == 0 and self._kept and self._stands_at == Place(place.epoch):
            documents, after = _joined(self._kept), Place(place.epoch + 1)
            self._kept = [documents]
        else:
            if self._stands_at != place or place.document == 0:
                self._open(place)
            documents, after = self._next(place)
            self._keep(documents)
        self._stands_at = after
        return Window(place, after, documents, self._plan(documents, place))

    def _open(self, place: Place) -> None:
        self.close()
        self._carried = None
        self._kept = [] if place.document == 0 else None
        self._reading = self._encoded(place.document)

    def _keep(self, documents: Documents) -> None:
        if self._kept is not None:
            self._kept.append(documents)
            held = sum(len(part.flat_ids) for part in self._kept)
            self._kept = self._kept if held <= self._settings.shuffle_tokens else None

    def _next(self, place: Place) -> tuple[Documents, Place]:
        """Whole documents while they fit (one at least), and where those after them begin."""
        assert self._reading is not None
        room = self._settings.window_tokens(place)
        flat_ids = np.empty(max(room, self._settings.max_length), np.int32)  # pages are taken as they are filled
        word_starts: list[npt.NDArray[np.bool_]] = []
        numbers: list[int] = []
        ends, after = [0], Place(place.epoch + 1)
        while (document := self._document()) is not None:
            end = ends[-1] + len(document.ids)
            if numbers and end > room:
                self._carried, after = document, Place(place.epoch, place.window + 1, document.number)
                break
            flat_ids[ends[-1] : end] = document.ids
            if document.word_starts is not None:
                word_starts.append(document.word_starts)
            numbers.append(document.number)
            ends.append(end)
        if not numbers:
            raise _no_document(place)
        words = np.concatenate(word_starts) if word_starts else None
        return Documents(flat_ids[: ends[-1]], np.asarray(ends), np.asarray(numbers), words), after

    def _document(self) -> Encoded | None:
        assert self._reading is not None
        document, self._carried = self._carried, None
        return document or next(self._reading, None)

    def _encoded(self, first: int) -> Generator[Encoded]:
        """This shard's documents from number `first` on, to the end of the corpus; those before are not tokenized."""
        chunk: list[tuple[int, str]] = []
        characters = 0
        number = -1
        for number, text in enumerate(self._texts()):
            if self._stopped.is_set():
                raise CancelledError
            if number < first or number % self._settings.micro_batches != self._shard:
                continue
            chunk.append((number, text))
            characters += len(text)
            if len(chunk) == CHUNK_DOCUMENTS or characters >= self._settings.shuffle_tokens:
                yield from self._encode(chunk)
                chunk, characters = [], 0
        yield from self._encode(chunk)
        if 0 <= number < self._shard:
            raise BadArtifact(
                f"the text has {number + 1} documents, too few for micro_batches "
                f"{self._settings.micro_batches}: give more text, or lower it"
            )

    def _plan(self, documents: Documents, place: Place) -> list[list[int]]:
        settings = self._settings
        parts = (settings.seed, self._shard, place.epoch, place.window)
        seed = int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
        if settings.packed:
            return list(packed_rows(documents.lengths, token_budget=settings.batch_tokens, seed=seed))
        return length_batches(documents.lengths, token_budget=settings.batch_tokens, seed=seed, epoch=place.epoch)


def _no_document(place: Place) -> BadArtifact:
    if place.document:
        return BadArtifact(
            f"the text ends before document {place.document}, where the checkpoint stands; "
            "give the text it was made with, or remove the checkpoint to start anew"
        )
    return BadArtifact("the text is empty after tokenization; check the `text` source")


def _joined(parts: Sequence[Documents]) -> Documents:
    """Consecutive documents as one."""
    if len(parts) == 1:
        return parts[0]
    offsets = np.cumsum([0, *(len(part.flat_ids) for part in parts)])
    starts = [part.starts[:-1] + offset for part, offset in zip(parts, offsets[:-1], strict=True)]
    words = [part.word_starts for part in parts if part.word_starts is not None]
    return Documents(
        np.concatenate([part.flat_ids for part in parts]),
        np.concatenate([*starts, offsets[-1:]]),
        np.concatenate([part.numbers for part in parts]),
        np.concatenate(words) if words else None,
    )
