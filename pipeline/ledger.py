"""The ledger of a model's aliases: one entry a move, each chained to the one before it by that one's hash. Pure: what a
registry keeps is given.

    number   where an entry stands; the registry's database makes it unique, so it is the order of moves
    prev     the hash of the last valid entry that the author knew of ("" for the first): where another entry was made
             on the same one first, the race was lost, and the entry is void
    head     "NUMBER:HASH" of the last valid entry, written beside the model too, so that a cut-off end is found

A fault never ends the chain: what follows is judged on, so that no move is blocked and none hides what was found. An
entry that follows no known one is a fault, and is followed itself.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

import msgspec

from pipeline.errors import BadRequest

SCHEMA: Final = 1
Action = Literal["promote", "rollback"]
_HEAD = re.compile(r"[1-9][0-9]*:[0-9a-f]{64}")


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One move: `alias` named the version `was` (None: nothing) and names `to`, for the reason `why`."""

    schema: int = SCHEMA
    prev: str
    at: str  # UTC, ISO 8601, whole seconds
    who: str
    action: Action
    alias: str
    was: str | None
    to: str
    why: str
    digest: str  # of the bundle of `to`
    files: str  # of its files.sha256; "" where it has none
    receipts: dict[str, str]  # path in the version -> sha256
    run_id: str

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"schema {self.schema} is not known")
        if datetime.fromisoformat(self.at).tzinfo is None:
            raise ValueError(f"{self.at} has no time zone")


def entry_text(entry: Entry) -> str:
    """Canonical JSON: sorted keys, no spaces, ASCII alone."""
    return json.dumps(msgspec.to_builtins(entry), sort_keys=True, separators=(",", ":"))


def entry_hash(entry: Entry) -> str:
    """What the next entry names as `prev`."""
    return text_hash(entry_text(entry))


def text_hash(text: str) -> str:
    """Of an entry's text as it is kept."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Kept:
    """One entry as the registry keeps it: its text and the hash written beside it, "" where there is none."""

    number: int
    text: str
    hash: str


@dataclass(frozen=True)
class Fault:
    """What is wrong at an entry; nothing up to there is to be relied upon."""

    number: int
    text: str


@dataclass(frozen=True)
class Link:
    """An entry as it was read and judged. `entry` is None where its text cannot be read; `sound` says that its text is
    what its hash says; `won` is the number of the entry that won against it, None where it is valid."""

    number: int
    entry: Entry | None
    hash: str
    sound: bool
    won: int | None = None

    @property
    def head(self) -> str:
        """How it is named where the chain's end is written."""
        return f"{self.number}:{self.hash}"


@dataclass(frozen=True)
class Chain:
    """A ledger as it was judged: every entry there is, what is wrong with them, and `head`, the last one that is sound
    and counts."""

    links: tuple[Link, ...] = ()
    faults: tuple[Fault, ...] = ()
    head: str = ""

    def valid(self, alias: str | None = None) -> list[tuple[int, Entry]]:
        """Numbers and entries of the moves that count, in order: those of one alias, or all."""
        return [
            (link.number, link.entry)
            for link in self.links
            if link.entry is not None and link.sound and link.won is None and alias in (None, link.entry.alias)
        ]

    def last(self, alias: str) -> tuple[int, Entry] | None:
        """The last move of an alias."""
        return next(reversed(self.valid(alias)), None)

    def aliases(self) -> dict[str, str]:
        """Alias -> version, as the moves leave them: only what no fault comes after, so that an altered entry moves
        nothing."""
        sure = max((fault.number for fault in self.faults), default=0)
        last = {entry.alias: (number, entry.to) for number, entry in self.valid()}
        return {alias: to for alias, (number, to) in last.items() if number > sure}

    def holds(self, head: str) -> bool:
        """Whether this is its end or was so once, or an entry follows it although it is gone, which is a fault
        already."""
        end = head.partition(":")[2]
        return any(link.head == head for link in self.links if link.won is None) or any(
            entry.prev == end for _, entry in self.valid()
        )

    def lacks(self, head: str) -> bool:
        """Whether an end that is written elsewhere is not here, so that the ledger was cut off."""
        return bool(_HEAD.fullmatch(head)) and not self.holds(head)

    def covers(self, head: str, number: int) -> bool:
        """Whether an end that is written elsewhere is this entry or a later one: that entry's move was completed. Of an
        end that was cut off nobody can say where it stood: it may have been later than any."""
        after = [each for each, entry in self.valid() if entry.prev == head.partition(":")[2]]
        stood = [link.number for link in self.links if link.head == head and link.won is None]
        stood += [each - 1 for each in after if not stood]
        return self.lacks(head) or (bool(_HEAD.fullmatch(head)) and max(stood, default=0) >= number)

    def outdates(self, head: str) -> bool:
        """Whether an end that is written elsewhere is to be brought up to date: never back to an earlier one, and never
        where it shows what is missing."""
        if not _HEAD.fullmatch(head):
            return bool(self.head)
        later = [link.head for link in self.links if link.number > int(self.head.partition(":")[0] or 0)]
        return head not in (self.head, *later) and self.holds(head)

    def next_prev(self, head: str) -> str:
        """What the next entry must name as `prev`, where the model says that `head` is the end: so that an entry after
        an end that was cut off shows for ever what is missing."""
        return (head if self.lacks(head) else self.head).partition(":")[2]


