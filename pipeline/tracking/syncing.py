"""Sending all that waits in a workspace, whoever left it."""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from pipeline.errors import BadArtifact, BadRequest, Failure, Transient
from pipeline.outbox_reading import Target, targets, unreadable
from pipeline.tracking.sending import send, uri_of
from pipeline.tracking.sent import REFUSED, read_state, settled, waiting
from serving.registry_failures import failure_of


class Synced(msgspec.Struct, frozen=True):
    """What became of an outbox: events sent now, those that wait and why, and what was ever refused. Of one that cannot
    be read nobody knows what waits."""

    run: str
    sent: int
    waiting: int
    refused: int
    refusals: str
    why: str
    transient: bool
    unreadable: bool = False


def sync_all(root: Path) -> list[Synced]:
    """Send every outbox that is not settled, the oldest first; one that cannot be sent keeps no other from it, nor one
    that cannot be read, which is told of as well."""
    sent = [_sync(folder, target) for folder, target in targets(root).items() if not settled(folder)]
    return sent + [_unread(Path(folder).name, why) for folder, why in unreadable(root).items()]


def _unread(name: str, why: str) -> Synced:
    nothing = dict.fromkeys(("sent", "waiting", "refused"), 0)
    return Synced(run=name, **nothing, refusals="", why=why, transient=False, unreadable=True)


def _sync(folder: Path, target: Target) -> Synced:
    sent, why, transient = 0, "", False
    before = waiting(folder)
    try:
        sent = _sent(folder)
    except Failure as failure:
        sent, why, transient = before - waiting(folder), str(failure), isinstance(failure, Transient)
    state = read_state(folder)
    return Synced(
        run=target.run,
        sent=max(sent, 0),
        waiting=waiting(folder),
        refused=state.refused,
        refusals=str(folder / REFUSED),
        why=why,
        transient=transient,
    )


def _sent(folder: Path) -> int:
    """How many events; where it cannot be written who is at it, or how far that came, a failure that names the file."""
    try:
        return send(folder).events
    except OSError as error:
        named = OSError(error.errno, error.strerror or str(error), error.filename or str(folder))
        raise failure_of(named, uri=uri_of(folder)) from error


def require_sent(synced: Iterable[Synced]) -> None:
    """Raise what prevented the rest: Transient where another try may help, BadArtifact for what cannot be read."""
    synced = list(synced)
    failed = [one for one in synced if one.why and not one.unreadable]
    if not failed:
        _require_read(synced)
        return
    kind = Transient if any(one.transient for one in failed) else BadRequest
    events, reasons = sum(one.waiting for one in failed), dict.fromkeys(one.why for one in failed)
    runs = "1 run" if len(failed) == 1 else f"{len(failed)} runs"
    raise kind(f"{events} events of {runs} wait: {'; '.join(reasons)}; `retort sync` sends them later")


def _require_read(synced: Iterable[Synced]) -> None:
    reasons = [one.why for one in synced if one.unreadable]
    if reasons:
        raise BadArtifact("; ".join(reasons))
