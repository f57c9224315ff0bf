"""What of a workspace is needed, and by whom: registered versions, recent runs, and what each of these was made from.

A run tells twice what it uses: run.json names the steps of the last settings, and events.jsonl every step that it took
or began, of whatever settings, with the time. What runs at work read is needed too, however few runs are to be kept.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from pipeline.artifact import Artifact
from pipeline.errors import BadArtifact, Failure, Transient
from pipeline.recorded import LINEAGE
from pipeline.resuming import EVENTS
from pipeline.tracking.client import default_uri, talking_to
from pipeline.tracking.registering import KEY_TAG
from pipeline.workspace import RECORD
from serving.reaching import is_made
from serving.registry_failures import shown

DAY_S: Final = 86_400.0
INPUT_OF: Final = "an input for "


@dataclass(frozen=True)
class Keep:
    """How much is recent: runs younger than `days`, and the newest `runs` whatever their age."""

    days: float = 14.0
    runs: int = 3


class _Step(msgspec.Struct):
    key: str


class _Record(msgspec.Struct):
    steps: dict[str, _Step]
    config: dict[str, Any]


class _Event(msgspec.Struct):
    at: float
    event: str
    key: str


@dataclass(frozen=True)
class Run:
    """What runs of one name used: `record` is of the last settings, `begun` the step they began last, `taken` when each
    key was taken or begun last, `last` the time of the newest of all; where they register, None is the workspace's
    own."""

    name: str
    last: float
    record: frozenset[str]
    begun: str | None
    taken: Mapping[str, float]
    tracking_uri: str | None = None


@dataclass
class Known:
    """What the registries that were asked say: why a key or a digest is needed, and by model the versions that aliases
    name."""

    asked: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    named: dict[str, set[str]] = field(default_factory=dict)


def read_runs(root: Path, *, since: float = 0.0) -> list[Run]:
    """The runs of a workspace that left something at or after `since`, the newest first.

    Raises BadArtifact where a record cannot be read: what that run needs is unknown.
    """
    folders = sorted((root / "runs").iterdir()) if (root / "runs").is_dir() else []
    runs = [_read_run(folder) for folder in folders if _written(folder) >= since and _written(folder) > 0]
    return sorted(runs, key=lambda run: run.last, reverse=True)


def recent(runs: Sequence[Run], *, keep: Keep, now: float, at_work: Set[str]) -> dict[str, str]:
    """Why a key is needed, by key: of runs at work, of the newest, and all that was used lately. `runs` come the newest
    first; `at_work` are the keys that somebody holds."""
    found: dict[str, str] = {}
    for place, run in enumerate(runs):
        busy = run.begun in at_work
        why = f"run {run.name}, " + ("at work" if busy else f"{ago(now - run.last)} ago")
        last = run.record | {run.begun} if busy or place < keep.runs else frozenset[str]()
        late = {key for key, at in run.taken.items() if at >= now - keep.days * DAY_S}
        for key in sorted({key for key in last if key is not None} | late):
            found.setdefault(key, why)
    return found


def registries(root: Path, runs: Iterable[Run], artifacts: Iterable[Artifact], named: str | None) -> dict[str, bool]:
    """The registries that may need something, and whether each must be there, because `named` on the command line or
    because something was registered in it; one that runs only mean to use may not be made yet."""
    own = default_uri(root)
    asked = {own: False} | {run.tracking_uri or own: False for run in runs}
    for artifact in artifacts:
        if artifact.manifest.facts.get("registered"):
            asked[artifact.manifest.config.get("tracking_uri") or own] = True
    return asked | ({named: True} if named else {})


def registered(uris: Mapping[str, bool]) -> Known:
    """What the versions of all models of these registries need.

    Raises Transient (or BadRequest, as they answer) where one cannot be read: what it needs is then unknown.
    """
    known = Known()
    for uri, must in uris.items():
        if not must and not is_made(uri):
            continue
        try:
            _require_made(uri)
            _ask(uri, known)
        except Failure as failure:
            raise type(failure)(
                f"nothing is removed, since what a registry needs is unknown: {failure}; if it is gone for good, add "
                f"--forget {shown(uri)}"
            ) from failure
    return known


def needed(artifacts: Mapping[str, Artifact], known: Known, wanted: Mapping[str, str]) -> dict[str, str]:
    """Why each artifact is needed, by key: a registry knows it by its key or digest, a run wants it, or one that is
    needed was made from it."""
    by_digest: dict[str, list[str]] = {}
    for key, artifact in artifacts.items():
        by_digest.setdefault(artifact.digest, []).append(key)
    waiting = deque(known.keys.items())
    waiting.extend((key, why) for digest, why in known.digests.items() for key in by_digest.get(digest, ()))
    waiting.extend(wanted.items())
    found: dict[str, str] = {}
    while waiting:
        key, why = waiting.popleft()
        if key in artifacts and key not in found:
            found[key] = why
            for digest in artifacts[key].manifest.inputs.values():
                waiting.extend((made, INPUT_OF + why.removeprefix(INPUT_OF)) for made in by_digest.get(digest, ()))
    return found


def ago(seconds: float) -> str:
    """A time span in the unit that suits it."""
    for unit, size in (("day", DAY_S), ("hour", 3600.0), ("minute", 60.0)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}{'s' if seconds >= 2 * size else ''}"
    return "less than a minute"


def _ask(uri: str, known: Known) -> None:
    from pipeline.tracking.versions import model_names, versions_of

    known.asked.append(uri)
    with talking_to(uri) as client:
        for name in model_names(client):
            named = known.named.setdefault(name, set())
            for version in versions_of(client, name):
                why = f"version {version.number} of {name}"
                named.update({str(version.number)} if version.aliases else ())
                for tag, value in version.tags.items():
                    if tag == KEY_TAG:
                        known.keys.setdefault(value, why)
                    elif tag.startswith(LINEAGE):
                        known.digests.setdefault(value, why)


def _require_made(uri: str) -> None:
    if not is_made(uri):  # MLflow would make it
        raise Transient(f"there is no registry at {uri}")


def _written(folder: Path) -> float:
    """When a run last left something in its folder; 0 where it never did."""
    paths = [folder / name for name in (RECORD, EVENTS)]
    return max((path.stat().st_mtime for path in paths if path.is_file()), default=0.0)


def _read_run(folder: Path) -> Run:
    record, at = _record(folder / RECORD), _written(folder)
    events = list(_events(folder / EVENTS))
    begun = [event.key for event in events if event.event == "started"]
    used = frozenset(step.key for step in record.steps.values())
    written = (folder / RECORD).stat().st_mtime if used else 0.0
    return Run(
        name=folder.name,
        last=at,
        record=used,
        begun=begun[-1] if begun else None,
        taken=dict.fromkeys(used, written) | {event.key: event.at for event in events},
        tracking_uri=(record.config.get("register") or {}).get("tracking_uri"),
    )


def _record(path: Path) -> _Record:
    if not path.is_file():
        return _Record({}, {})
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Record)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadArtifact(f"{path} cannot be read ({error}); remove it and run again") from error


def _events(path: Path) -> Iterator[_Event]:
    """Those that name a key; a line that a power cut tore in two is passed over."""
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            yield msgspec.json.decode(line, type=_Event)
