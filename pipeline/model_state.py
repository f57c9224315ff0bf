"""A registered model beside its ledger: what the registry says of it now, and of what the ledger still speaks. Pure.

A version's number is not enough for that: whoever deletes a model and registers one anew gets the numbers again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pipeline.alias_history import foreign
from pipeline.ledger import Chain, Entry
from pipeline.tracking.versions import Version
from serving.registry import DIGEST_TAG
from serving.signatures import FILES_TAG

HEAD_TAG: Final = "retort.ledger_head"
CLOCKS: Final = timedelta(minutes=5)  # by which an author's and the registry's may differ


@dataclass(frozen=True)
class State:
    """A model as its registry has it: its ledger, what the model says is the ledger's end, its versions by number, and
    what its aliases name."""

    name: str
    head: str
    chain: Chain
    versions: Mapping[str, Version]
    named: Mapping[str, str]

    @property
    def missing(self) -> dict[str, str]:
        """Where an end of the ledger is written that the ledger lacks -> that end: it was cut off."""
        ends = {f"model {self.name}": self.head}
        ends |= {f"version {number}": each.tags.get(HEAD_TAG, "") for number, each in self.versions.items()}
        return {where: head for where, head in ends.items() if self.chain.lacks(head)}

    @property
    def foreign(self) -> dict[str, str | None]:
        """What aliases name that something else moved or removed; it is no news of one whose version was deleted."""
        found, there = foreign(self.chain, self.named, head=self.head), self.promised
        return {alias: now for alias, now in found.items() if now is not None or alias in there}

    @property
    def promised(self) -> dict[str, str]:
        """Alias -> version, as the moves leave them, of those whose version is still the one that was promoted."""
        last = {alias: self.chain.last(alias) for alias in self.chain.aliases()}
        return {alias: each[1].to for alias, each in last.items() if each and self.is_known(each[1].to, by=each[1])}

    def is_known(self, number: str, *, by: Entry) -> bool:
        """Whether version `number`, to or from which an entry moved an alias, is still the one that it was then. Where
        a model was deleted and is registered anew, others have the numbers, and the ledger says nothing of those.

        What an alias was moved from has its digest in the entries that moved one there; where none did, it was there
        already.
        """
        version = self.versions.get(number)
        if version is None:
            return False
        moves = [by] if by.to == number else [each for _, each in self.chain.valid() if each.to == number]
        return any(speaks_of(each, version) for each in moves) or (not moves and not is_younger(version, by))

    @property
    def next_prev(self) -> str:
        """What the next entry must name as `prev`: the furthest end that is missing, the model's own before others."""
        cut = list(self.missing.values())
        end = max(cut, key=lambda head: (head == self.head, int(head.partition(":")[0])), default=self.head)
        return self.chain.next_prev(end)


def speaks_of(entry: Entry, version: Version) -> bool:
    """Whether a version has the bytes that an entry moved an alias to: those of one number may be others' by now."""
    return (entry.digest, entry.files) == (version.tags.get(DIGEST_TAG, ""), version.tags.get(FILES_TAG, ""))


def is_younger(version: Version, entry: Entry) -> bool:
    """Whether a version was made after an entry was, so that the entry is about another one which had its number."""
    return version.created_at > datetime.fromisoformat(entry.at) + CLOCKS
