"""What a run has to tell its tracking server, on disk before anything else: an outbox whose one file of events only
grows. Nothing here talks to anyone, and handing over an event is one write.

    WORKSPACE/outbox/UID/
        target.json                whose run this is, and where it is told
        events.jsonl               one JSON line an event
        files/                     what events of kind `files` name, linked rather than copied where that can be
        writer.lock                held while somebody may add events; the kernel frees it at a kill -9
        sent.json, refused.jsonl, sender.log      the sender's (tracking/sending.py)
    WORKSPACE/outbox/ASKED.open    under which UID an unfinished run of this very config goes on
"""

import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from platform import node
from typing import Any, Final

import msgspec

from pipeline.artifact import write_json
from pipeline.data.digests import write_atomically
from pipeline.errors import BadArtifact
from pipeline.events import Event, line_of

AREA: Final = "outbox"
EVENTS, TARGET, FILES = "events.jsonl", "target.json", "files"
LOCK_WAIT_S: Final = 1.0  # who only asks whether somebody writes holds the lock for microseconds


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The run's uid and name, the experiment, and the server (None: the workspace's own registry; never a secret, those
    are in the environment). `joins`: another process has the run, and ends it."""

    run: str
    name: str
    experiment: str
    uri: str | None
    asked: str
    host: str
    made_at: int
    joins: bool = False
    schema: int = 1


class Outbox:
    """An outbox to write to, by one process at a time."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder, self._lock = folder, lock
        self.target = read_target(folder)
        self._events = os.open(folder / EVENTS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        size = os.fstat(self._events).st_size
        self._torn = size > 0 and os.pread(self._events, 1, size - 1) != b"\n"

    def put(self, event: Event) -> None:
        """Hand over an event.

        Raises:
            OSError: the disk is full.
        """
        line = line_of(event)
        if self._torn:  # what a kill left of a line becomes a line of its own, which nobody can read
            line = b"\n" + line
        written = os.write(self._events, line)
        self._torn = written < len(line)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder / EVENTS))

    def sync(self) -> None:
        """Have what was put survive a power cut as well."""
        os.fsync(self._events)

    def keep(self, files: Mapping[str, Path]) -> str:
        """Take files in, by the names they will have; the folder to name in an event. They are links: an artifact that
        is measured again gives way to another, and what is told of it must not."""
        folder = Path(FILES, uuid.uuid4().hex[:12])
        for name, source in files.items():
            place = self.folder / folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                place.hardlink_to(source)
            except OSError:  # another file system, or one without links
                shutil.copyfile(source, place)
        return folder.as_posix()

    def close(self, *, whole: bool) -> None:
        """Let go; `whole`: all that was asked for is done, so that the same config begins another run next time."""
        if whole:
            _pointer(self.folder.parent, self.target.asked).unlink(missing_ok=True)
        os.close(self._events)
        os.close(self._lock)


def open_outbox(root: Path, *, name: str, experiment: str, uri: str | None, asked: str) -> Outbox:
    """The outbox that an unfinished run of the same config left in the workspace, or another one. Where a process is at
    work on that run now, one that joins it."""
    area = root / AREA
    area.mkdir(parents=True, exist_ok=True)
    told = {"name": name, "experiment": experiment, "uri": uri, "asked": asked}
    with while_nobody_opens(area):
        pointer = _pointer(area, asked)
        left = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else ""
        if left and (area / left / TARGET).is_file():
            lock = _try_lock(area / left)
            if lock is not None:
                return Outbox(area / left, lock)
            return _made(area / f"{left}.{uuid.uuid4().hex[:4]}", run=left, joins=True, **told)
        run = f"{name}-{uuid.uuid4().hex[:12]}"
        made = _made(area / run, run=run, **told)
        write_atomically(pointer, run)
        return made


@contextmanager
def while_nobody_opens(area: Path) -> Iterator[None]:
    """For a `with`: who would open an outbox in this area meanwhile waits, so that none is made or gone on in."""
    with (area / ".lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _made(folder: Path, **told: Any) -> Outbox:
    folder.mkdir()
    write_json(folder / TARGET, Target(host=node(), made_at=time.time_ns() // 1_000_000, **told))
    lock = _try_lock(folder)
    assert lock is not None, "nobody knows of it yet"
    return Outbox(folder, lock)


def _pointer(area: Path, asked: str) -> Path:
    return area / f"{asked[:32]}.open"


def outboxes(root: Path) -> list[Path]:
    """Every outbox of a workspace, the oldest first."""
    found = [path.parent for path in (root / AREA).glob(f"*/{TARGET}")]
    return sorted(found, key=lambda folder: (read_target(folder).made_at, folder.name))


def goes_on(folder: Path) -> bool:
    """Whether the next run of the same config would go on in this outbox: one that has not come to its end."""
    pointer = _pointer(folder.parent, read_target(folder).asked)
    return pointer.is_file() and pointer.read_text(encoding="utf-8").strip() == folder.name


def read_target(folder: Path) -> Target:
    """Whose outbox it is; BadArtifact where that cannot be read."""
    path = folder / TARGET
    try:
        return msgspec.json.decode(path.read_bytes(), type=Target)
    except (OSError, msgspec.MsgspecError) as error:
        raise BadArtifact(f"the outbox {folder} cannot be read ({error}); remove it: its run is not told") from error


def lines_after(folder: Path, offset: int = 0) -> Iterator[tuple[bytes, int]]:
    """Every whole line after `offset` bytes, and where it ends; what is being written, or was torn, is left out."""
    with suppress(FileNotFoundError), (folder / EVENTS).open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield line, offset


def writer_is_alive(folder: Path) -> bool:
    """Whether a process may still add events."""
    with suppress(FileNotFoundError), (folder / "writer.lock").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _try_lock(folder: Path) -> int | None:
    """The writer's lock, or None where another process has it."""
    descriptor = os.open(folder / "writer.lock", os.O_RDWR | os.O_CREAT, 0o644)
    end = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                os.close(descriptor)
                return None
            time.sleep(0.02)
        else:
            return descriptor
