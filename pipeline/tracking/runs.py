"""The runs that a workspace and its tracking servers know, and the MLflow run that a version belongs to."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from pipeline.errors import BadArtifact, Failure
from pipeline.events import PARENT, Closed, Event, Opened, Tags, event_of
from pipeline.outbox_reading import Target, lines_after, targets, unreadable, writer_is_alive
from pipeline.tracking.client import default_uri, talking_to
from pipeline.tracking.sending import send
from pipeline.tracking.sent import Busy, read_state, waiting
from pipeline.workspace import RECORD
from serving.reaching import is_made
from serving.registry_failures import shown

RUNS_A_PAGE: Final = 1000
SENDER_WAIT_S: Final = 5.0
_METRICS: Final = b'{"event":"metrics"'


class Seen(msgspec.Struct, frozen=True):
    """A run: when it began (milliseconds since 1970), how it ended, what came of it, where it is told (`uri`, and
    MLflow's `run_id` where it is known), and how many of its events wait here."""

    run: str
    name: str
    at: int
    status: str
    seconds: float | None
    verdict: str | None
    model: str | None
    version: str | None
    uri: str
    run_id: str | None
    waiting: int


class Runs(msgspec.Struct, frozen=True):
    """Those that were found, why a server could not be asked, by its address, and why an outbox could not be read, by
    its folder."""

    found: tuple[Seen, ...]
    away: dict[str, str]
    unreadable: dict[str, str] = {}


def parent_run_id(outbox: Path) -> str:
    """MLflow's run of an outbox, which is sent first what waits; what its own sender is at is left to that.

    Raises:
        Transient: the server is away.
        BadRequest: it refuses.
        BadArtifact: no event of the outbox opens a run.
    """
    try:
        run_id = send(outbox, wait_s=SENDER_WAIT_S).run_id
    except Busy:
        run_id = read_state(outbox).runs.get(PARENT)
        if run_id is None:
            raise
    if run_id is None:
        raise BadArtifact(f"the outbox {outbox} opens no run; remove it and run again")
    return run_id


def runs_of(root: Path, *, name: str | None = None, uris: Collection[str] = ()) -> Runs:
    """The runs of a workspace: those whose outbox is here, and those that its servers, and those at `uris`, know.

    Addresses are as they may be shown to anybody: without a password.
    """
    here = {seen.run: seen for seen in _here(root)}
    there: dict[str, Seen] = {}
    away: dict[str, str] = {}
    for uri in dict.fromkeys((default_uri(root), *(seen.uri for seen in here.values()), *uris)):
        if not is_made(uri):  # asked, it would be made
            away |= {shown(uri): f"there is no registry at {shown(uri)} yet"} if uri in uris else {}
            continue
        try:
            there |= {seen.run: seen for seen in _seen_there(uri)}
        except Failure as failure:
            away[shown(uri)] = str(failure)
    joined = [_joined(here.get(run), there.get(run)) for run in here.keys() | there.keys()]
    found = [msgspec.structs.replace(seen, uri=shown(seen.uri)) for seen in joined]
    found += _untold(root, {seen.name for seen in found})
    wanted = [seen for seen in found if name in (None, seen.name)]
    return Runs(tuple(sorted(wanted, key=lambda seen: (-seen.at, seen.run))), away, unreadable(root))


def _joined(here: Seen | None, there: Seen | None) -> Seen:
    """What waits here is newer than what the server knows, and so is that somebody works on it here."""
    if here is None or there is None:
        return here or there  # type: ignore[return-value]  # one of them is there
    newer = here if here.waiting or here.status == "RUNNING" else there
    return msgspec.structs.replace(newer, run_id=there.run_id, waiting=here.waiting)


def _here(root: Path) -> Iterator[Seen]:
    """What is in outboxes that joined a run is the run's."""
    by_run: dict[str, dict[Path, Target]] = {}
    for folder, target in targets(root).items():
        by_run.setdefault(target.run, {})[folder] = target
    for run, told in by_run.items():
        yield _seen_here(run, told, root=root)


def _untold(root: Path, known: Iterable[str]) -> list[Seen]:
    """Runs that left a record here, and that nobody was told of."""
    records = [path for path in (root / "runs").glob(f"*/{RECORD}") if path.parent.name not in known]
    nothing = dict.fromkeys(("seconds", "verdict", "model", "version", "run_id"))
    return [
        Seen(
            run="",
            name=path.parent.name,
            at=int(path.stat().st_mtime * 1000),
            status="UNTOLD",
            uri=str(path.parent),
            waiting=0,
            **nothing,
        )
        for path in records
    ]


def _seen_here(run: str, told: Mapping[Path, Target], *, root: Path) -> Seen:
    """A run, as far as the events of its outboxes tell."""
    own = min(told.values(), key=lambda target: target.joins)
    alive = [target for folder, target in told.items() if writer_is_alive(folder)]
    status, last, tags = "RUNNING", own.made_at, dict[str, str]()
    for event, target in _events(told):
        last = max(last, event.at)
        if event.of == PARENT and isinstance(event, Tags):
            tags |= event.values
        elif event.of == PARENT and isinstance(event, Closed):
            status = event.status
        elif event.of == PARENT and isinstance(event, Opened) and not target.joins:
            status = "RUNNING"
    if any(target.joins for target in alive):
        status = "RUNNING"
    elif status == "RUNNING" and not alive:
        status = "KILLED"
    return Seen(
        run=run,
        name=own.name,
        at=own.made_at,
        status=status,
        seconds=None if status == "RUNNING" else round((last - own.made_at) / 1000, 1),
        **_outcome(tags),
        uri=own.uri or default_uri(root),
        run_id=next((known for folder in told if (known := read_state(folder).runs.get(PARENT))), None),
        waiting=sum(map(waiting, told)),
    )


def _events(told: Mapping[Path, Target]) -> list[tuple[Event, Target]]:
    """All but metrics, in order; what several outboxes say has none but the clock's."""
    found = [
        (event, target)
        for folder, target in told.items()
        for line, _ in lines_after(folder)
        if not line.startswith(_METRICS) and (event := event_of(line)) is not None
    ]
    return found if len(told) == 1 else sorted(found, key=lambda each: each[0].at)


def _outcome(tags: Mapping[str, str]) -> dict[str, str | None]:
    names = {"verdict": "retort.verdict", "model": "retort.model", "version": "retort.version"}
    return {name: tags.get(tag) for name, tag in names.items()}


def _seen_there(uri: str) -> Iterator[Seen]:
    """The runs that a server knows and that Retort told it of."""
    from pipeline.tracking.run_requests import RUN_TAG

    with talking_to(uri) as client:
        experiments = [each.experiment_id for each in _all(client.search_experiments, max_results=RUNS_A_PAGE)]
        asked = {"filter_string": f"tags.`{RUN_TAG}` LIKE '%'", "max_results": RUNS_A_PAGE}
        for found in _all(client.search_runs, experiment_ids=experiments, **asked) if experiments else ():
            info, tags = found.info, found.data.tags
            ended = info.status != "RUNNING" and info.end_time
            yield Seen(
                run=str(tags[RUN_TAG]),
                name=str(tags.get("retort.name", info.run_name)),
                at=int(info.start_time),
                status=str(info.status),
                seconds=round((info.end_time - info.start_time) / 1000, 1) if ended else None,
                **_outcome(tags),
                uri=uri,
                run_id=str(info.run_id),
                waiting=0,
            )


def _all(search: Any, **asked: Any) -> Iterator[Any]:
    token: str | None = None
    while True:
        page = search(page_token=token, **asked)
        yield from page
        token = page.token
        if not token:
            return
