"""The training batches of a corpus: endless, the same for every number of ranks, tokenized ahead in the background, and
continued from a checkpoint exactly where they were.

Documents are numbered in the order of the corpus, and shard m of M holds those whose number leaves m when divided by M.
A step of training is one micro-batch from every shard, so it depends on the corpus and the settings alone. A rank reads
the shards m with m % world == rank, each by an iterator of its own: what a rank passes over costs it reading, never
tokenizing. Held at a time: two windows of token ids a shard, and the chunk of documents being tokenized.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from threading import Event
from types import TracebackType
from typing import Any

from pipeline.data.layout import TextBatch
from pipeline.data.masking import Masker
from pipeline.data.packing import assemble
from pipeline.data.windows import Encoder, Place, Portion, ShardReader, Window
from pipeline.errors import BadArtifact, BadRequest

__all__ = ["Portion", "TextStream"]


class TextStream:
    """This rank's micro-batches, step after step; a context manager, which ends the background thread.

    Raises BadRequest for settings that cannot work, BadArtifact for a `position` of other settings. What goes wrong
    while reading (BadArtifact for text that is empty, whatever the corpus raises) is raised by the `step` that needs
    what was read.
    """

    def __init__(
        self,
        texts: Callable[[], Iterable[str]],
        tokenizer: Any,
        settings: Portion,
        *,
        rank: int = 0,
        world: int = 1,
        position: Mapping[str, Any] | None = None,
    ) -> None:
        """`texts` begins the corpus anew whenever it is called, in the same order; `position` may hold more shards
        than this rank's."""
        _check(settings, world=world)
        masker = Masker(settings.masking, tokenizer) if settings.masking else None
        encode = Encoder(tokenizer, settings)
        pad_id = None if settings.packed else tokenizer.pad_token_id
        shards = range(rank, settings.micro_batches, world)
        states = {shard: _state(position, shard, settings) for shard in shards}
        self._settings = settings
        self._stopped = Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="text-stream")
        self._shards: dict[int, _Shard] = {}
        for shard in shards:
            reader = ShardReader(texts, encode, settings, shard=shard, stopped=self._stopped)
            self._shards[shard] = _Shard(reader, self._worker, states[shard], pad_id=pad_id, masker=masker)

    def step(self) -> tuple[TextBatch, ...]:
        """The next micro-batch of each of this rank's shards, in order of the shards."""
        assert not self._stopped.is_set(), "a closed stream has no next step"
        for shard in self._shards.values():
            shard.wait()  # for all before one is taken: a step is given whole or not at all
        return tuple(shard.take() for shard in self._shards.values())

    def position(self) -> dict[str, Any]:
        """Where every one of this rank's shards is after the steps given: plain values, for a checkpoint."""
        return {str(m): {**shard.state(), "settings": asdict(self._settings)} for m, shard in self._shards.items()}

    def close(self) -> None:
        """End the background thread, even while it reads, and close the corpus."""
        self._stopped.set()
        self._worker.shutdown(wait=True, cancel_futures=True)
        for shard in self._shards.values():
            shard.close()

    def __enter__(self) -> "TextStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Shard:
    """One shard: the window in use, and the next under way."""

    def __init__(
        self,
        reader: ShardReader,
        worker: ThreadPoolExecutor,
        state: Mapping[str, int],
        *,
        pad_id: int | None,
        masker: Masker | None,
    ) -> None:
        self._reader, self._worker, self._pad_id, self._masker = reader, worker, pad_id, masker
        self._begins = Place(state["epoch"], state["window"], state["document"])
        self._used = state["batch"]
        self._window: Window | None = None
        self._coming: Future[Window] = worker.submit(reader.read, self._begins)

    def wait(self) -> None:
        """Until there is a batch to take."""
        if self._window is None:
            self._window = self._next()
            if self._used >= len(self._window.plan):
                raise BadArtifact(
                    f"the checkpoint has used {self._used} batches of a window that holds {len(self._window.plan)}; "
                    "give the text and tokenizer it was made with, or remove the checkpoint to start anew"
                )
        elif self._used == len(self._window.plan):
            self._window, self._used = self._next(), 0

    def _next(self) -> Window:
        window = self._coming.result()
        self._coming = self._worker.submit(self._reader.read, window.after)
        return window

    def take(self) -> TextBatch:
        """The next batch; `wait` was called."""
        assert self._window is not None
        window = self._window
        batch = assemble(
            window.documents,
            window.plan[self._used],
            epoch=window.place.epoch,
            pad_id=self._pad_id,
            masker=self._masker,
        )
        self._used += 1
        return batch

    def state(self) -> dict[str, int]:
        """Where the next batch is; a window that is used up is left behind, so that nobody tokenizes it again."""
        place, batch = self._begins, self._used
        if self._window is not None:
            used_up = batch == len(self._window.plan)
            place, batch = (self._window.after, 0) if used_up else (self._window.place, batch)
        return {**asdict(place), "batch": batch}

    def close(self) -> None:
        """Close the corpus and let go of what was read."""
        self._coming = Future()
        self._reader.close()


def _check(settings: Portion, *, world: int) -> None:
    if settings.micro_batches % world:
        raise BadRequest(
            f"micro_batches is {settings.micro_batches}, which {world} processes cannot share evenly; "
            f"make it a multiple of {world}, or start a number of processes that divides it"
        )
    if settings.max_length > settings.batch_tokens:
        raise BadRequest(
            f"max_length is {settings.max_length}, more than the {settings.batch_tokens} of "
            "batch_tokens; lower the one or raise the other"
        )


def _state(position: Mapping[str, Any] | None, shard: int, settings: Portion) -> dict[str, int]:
    """This shard's part of a position, or the beginning."""
    if position is None:
        return {**asdict(Place()), "batch": 0}
    for state in position.values():
        _check_settings(then=state["settings"], now=asdict(settings))
    if str(shard) not in position:
        raise BadArtifact(
            f"the checkpoint's text stream has no shard {shard}, only {', '.join(position)}; "
            "resume with the processes it was made with, or remove the checkpoint to start anew"
        )
    return {name: value for name, value in position[str(shard)].items() if name != "settings"}


def _check_settings(*, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in now:
        if then[name] != now[name]:
            raise BadArtifact(
                f"the checkpoint's text stream has {name} {then[name]}, and this run {now[name]}; "
                "restore it, or remove the checkpoint to start anew"
            )
