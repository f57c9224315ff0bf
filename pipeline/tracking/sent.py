"""How far an outbox was sent, as it is kept beside its events; nothing here talks to anyone."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from pipeline.errors import Transient
from pipeline.outbox_reading import lines_after, writer_is_alive

STATE, REFUSED, LOG = "sent.json", "refused.jsonl", "sender.log"
LOCK_WAIT_S: Final = 30.0


class Busy(Transient):
    """Another process is sending this outbox."""


class State(msgspec.Struct):
    """All events before `offset` bytes were sent or refused; `runs` are MLflow's by label, those in `opened` were not
    closed, `last_at` is the time of the last event, in milliseconds, and `why` what prevented the rest."""

    offset: int = 0
    runs: dict[str, str] = {}
    opened: list[str] = []
    refused: int = 0
    last_at: int = 0
    why: str = ""


class Refusal(msgspec.Struct, frozen=True):
    """Something that the server does not take, as it is kept: the event's line, and what of it."""

    why: str
    what: str
    line: str


def read_state(folder: Path) -> State:
    """Where there is none, or half of one after a power cut, all is sent again: that doubles nothing."""
    try:
        return msgspec.json.decode((folder / STATE).read_bytes(), type=State)
    except (FileNotFoundError, msgspec.MsgspecError):
        return State()


def write_state(folder: Path, state: State) -> None:
    """In one rename; not forced to the disk, as it is written after every request."""
    partial = folder / f".{STATE}"
    partial.write_bytes(msgspec.json.encode(state))
    partial.replace(folder / STATE)


def set_aside(folder: Path, refusal: Refusal) -> None:
    """Keep what the server refused."""
    with (folder / REFUSED).open("ab") as file:
        file.write(msgspec.json.encode(refusal) + b"\n")


def waiting(folder: Path) -> int:
    """How many events were not sent yet."""
    return sum(1 for _ in lines_after(folder, read_state(folder).offset))


def settled(folder: Path) -> bool:
    """Whether there is nothing to do: all was sent, every run is closed, and nobody writes. Such an outbox may go."""
    return not writer_is_alive(folder) and not read_state(folder).opened and waiting(folder) == 0


@contextmanager
def alone(folder: Path, wait_s: float | None = None) -> Iterator[None]:
    """Hold the sending of an outbox.

    Raises:
        Busy: another process has held it for `wait_s` seconds (None: LOCK_WAIT_S).
    """
    with (folder / "send.lock").open("wb") as file:
        end = time.monotonic() + (LOCK_WAIT_S if wait_s is None else wait_s)
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise Busy(f"another process is sending {folder}; run again when it is done") from None
                time.sleep(0.05)
        yield
