"""`retort gc`: what of a workspace may go, why, and its removal.

What goes is renamed into `trash/` while its key's lock is held, and deleted there: a kill in between leaves nothing
that looks finished, and the next removal clears the trash.
"""

import errno
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from pipeline.artifact import Artifact, read_artifact
from pipeline.errors import BadArtifact, BadRequest, Failure, Transient
from pipeline.fates import AT_WORK, SOMEBODY, TRASH, Kind, Scene, Thing, files_in, things_in, untold
from pipeline.needs import Keep, needed, read_runs, recent, registered, registries
from pipeline.outbox import while_nobody_opens
from pipeline.store import key_lock, trouble_is_transient
from serving.registry_failures import shown

COARSE_S: Final = 1.0  # how far a file system's clock may lag behind ours
_LOCK: Final = "gc"


class Item(msgspec.Struct, frozen=True):
    """Something in the workspace: its path there, its size, and why it goes, is kept or was left."""

    path: str
    kind: Kind
    size_bytes: int
    why: str


class Found(msgspec.Struct, frozen=True):
    """What goes (or went), what is kept since somebody needs it, what was left alone, and the registries asked."""

    goes: tuple[Item, ...]
    kept: tuple[Item, ...]
    left: tuple[Item, ...]
    registries: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Of all that goes."""
        return sum(item.size_bytes for item in self.goes)


@dataclass(frozen=True)
class Plan:
    """What would be done, and how large each thing is."""

    scene: Scene
    things: tuple[Thing, ...]
    sizes: Mapping[Path, int]

    def told(self, left: Mapping[Path, str] = MappingProxyType({})) -> Found:
        """For people and machines; `left` is what was to go and could not, and why."""
        items: dict[str, list[Item]] = {"goes": [], "kept": [], "left": []}
        for thing in self.things:
            path, why = thing.path.relative_to(self.scene.root).as_posix(), left.get(thing.path, thing.why)
            fate = "left" if thing.path in left else thing.fate
            items[fate].append(Item(path, thing.kind, self.sizes[thing.path], why))
        asked = tuple(map(shown, self.scene.known.asked))
        return Found(**{fate: tuple(each) for fate, each in items.items()}, registries=asked)


class _Busy(Failure):
    """Somebody holds the lock."""


def plan(
    root: Path,
    *,
    keep: Keep,
    registry: str | None = None,
    forget: Collection[str] = (),
    clock: Callable[[], float] = time.time,
) -> Plan:
    """Judge everything in the workspace at `root`; nothing is changed.

    What was made is read before what may need it, so that what a run makes meanwhile is not in sight.

    Raises:
        BadRequest: that is no workspace, or a registry refuses.
        BadArtifact: a run's record cannot be read.
        Transient: a registry cannot be reached, so what it needs is unknown.
    """
    root, now = _checked(root), clock()
    with trouble_is_transient(root):
        artifacts, at_work, runs = _artifacts(root), _at_work(root), read_runs(root)
        asked = registries(root, runs, artifacts.values(), registry)
        known = registered({uri: must for uri, must in asked.items() if shown(uri) not in forget})
        wanted = recent(runs, keep=keep, now=now, at_work=at_work)
        scene = Scene(
            root,
            now,
            keep,
            artifacts=artifacts,
            needed=needed(artifacts, known, wanted),
            wanted=wanted,
            at_work=at_work,
            known=known,
        )
        things = {thing.path: thing for thing in things_in(scene)}  # a cache that is a link is met twice
        return Plan(scene, tuple(things.values()), {path: _size(path) for path in things})


def remove(planned: Plan) -> Found:
    """Do what the plan says; what somebody works on by now, or took meanwhile, is left.

    Raises:
        BadRequest: the trash is a link.
        Transient: another removal is at work, or the file system fails.
    """
    scene = planned.scene
    with trouble_is_transient(scene.root), key_lock(scene.root, _LOCK, waiting=partial(_another, scene.root)):
        trash = scene.root / TRASH
        if trash.is_symlink():
            raise BadRequest(
                f"{trash} is a link, and what is removed must stay in the workspace: remove the link first"
            )
        trash.mkdir(exist_ok=True)
        going = [thing for thing in planned.things if thing.fate == "goes"]
        left = {thing.path: why for thing in going if (why := _remove(thing, scene))}
        return planned.told(left)


def _checked(root: Path) -> Path:
    root = root.resolve()
    if not any((root / name).is_dir() for name in ("artifacts", "runs")):
        raise BadRequest(
            f"{root} is no workspace: it has neither artifacts nor runs; name the one to be cleared with --workspace"
        )
    return root


def _artifacts(root: Path) -> dict[str, Artifact]:
    """The finished ones by key."""
    found: dict[str, Artifact] = {}
    area = root / "artifacts"
    for path in sorted(area.iterdir()) if area.is_dir() and not area.is_symlink() else ():
        if not path.name.startswith(".") and path.is_dir() and not path.is_symlink():
            with suppress(BadArtifact):  # told where its fate is
                artifact = read_artifact(path)
                found |= {path.name: artifact} if artifact.manifest.key == path.name else {}
    return found


def _at_work(root: Path) -> frozenset[str]:
    """The keys that somebody holds."""
    held = set[str]()
    for path in (root / "locks").glob("*.lock"):
        key = path.name.removesuffix(".lock")
        try:
            with key_lock(root, key, waiting=_busy):
                pass
        except _Busy:
            held.add(key)
    return frozenset(held - {_LOCK})


def _busy() -> None:
    raise _Busy


def _another(root: Path) -> None:
    raise Transient(f"another `retort gc` is at work in {root}; run again when it has ended")


def _size(path: Path) -> int:
    return sum(each.st_size for each in files_in(path) if stat.S_ISREG(each.st_mode))


def _remove(thing: Thing, scene: Scene) -> str:
    """Why it was left; "" where it is gone."""
    path = thing.path
    if thing.kind != "trash":
        path = scene.root / TRASH / f"{thing.path.name.lstrip('.')}.{uuid.uuid4().hex}"
        try:
            with _held(thing, scene.root):
                if why := _in_use(thing, scene):
                    return why
                thing.path.rename(path)
        except _Busy:
            return AT_WORK
        except FileNotFoundError:
            return "it went meanwhile"
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return "it lies on another file system than the workspace: remove it by hand"
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)
    return ""


def _held(thing: Thing, root: Path) -> AbstractContextManager[object]:
    """Nobody begins to use it meanwhile."""
    if thing.kind == "outbox":
        return while_nobody_opens(thing.path.parent)
    return key_lock(root, thing.held_by, waiting=_busy) if thing.held_by else nullcontext()


def _in_use(thing: Thing, scene: Scene) -> str:
    """What speaks against the removal by now; "" where nothing does."""
    if thing.kind == "outbox":
        return untold(thing.path)
    if not thing.held_by:
        return SOMEBODY if _at_work(scene.root) else ""
    if thing.kind == "artifact" and not _unchanged(thing, scene):
        return "it was made again meanwhile"
    since = scene.now - COARSE_S
    runs = read_runs(scene.root, since=since)
    return next((f"run {run.name} took it meanwhile" for run in runs if run.taken.get(thing.key, 0.0) >= since), "")


def _unchanged(thing: Thing, scene: Scene) -> bool:
    with suppress(BadArtifact):
        return read_artifact(thing.path).manifest == scene.artifacts[thing.key].manifest
    return False
