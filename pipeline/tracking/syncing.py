"""Sending all that waits in a workspace, whoever left it."""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from pipeline.errors import BadRequest, Failure, Transient
from pipeline.outbox import outboxes, read_target
from pipeline.tracking.sending import send
from pipeline.tracking.sent import REFUSED, read_state, settled, waiting


class Synced(msgspec.Struct, frozen=True):
    """What became of an outbox: events sent now, those that wait and why, and what was ever refused."""

    run: str
    sent: int
    waiting: int
    refused: int
    refusals: str
    why: str
    transient: bool


def sync_all(root: Path) -> list[Synced]:
    """Send every outbox that is not settled, the oldest first; one that cannot be sent keeps no other from it."""
    return [_sync(folder) for folder in outboxes(root) if not settled(folder)]


def _sync(folder: Path) -> Synced:
    sent, why, transient = 0, "", False
    before = waiting(folder)
    try:
        sent = send(folder).events
    except Failure as failure:
        sent, why, transient = before - waiting(folder), str(failure), isinstance(failure, Transient)
    state = read_state(folder)
    return Synced(
        run=read_target(folder).run,
        sent=max(sent, 0),
        waiting=waiting(folder),
        refused=state.refused,
        refusals=str(folder / REFUSED),
        why=why,
        transient=transient,
    )


def require_sent(synced: Iterable[Synced]) -> None:
    """Raise what prevented the rest: Transient where another try may help."""
    failed = [one for one in synced if one.why]
    if not failed:
        return
    kind = Transient if any(one.transient for one in failed) else BadRequest
    events, reasons = sum(one.waiting for one in failed), dict.fromkeys(one.why for one in failed)
    runs = "1 run" if len(failed) == 1 else f"{len(failed)} runs"
    raise kind(f"{events} events of {runs} wait: {'; '.join(reasons)}; `retort sync` sends them later")
