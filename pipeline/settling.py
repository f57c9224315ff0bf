"""A model settled: what interrupted moves left is finished, by whoever comes next.

What the registry refuses to have written of another alias than the caller's is told, and stops nobody: one alias that
cannot be written must not block the others.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from pipeline.alias_history import astray, unfinished
from pipeline.errors import BadRequest
from pipeline.kept_ledger import TRIES, read_chain, read_state, read_state_at_rest, restless
from pipeline.ledger_faults import alias_faults, ledger_faults
from pipeline.model_state import HEAD_TAG, State
from pipeline.tracking.marks import point_alias, tag_model, tag_version
from serving.registry_failures import one_message

END: Final = "the ledger's end on the model"


@dataclass(frozen=True)
class Settled:
    """A model after it was settled: what was repaired in words, aliases whose interrupted move was finished, those that
    something moved or removed past the ledger, with what they name, and what the registry refused to have written
    (@alias, or END), with its words."""

    state: State
    repaired: tuple[str, ...]
    finished: frozenset[str]
    foreign: Mapping[str, str | None]
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with the ledger and the aliases all the same, in words."""
        left = (f"{what} could not be written: {why}" for what, why in self.refused.items())
        return (*ledger_faults(self.state), *alias_faults(self.state, self.foreign), *left)

    def require_written(self, *aliases: str) -> None:
        """Raise BadRequest where the registry refused one of these; without any, where it refused anything."""
        for what, why in self.refused.items():
            if not aliases or what in (f"@{alias}" for alias in aliases):
                raise BadRequest(f"{what} of {self.state.name} could not be written: {why}")


def settle(client: Any, name: str) -> list[str]:
    """Finish what interrupted moves left, and say what was repaired. Whoever does this twice, or while others do, does
    no harm. Raises Transient where the ledger does not come to rest."""
    return list(settled(client, name).repaired)


def settled(client: Any, name: str, *, alias: str | None = None, moved: bool = False) -> Settled:
    """`settle`, and what the model is like then: aliases are written as the ledger says until it has not grown
    meanwhile, so that an author who is slow cannot move one back. `alias` is the caller's, who has just `moved` it or
    is about to; what is refused of it is raised.

    Every alias is written before an end that covers its entry, so the first end read here says which moves were
    completed. Where an end is missing, nothing is written but by a caller who has just moved.
    """
    mine = alias if moved else None
    desk = _Repairs(client, alias, moved=moved)
    since: str | None = None
    ours: set[tuple[str, str]] = set()
    for _ in range(TRIES):
        state = read_state(client, name)
        if state.missing:  # or a move came in between
            state = read_state_at_rest(client, name)
        since = state.head if since is None else since
        written = desk.write_aliases(state, _lagging(state, since, ours, only=mine))
        ours |= set(written.items())
        if mine or not (state.missing or desk.refused):
            desk.write_end(state)
        if read_chain(client, name).head == state.chain.head:
            after = replace(state, named={**state.named, **written})
            finished = unfinished(state.chain, since) | {each for each, _ in ours}
            end = state.head if desk.refused and not mine else state.chain.head
            return Settled(after, tuple(desk.done), finished, replace(after, head=end).foreign, desk.refused)
    raise restless(name)


def _lagging(state: State, since: str, ours: Collection[tuple[str, str]], *, only: str | None) -> dict[str, str]:
    """Alias -> version of those to be written: where an end is missing, none but `only`."""
    found, there = astray(state.chain, state.named, head=since, ours=ours), state.promised
    return {a: to for a, to in found.items() if a in there and (a == only or not state.missing)}


class _Repairs:
    """What was written, in words, and what the registry refused."""

    def __init__(self, client: Any, alias: str | None, *, moved: bool) -> None:
        self._client, self._alias, self._moved = client, alias, moved
        self.done: list[str] = []
        self.refused: dict[str, str] = {}

    def write_aliases(self, state: State, lagging: Mapping[str, str]) -> dict[str, str]:
        """Let aliases name what the ledger says; those that were written."""
        written = {}
        self.refused.clear()
        for alias, to in lagging.items():
            write = partial(point_alias, self._client, state.name, alias, to)
            if self._write(f"@{alias}", write, must=alias == self._alias):
                was = state.named.get(alias, "nothing")
                self.done.append(f"@{alias} named {was}, and names {to} as the ledger says")
                written[alias] = to
        return written

    def write_end(self, state: State) -> None:
        """Write the ledger's end on the versions that its aliases name and, last, on the model."""
        if self._write(END, partial(self._write_ends, state), must=self._moved) and state.chain.outdates(state.head):
            number = state.chain.head.partition(":")[0]
            self.done.append(f"the model says now that its ledger ends with entry {number}")

    def _write_ends(self, state: State) -> None:
        head = state.chain.head
        for number in sorted(set(state.promised.values())):
            if state.chain.outdates(state.versions[number].tags.get(HEAD_TAG, "")):
                tag_version(self._client, state.name, number, HEAD_TAG, head)
        if state.chain.outdates(state.head):
            tag_model(self._client, state.name, HEAD_TAG, head)

    def _write(self, what: str, write: Callable[[], None], *, must: bool) -> bool:
        try:
            with one_message(self._client.tracking_uri):
                write()
        except BadRequest as refusal:
            if must:
                raise
            self.refused[what] = str(refusal)
            return False
        self.refused.pop(what, None)
        return True