def chain(kept: Sequence[Kept]) -> Chain:
    """Judge what is kept.

    Raises:
        BadRequest: an entry has a schema that this version does not know.
    """
    judge = _Judge()
    links = tuple(judge.link(each) for each in sorted(kept, key=lambda each: each.number))
    return Chain(links, tuple(judge.faults), judge.head)


class _Judge:
    """Entries in their order, one after the other. Where one is not sound, nobody can say whether it was valid: the
    next one may name it, or what it may have followed."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.head = ""
        self._number = 0
        self._ends: list[str] = [""]  # hashes that the next entry may name
        self._followed: dict[str, int] = {}  # hash -> number of the entry that followed it

    def link(self, kept: Kept) -> Link:
        for number in range(self._number + 1, kept.number):
            self._fault(number, f"entry {number} is missing: it was removed from the ledger")
        self._number = kept.number
        entry, fault = _read(kept)
        if entry is None or fault is not None:
            self._fault(kept.number, f"entry {kept.number} {fault}")
            return self._broken(Link(kept.number, entry, kept.hash, sound=False))
        return self._sound(Link(kept.number, entry, kept.hash, sound=True), prev=entry.prev)

    def _sound(self, link: Link, *, prev: str) -> Link:
        if prev in self._followed:
            return replace(link, won=self._followed[prev])
        if prev not in self._ends:
            told = f"entry {link.number} follows one that is not there ({prev[:12]}): an entry before it was altered"
            self._fault(link.number - 1, f"{told} or removed")
        self._followed |= dict.fromkeys([*self._ends, prev], link.number)
        self._ends = [link.hash]
        self.head = link.head
        return link

    def _broken(self, link: Link) -> Link:
        if link.hash and link.hash not in self._followed:
            self._ends.append(link.hash)
        return link

    def _fault(self, number: int, text: str) -> None:
        self.faults.append(Fault(number, text))


def _read(kept: Kept) -> tuple[Entry | None, str | None]:
    """The entry if it can be read, and what is wrong with it if anything is."""
    if not kept.text:
        return None, "has no text"
    altered = text_hash(kept.text) != kept.hash
    try:
        if not altered:
            _require_known(kept)
        entry = msgspec.json.decode(kept.text, type=Entry)
    except msgspec.MsgspecError as error:
        return None, f"cannot be read: {error}"
    return entry, "was altered: its text is not what its hash says" if altered else None


def _require_known(kept: Kept) -> None:
    found = msgspec.json.decode(kept.text)
    schema = found.get("schema") if isinstance(found, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise BadRequest(
            f"entry {kept.number} of the ledger has schema {schema}, and this version reads {SCHEMA}: it was written "
            "by a newer Retort; upgrade"
        )
