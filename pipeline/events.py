"""What a run tells its tracking server: events, each a JSON line of an outbox (outbox.py) until it is sent."""

import time
from typing import Any, Final

import msgspec

PARENT: Final = ""  # the run itself, among the steps' labels


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", forbid_unknown_fields=True):
    """`of` is a step's label, or PARENT; `at` is in milliseconds since 1970."""

    of: str
    at: int = msgspec.field(default_factory=lambda: time.time_ns() // 1_000_000)


class Opened(_Event, frozen=True, kw_only=True, tag="opened"):
    """A run that is at work from now on; with the same key it is the same one, however often it is opened."""

    name: str
    key: str = ""
    tags: dict[str, str]


class Params(_Event, frozen=True, kw_only=True, tag="params"):
    """Settings as they are in the config, nested."""

    values: dict[str, Any]


class Metrics(_Event, frozen=True, kw_only=True, tag="metrics"):
    """Named numbers at a step; one that is not finite is written as its name, for JSON has none."""

    step: int
    values: dict[str, float | str]


class Tags(_Event, frozen=True, kw_only=True, tag="tags"):
    """Facts that may still change."""

    values: dict[str, str]


class Files(_Event, frozen=True, kw_only=True, tag="files"):
    """A folder of the outbox, and where its files lie in the run."""

    folder: str
    to: str


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A data set that was read: how many texts each split has, as far as that is known."""

    name: str
    digest: str
    kind: str
    context: str
    source: dict[str, Any]
    splits: dict[str, int]


class Read(_Event, frozen=True, kw_only=True, tag="read"):
    """Data that went into a run."""

    data: list[Data]


class Closed(_Event, frozen=True, kw_only=True, tag="closed"):
    """The end of a run for now: FINISHED, FAILED or KILLED."""

    status: str


Event = Opened | Params | Metrics | Tags | Files | Read | Closed

_encode = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def line_of(event: Event) -> bytes:
    """The event as its line."""
    return _encode(event) + b"\n"


def event_of(line: bytes) -> Event | None:
    """The event in a line; None where there is none, as in a line that a kill tore."""
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
