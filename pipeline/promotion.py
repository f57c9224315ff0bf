"""Moves of a model's aliases: promoted, taken back, and finished where a move was interrupted.

MLflow's alias write is last-writer-wins, so every move is an entry of the ledger first (pipeline/ledger.py); then the
alias is written, then the ledger's end beside the model. An author whose entry lost a race moves nothing and is told.
Every function takes a client from `pipeline.tracking.client.talking_to`.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pipeline.alias_history import astray, named_once, unfinished, way_back
from pipeline.errors import BadArtifact, BadRequest, Transient
from pipeline.kept_ledger import (
    HEAD_TAG,
    TRIES,
    State,
    add_entry,
    read_chain,
    read_state,
    read_state_at_rest,
    receipts_of,
    require_ours,
    restless,
)
from pipeline.ledger import Chain, Entry, entry_hash
from pipeline.moves import Move, Moved, Overtaken, checked
from pipeline.naming import CHAMPION
from pipeline.tracking.marks import point_alias, tag_model, tag_version
from serving.signatures import FILES_TAG


@dataclass(frozen=True)
class Settled:
    """A model after it was settled: what was repaired in words, aliases whose interrupted move was finished, and those
    that something moved or removed past the ledger, with what they name."""

    state: State
    repaired: tuple[str, ...]
    finished: frozenset[str]
    foreign: Mapping[str, str | None]


def move(client: Any, name: str, move: Move) -> Moved:
    """Let an alias name a version. What an interrupted move left is finished first; where that was this very move,
    there is no more to do.

    Raises:
        BadRequest: there is no such model or version, the alias names it already, or alias or reason will not do.
        BadArtifact: Retort did not register the version, or its list of files is not the one registered.
        Transient: another author moved this alias first; then nothing was moved.
    """
    move = checked(move)
    return _moved_from(client, settled(client, name), move)


def rollback(client: Any, name: str, *, to: str | None, alias: str = CHAMPION, why: str, who: str) -> Moved:
    """Let an alias name again what it named before: `to`, or the version before the present one; where something moved
    it past the ledger, what the ledger says. An interrupted rollback is finished, and is not followed by another one.
    Raises as `move`, and BadRequest where the alias never named that version, or none before."""
    asked = checked(Move(alias, to or "", why, who, action="rollback"))
    before = settled(client, name)
    if to is None:
        asked = replace(asked, version=_finished_rollback(before, alias) or _way_back(before, alias))
    state, once = before.state, named_once(before.state.chain, alias)
    if asked.version in state.versions and asked.version not in once:
        raise BadRequest(
            f"@{alias} of {name} never named version {asked.version}, so there is no way back to it; it named: "
            f"{_listed(once)}; `retort promote` names one for the first time"
        )
    return _moved_from(client, before, asked)


def settle(client: Any, name: str) -> list[str]:
    """Finish what interrupted moves left, and say what was repaired. Whoever does this twice, or while others do, does
    no harm. Raises Transient where the ledger does not come to rest."""
    return list(settled(client, name).repaired)


def settled(client: Any, name: str, *, mine: str | None = None) -> Settled:
    """`settle`, and what the model is like then: aliases are written as the ledger says until it has not grown
    meanwhile, so that an author who is slow cannot move one back.

    Every alias is written before an end that covers its entry, so the first end read here says which moves were
    completed. Where an end is missing, nothing is written but by a caller who has just moved the alias `mine`.
    """
    since: str | None = None
    ours: set[tuple[str, str]] = set()
    repaired: list[str] = []
    for _ in range(TRIES):
        state = read_state(client, name)
        if state.missing:  # or a move came in between
            state = read_state_at_rest(client, name)
        since = state.head if since is None else since
        lagging = _lagging(state, since, ours, only=mine)
        for alias, to in lagging.items():
            point_alias(client, name, alias, to)
            repaired.append(f"@{alias} named {state.named.get(alias, 'nothing')}, and names {to} as the ledger says")
        ours |= set(lagging.items())
        repaired += _write_head(client, state) if mine or not state.missing else []
        if read_chain(client, name).head == state.chain.head:
            after = replace(state, named={**state.named, **lagging})
            finished = unfinished(state.chain, since) | {alias for alias, _ in ours}
            return Settled(after, tuple(repaired), finished, replace(after, head=state.chain.head).foreign)
    raise restless(name)


def _lagging(state: State, since: str, ours: Collection[tuple[str, str]], *, only: str | None) -> dict[str, str]:
    """Alias -> version of those to be written: where an end is missing, none but `only`."""
    found = astray(state.chain, state.named, head=since, ours=ours)
    return {a: to for a, to in found.items() if to in state.versions and (a == only or not state.missing)}


def _moved_from(client: Any, before: Settled, move: Move) -> Moved:
    """Make a move, as a model is that was settled, and as the author saw it: no other move of this alias may have come
    between."""
    if done := _done_already(before, move):
        return done
    name, known = before.state.name, before.state.chain.last(move.alias)
    for _ in range(TRIES):
        entry = _entry(client, before.state, move)
        number = add_entry(client, name, entry, first=not before.state.chain.links)
        kept = read_chain(client, name)
        if counts := _valid_number(kept, entry):
            return _moved(settled(client, name, mine=move.alias), counts, entry)
        _require_kept(kept, number, name=name)
        before = settled(client, name)
        _require_unmoved(before.state.chain, known, number, name=name, alias=move.alias)
    raise restless(name)


def _done_already(before: Settled, move: Move) -> Moved | None:
    """The move, where settling has just finished it; BadRequest where it was made before."""
    state = before.state
    last = state.chain.last(move.alias)
    if last is None or not move.version == last[1].to == state.named.get(move.alias):
        return None
    number, entry = last
    if move.alias in before.finished and entry.action == move.action:
        return _moved(before, number, entry)
    raise BadRequest(
        f"version {move.version} of {state.name} is @{move.alias} already: entry {number}, {entry.at}, {entry.who}: "
        f"{entry.why}"
    )


def _finished_rollback(before: Settled, alias: str) -> str | None:
    """Where an interrupted rollback of the alias went, which settling has just finished."""
    last = before.state.chain.last(alias)
    finished = alias in before.finished and alias not in before.foreign
    return last[1].to if finished and last is not None and last[1].action == "rollback" else None


def _entry(client: Any, state: State, move: Move) -> Entry:
    version = state.versions.get(move.version)
    if version is None:
        raise BadRequest(f"model {state.name} has no version {move.version}; it has: {_listed(state.versions)}")
    return Entry(
        prev=state.next_prev,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        who=move.who,
        action=move.action,
        alias=move.alias,
        was=state.named.get(move.alias),
        to=move.version,
        why=move.why,
        digest=require_ours(version),
        files=version.tags.get(FILES_TAG, ""),
        receipts=receipts_of(client, version),
        run_id=version.run_id or "",
    )


def _valid_number(kept: Chain, entry: Entry) -> int | None:
    """The number under which an entry counts: of a copy too, where a request was sent twice."""
    mine = entry_hash(entry)
    return next((link.number for link in kept.links if link.hash == mine and link.sound and link.won is None), None)


def _require_kept(kept: Chain, number: int, *, name: str) -> None:
    if not any(link.number == number and link.sound for link in kept.links):
        raise BadArtifact(
            f"the registry did not keep entry {number} of the ledger of {name} as it was written, so nothing was "
            f"moved; `retort verify {name}` says what is wrong with it"
        )


def _require_unmoved(now: Chain, known: tuple[int, Entry] | None, number: int, *, name: str, alias: str) -> None:
    """Raise Transient where another author moved this alias first. Where they moved other aliases, this move is as
    right as before, and is tried again."""
    since = [each for each in now.valid(alias) if known is None or each[0] > known[0]]
    if since:
        first, entry = since[0]
        raise Overtaken(
            f"{entry.who} moved @{alias} of {name} to {entry.to} first (entry {first}), so entry {number} is void and "
            f"moved nothing; look at `retort history {name}` and run again"
        )


def _moved(after: Settled, number: int, entry: Entry) -> Moved:
    name = after.state.name
    if entry.alias in after.foreign:
        now = after.foreign[entry.alias] or "nothing"
        raise Transient(
            f"something moved @{entry.alias} of {name} to {now} past the ledger while entry {number} moved it to "
            f"{entry.to}; look at `retort verify {name}` and run again"
        )
    return Moved(name, entry.alias, entry.was, entry.to, number, after.state.chain.head)


def _write_head(client: Any, state: State) -> list[str]:
    """Write the ledger's end on the versions that its aliases name and, last, on the model."""
    head = state.chain.head
    for number in sorted(set(state.chain.aliases().values()) & state.versions.keys()):
        if state.chain.outdates(state.versions[number].tags.get(HEAD_TAG, "")):
            tag_version(client, state.name, number, HEAD_TAG, head)
    if not state.chain.outdates(state.head):
        return []
    tag_model(client, state.name, HEAD_TAG, head)
    return [f"the model says now that its ledger ends with entry {head.partition(':')[0]}"]


def _way_back(before: Settled, alias: str) -> str:
    state = before.state
    if state.chain.faults or state.missing:
        raise BadRequest(
            f"the ledger of {state.name} has faults (`retort verify {state.name}` lists them), so what @{alias} named "
            "before is not sure; say it with --to"
        )
    way = way_back(state.chain, alias)
    if alias not in before.foreign:
        way = way[:-1]  # else the last one is where it is to be
    if not way:
        raise BadRequest(
            f"the ledger of {state.name} knows of no version that @{alias} named before, so there is none to go back "
            "to; `retort promote` names another"
        )
    if way[-1] not in state.versions:
        left = _listed(named_once(state.chain, alias) & state.versions.keys())
        raise BadRequest(
            f"version {way[-1]}, which @{alias} of {state.name} named before, was deleted from the registry; say with "
            f"--to which of these it is to be: {left}"
        )
    return way[-1]


def _listed(versions: Iterable[str]) -> str:
    return ", ".join(sorted(versions, key=int)) or "none"
