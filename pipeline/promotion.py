"""Moves of a model's aliases: promoted, and taken back.

MLflow's alias write is last-writer-wins, so every move is an entry of the ledger first (pipeline/ledger.py); then the
alias is written, then the ledger's end beside the model, both by pipeline/settling.py, which finishes what a move that
was interrupted left. An author whose entry lost a race moves nothing and is told.
Every function takes a client from `pipeline.tracking.client.talking_to`.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pipeline.alias_history import named_once, way_back
from pipeline.errors import BadArtifact, BadRequest, Transient
from pipeline.kept_ledger import TRIES, add_entry, read_chain, receipts_of, require_ours, restless
from pipeline.ledger import Chain, Entry, entry_hash
from pipeline.model_state import State
from pipeline.moves import Move, Moved, NamedAlready, Overtaken, checked
from pipeline.naming import CHAMPION
from pipeline.settling import Settled, settled
from serving.signatures import FILES_TAG


def move(client: Any, name: str, move: Move) -> Moved:
    """Let an alias name a version. What an interrupted move left is finished first; where that was this very move,
    there is no more to do.

    Raises:
        BadRequest: there is no such model or version, the alias names it already, or alias or reason will not do.
        BadArtifact: Retort did not register the version, or its list of files is not the one registered.
        Transient: another author moved this alias first; then nothing was moved.
    """
    move = checked(move)
    return _moved_from(client, settled(client, name, alias=move.alias), move)


def rollback(client: Any, name: str, *, to: str | None, alias: str = CHAMPION, why: str, who: str) -> Moved:
    """Let an alias name again what it named before: `to`, or the version before the present one; where something moved
    it past the ledger, what the ledger says. An interrupted rollback is finished, and is not followed by another one.
    Raises as `move`, and BadRequest where the alias never named that version, or none before."""
    asked = checked(Move(alias, to or "", why, who, action="rollback"))
    before = settled(client, name, alias=alias)
    if to is None:
        asked = replace(asked, version=_finished_rollback(before, alias) or _way_back(before, alias))
    state, once = before.state, _named_once(before.state, alias)
    if asked.version in state.versions and asked.version not in once:
        raise BadRequest(
            f"@{alias} of {name} never named version {asked.version}, so there is no way back to it; it named: "
            f"{_listed(once)}; `retort promote` names one for the first time"
        )
    return _moved_from(client, before, asked)


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
            return _moved(settled(client, name, alias=move.alias, moved=True), counts, entry)
        _require_kept(kept, number, name=name)
        before = settled(client, name, alias=move.alias)
        _require_unmoved(before.state.chain, known, number, name=name, alias=move.alias)
    raise restless(name)


def _done_already(before: Settled, move: Move) -> Moved | None:
    """The move, where settling has just finished it; NamedAlready where it was made before."""
    state = before.state
    last = state.chain.last(move.alias)
    if last is None or not move.version == last[1].to == state.named.get(move.alias):
        return None
    number, entry = last
    if not state.is_known(move.version, by=entry):
        return None
    if move.alias in before.finished and entry.action == move.action:
        return _moved(before, number, entry)
    raise NamedAlready(
        f"version {move.version} of {state.name} is @{move.alias} already: entry {number}, {entry.at}, {entry.who}: "
        f"{entry.why}"
    )


def _finished_rollback(before: Settled, alias: str) -> str | None:
    """Where an interrupted rollback of the alias went, which settling has just finished."""
    last = before.state.chain.last(alias)
    finished = alias in before.finished and alias not in before.foreign and alias in before.state.promised
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
    version, entry = way[-1]
    if not state.is_known(version, by=entry):
        what = "is another one now" if version in state.versions else "was deleted from the registry"
        raise BadRequest(
            f"version {version}, which @{alias} of {state.name} named before, {what}; say with --to which of these it "
            f"is to be: {_listed(_named_once(state, alias))}"
        )
    return version


def _named_once(state: State, alias: str) -> set[str]:
    """The versions that an alias ever named and that are still there."""
    return {number for number, entry in named_once(state.chain, alias) if state.is_known(number, by=entry)}


def _listed(versions: Iterable[str]) -> str:
    return ", ".join(sorted(versions, key=int)) or "none"
