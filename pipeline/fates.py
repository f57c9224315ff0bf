"""What lies in a workspace, and the fate of each: it goes, it is kept since somebody needs it, or it is left alone.

Links are never followed. What may be in use at this moment is left: a key's lock tells who works on it.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote

from pipeline.artifact import Artifact
from pipeline.needs import DAY_S, Keep, Known, ago
from pipeline.outbox_reading import AREA, TARGET
from pipeline.tracking.sent import REFUSED, read_state, settled

TRASH: Final = "trash"
Kind = Literal["artifact", "unfinished", "checkpoints", "outbox", "served", "scratch", "trash"]
Fate = Literal["goes", "kept", "left"]
_UNFINISHED = re.compile(r"\.(?P<key>[^.].*)\.(?P<how>partial|old|fetched)")
_SCRATCH = re.compile(r"tmp[a-z0-9_]{8}")  # as tempfile calls what a killed quantize or search leaves in the cache
_VISIBLE = re.compile(r"[^.].*")
_NO_NOTE = re.compile(r".*(?<!\.alias)")
_ALL = re.compile(r".*")
_UNFINISHED_WHY: Final = {
    "partial": "what a killed run left of a step",
    "old": "figures that gave way to newer ones",
    "fetched": "what a killed fetch from the shared store left",
}
_LINK: Final = "it is a link, and none is followed"
AT_WORK: Final = "a run is at work on it"
SOMEBODY: Final = "a run is at work, and may use it"


@dataclass(frozen=True)
class Scene:
    """All that decides: the finished artifacts by key, why a key is needed and why a run wants it, the keys that
    somebody holds, and what the registries say."""

    root: Path
    now: float
    keep: Keep
    artifacts: Mapping[str, Artifact]
    needed: Mapping[str, str]
    wanted: Mapping[str, str]
    at_work: Set[str]
    known: Known


@dataclass(frozen=True)
class Thing:
    """One of them. Who removes it holds the lock of `held_by`; nobody may be at work where that is empty."""

    path: Path
    kind: Kind
    fate: Fate
    why: str
    key: str = ""
    held_by: str = ""


def things_in(scene: Scene) -> Iterator[Thing]:
    """Everything that is of a kind that can go."""
    yield from _within(scene, TRASH, "trash", _trash)
    yield from _within(scene, "artifacts", "artifact", _artifact)
    yield from _within(scene, "checkpoints", "checkpoints", _checkpoints)
    yield from _within(scene, AREA, "outbox", _outbox, only=_VISIBLE)
    yield from _within(scene, "cache", "scratch", _scratch, only=_SCRATCH)
    yield from _within(scene, "cache/served", "served", _model, only=_VISIBLE)


def _within(
    scene: Scene,
    area: str,
    kind: Kind,
    judged: Callable[[Scene, Path], Iterator[Thing]],
    *,
    only: re.Pattern[str] = _ALL,
) -> Iterator[Thing]:
    """What lies in a folder of the workspace, links left where they are."""
    folder = scene.root
    for part in Path(area).parts:
        folder /= part
        if folder.is_symlink():
            yield Thing(folder, kind, "left", _LINK)
            return
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_symlink() and only.fullmatch(path.name):
            yield Thing(path, kind, "left", _LINK)
        elif only.fullmatch(path.name):
            yield from judged(scene, path)


def _artifact(scene: Scene, path: Path) -> Iterator[Thing]:
    key = path.name
    if match := _UNFINISHED.fullmatch(key):
        yield _unfinished(scene, path, match["key"], match["how"])
    elif key not in scene.artifacts:
        why = "it is no finished artifact of this name, so what it is worth is unknown: look at it, remove it by hand"
        yield Thing(path, "artifact", "left", why)
    elif key in scene.needed:
        yield Thing(path, "artifact", "kept", scene.needed[key])
    elif key in scene.at_work:
        yield Thing(path, "artifact", "left", AT_WORK)
    else:
        sealed = datetime.fromisoformat(scene.artifacts[key].manifest.finished_at).timestamp()
        why = f"no registered version and no recent run needs it; sealed {ago(scene.now - sealed)} ago"
        yield Thing(path, "artifact", "goes", why, key=key, held_by=key)


def _unfinished(scene: Scene, path: Path, key: str, how: str) -> Thing:
    """Who works in such a folder holds its lock, and who begins there again empties it first."""
    held_by = f"{key}.fetch" if how == "fetched" else key
    if held_by in scene.at_work:
        return Thing(path, "unfinished", "left", AT_WORK)
    return Thing(path, "unfinished", "goes", _UNFINISHED_WHY[how], held_by=held_by)


def _checkpoints(scene: Scene, path: Path) -> Iterator[Thing]:
    key, age = path.name, scene.now - _newest(path)
    if key in scene.at_work:
        yield Thing(path, "checkpoints", "left", AT_WORK)
    elif key in scene.artifacts:
        yield Thing(path, "checkpoints", "goes", "its step is finished", held_by=key)
    elif key in scene.wanted:
        yield Thing(path, "checkpoints", "kept", f"its step can go on from there: {scene.wanted[key]}")
    elif age < scene.keep.days * DAY_S:
        yield Thing(path, "checkpoints", "kept", f"its step can go on from there: written {ago(age)} ago")
    else:
        why = f"its step was never finished, and no recent run is at it; written {ago(age)} ago"
        yield Thing(path, "checkpoints", "goes", why, key=key, held_by=key)


def _outbox(scene: Scene, path: Path) -> Iterator[Thing]:
    """That of a recent run tells `retort runs` where it was told, and an interrupted run goes on in it. Files beside
    the outboxes are passed over."""
    age = scene.now - _newest(path)
    if not (path / TARGET).is_file():
        if path.is_dir():
            yield Thing(path, "outbox", "left", "it is no outbox that can be read: look at it, remove it by hand")
    elif why := untold(path):
        yield Thing(path, "outbox", "kept", why)
    elif age < scene.keep.days * DAY_S:
        yield Thing(path, "outbox", "kept", f"its run is recent: written {ago(age)} ago")
    else:
        yield Thing(path, "outbox", "goes", "all of it was sent")


def untold(outbox: Path) -> str:
    """What an outbox has that its server does not; "" where it has all."""
    if not settled(outbox):
        return "its run is not told whole yet: `retort sync` sends the rest"
    refused = read_state(outbox).refused
    return f"the server refused {refused} of its events, which are kept in {outbox.name}/{REFUSED}" if refused else ""


def _scratch(scene: Scene, path: Path) -> Iterator[Thing]:
    if scene.at_work:
        yield Thing(path, "scratch", "left", SOMEBODY)
    else:
        yield Thing(path, "scratch", "goes", "what a killed quantize or search left")


def _model(scene: Scene, folder: Path) -> Iterator[Thing]:
    """Served versions of one model. What no registry that was asked knows is kept: its own may be elsewhere. So are the
    notes of which version an alias named last, a few bytes each: a server starts by them while the registry is away."""
    area = folder.relative_to(scene.root).as_posix()
    yield from _within(scene, area, "served", partial(_served, name=unquote(folder.name)), only=_NO_NOTE)


def _served(scene: Scene, path: Path, *, name: str) -> Iterator[Thing]:
    version, named = path.name.partition("-")[0], scene.known.named.get(name)
    fate: Fate = "left" if scene.at_work else "goes"
    if path.name.startswith(".download-"):
        why = (
            f"a download that was killed; written {ago(age)} ago" if (age := scene.now - _newest(path)) >= DAY_S else ""
        )
    elif named is None or version in named:
        fate = "kept"
        why = (
            f"no registry that was asked knows {name}"
            if named is None
            else f"an alias names version {version} of {name}"
        )
    else:
        why = f"no alias names version {version} of {name}; it is fetched when it is served again"
    if why:
        yield Thing(path, "served", fate, SOMEBODY if fate == "left" else why)


def _trash(_: Scene, path: Path) -> Iterator[Thing]:
    yield Thing(path, "trash", "goes", "a removal that was interrupted")


def files_in(path: Path) -> Iterator[os.stat_result]:
    """Of everything at and below `path`; links are not followed, and what goes away meanwhile is passed over."""
    below = () if path.is_symlink() else os.walk(path)
    for each in (path, *(Path(folder, name) for folder, *names in below for name in (*names[0], *names[1]))):
        with suppress(FileNotFoundError):
            yield each.lstat()


def _newest(path: Path) -> float:
    """When something in it was written last."""
    return max((each.st_mtime for each in files_in(path)), default=0.0)
