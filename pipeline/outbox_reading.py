"""Outboxes as others find them: whose they are, what was put into them, and whether somebody still writes."""

import fcntl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from pipeline.errors import BadArtifact

AREA: Final = "outbox"
EVENTS, TARGET = "events.jsonl", "target.json"
SCHEMA: Final = 1


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The run's uid and name, the experiment, and the server (None: the workspace's own registry; never a secret, those
    are in the environment). `joins`: another process began the run, and is at work on it."""

    run: str
    name: str
    experiment: str
    uri: str | None
    asked: str
    host: str
    made_at: int
    joins: bool = False
    schema: int = SCHEMA


class _Written(msgspec.Struct, frozen=True):
    """As much of a target as tells which Retort can read it."""

    schema: int


def outboxes(root: Path) -> list[Path]:
    """Every outbox of a workspace that can be read, the oldest first."""
    return list(targets(root))


def targets(root: Path) -> dict[Path, Target]:
    """Whose they are, by outbox, the oldest first."""
    found = {folder: told for folder, told in _each(root) if isinstance(told, Target)}
    return dict(sorted(found.items(), key=lambda each: (each[1].made_at, each[0].name)))


def unreadable(root: Path) -> dict[str, str]:
    """The other outboxes of a workspace, and why they cannot be read."""
    return {str(folder): str(told) for folder, told in sorted(_each(root)) if isinstance(told, BadArtifact)}


def _each(root: Path) -> Iterator[tuple[Path, Target | BadArtifact]]:
    for path in (root / AREA).glob(f"*/{TARGET}"):
        try:
            yield path.parent, read_target(path.parent)
        except BadArtifact as error:
            if not isinstance(error.__cause__, FileNotFoundError):  # or `retort gc` has removed it by now
                yield path.parent, error


def outboxes_of(area: Path, run: str) -> list[Path]:
    """Where a run is told: its own outbox, and those that joined it."""
    return [path for path in area.iterdir() if path.name == run or path.name.startswith(f"{run}.")]


def read_target(folder: Path) -> Target:
    """Whose outbox it is; BadArtifact where that cannot be read."""
    try:
        written = (folder / TARGET).read_bytes()
        schema = msgspec.json.decode(written, type=_Written).schema
        if schema <= SCHEMA:
            return msgspec.json.decode(written, type=Target)
    except (OSError, msgspec.MsgspecError) as error:
        raise BadArtifact(f"the outbox {folder} cannot be read ({error}); remove it: its run is not told") from error
    raise BadArtifact(f"the outbox {folder} was written by a newer Retort (schema {schema}); send it with that one")


def unfinished(area: Path, asked: str) -> Path | None:
    """The outbox that a run of this config would go on in, where it can be read."""
    left = _named_by(pointer_of(area, asked))
    with suppress(BadArtifact):
        if left and read_target(area / left):
            return area / left
    return None


def pointer_of(area: Path, asked: str) -> Path:
    """Where it is written which run of a config is unfinished."""
    return area / f"{asked[:32]}.open"


def _named_by(pointer: Path) -> str:
    return pointer.read_text(encoding="utf-8", errors="replace").strip() if pointer.is_file() else ""


def goes_on(folder: Path, asked: str) -> bool:
    """Whether the next run of this config would go on in this outbox: one that has not come to its end."""
    return _named_by(pointer_of(folder.parent, asked)) == folder.name


def lines_after(folder: Path, offset: int = 0) -> Iterator[tuple[bytes, int]]:
    """Every whole line after `offset` bytes, and where it ends; what is being written, or was torn, is left out, and so
    is an empty one: who mends what another is just writing leaves that."""
    with suppress(FileNotFoundError), (folder / EVENTS).open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            if line != b"\n":
                yield line, offset


def writer_is_alive(folder: Path) -> bool:
    """Whether a process may still add events."""
    with suppress(FileNotFoundError), (folder / "writer.lock").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
