"""What a run has to tell its tracking server, on disk before anything else: an outbox whose one file of events only
grows. Nothing here talks to anyone, and handing over an event is one write.

    WORKSPACE/outbox/UID/
        target.json                whose run this is, and where it is told
        events.jsonl               one JSON line an event
        files/                     what events of kind `files` name, linked rather than copied where that can be
        writer.lock                held while somebody may add events; the kernel frees it at a kill -9
        sent.json, refused.jsonl, sender.log      the sender's (tracking/sending.py)
    WORKSPACE/outbox/ASKED.open    under which UID an unfinished run of this very config goes on
    WORKSPACE/outbox/measuring.lock, sending.lock    while one measures, no sender works (tracking/taking_turns.py)
"""

import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from platform import node
from typing import Any, Final

from pipeline.artifact import write_json
from pipeline.data.digests import write_atomically
from pipeline.events import Event, line_of
from pipeline.outbox_reading import (
    AREA,
    EVENTS,
    TARGET,
    Target,
    goes_on,
    outboxes_of,
    pointer_of,
    read_target,
    unfinished,
    writer_is_alive,
)

FILES: Final = "files"
LOCK_WAIT_S: Final = 1.0  # who only asks whether somebody writes holds the lock for microseconds


class Outbox:
    """An outbox to write to, by one process at a time."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder, self._lock = folder, lock
        self.target = read_target(folder)
        self._events = os.open(folder / EVENTS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)

    def put(self, event: Event) -> None:
        """Hand over an event.

        Raises:
            OSError: the disk is full.
        """
        append_line(self._events, line_of(event))

    def sync(self) -> None:
        """Have what was put survive a power cut as well."""
        os.fsync(self._events)

    def keep(self, files: Mapping[str, Path | bytes]) -> str:
        """Take files, or what is to be in them, by the names they will have; the folder to name in an event. Files are
        linked: an artifact that is measured again gives way to another, and what is told of it must not.

        Raises:
            OSError: the disk is full.
        """
        folder = Path(FILES, uuid.uuid4().hex[:12])
        for name, source in files.items():
            place = self.folder / folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, bytes):
                place.write_bytes(source)
                continue
            try:
                place.hardlink_to(source)
            except OSError:  # another file system, or one without links
                shutil.copyfile(source, place)
        return folder.as_posix()

    def ends_the_run(self) -> bool:
        """Whether the run's end is told here: where it was begun; of one that was joined, where it is unfinished and
        all others that told of it have ended."""
        area, run = self.folder.parent, self.target.run
        others = (each for each in outboxes_of(area, run) if each != self.folder)
        return not self.target.joins or (
            goes_on(area / run, self.target.asked) and not any(map(writer_is_alive, others))
        )

    def close(self, *, whole: bool) -> None:
        """Let go; `whole`: all that was asked for is done, so that the same config begins another run next time."""
        try:
            if whole:
                self._finish()
        finally:
            os.close(self._events)
            os.close(self._lock)

    def _finish(self) -> None:
        area, asked = self.folder.parent, self.target.asked
        with while_nobody_opens(area):
            if self.ends_the_run() and goes_on(area / self.target.run, asked):
                pointer_of(area, asked).unlink()


def append_line(descriptor: int, line: bytes) -> None:
    """Add a line to events in one write; the descriptor is O_RDWR and O_APPEND. What a kill or a full disk left of
    another line, whoever wrote it, becomes a line of its own, which nobody can read.

    Raises:
        OSError: the disk is full.
    """
    size = os.fstat(descriptor).st_size
    if size > 0 and os.pread(descriptor, 1, size - 1) != b"\n":
        line = b"\n" + line
    if os.write(descriptor, line) < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def open_outbox(root: Path, *, name: str, experiment: str, uri: str | None, asked: str) -> Outbox:
    """The outbox that an unfinished run of the same config left in the workspace, or another one. Where a process is at
    work on that run now, one that joins it."""
    area = root / AREA
    area.mkdir(parents=True, exist_ok=True)
    told = {"name": name, "experiment": experiment, "uri": uri, "asked": asked}
    with while_nobody_opens(area):
        left = unfinished(area, asked)
        if left is not None:
            joined = f"{left.name}.{uuid.uuid4().hex[:4]}"
            return _opened(left) or _made(area / joined, run=left.name, joins=True, **told)
        run = f"{name}-{uuid.uuid4().hex[:12]}"
        write_atomically(pointer_of(area, asked), run)
        return _made(area / run, run=run, **told)


def reopen_outbox(root: Path, *, asked: str) -> Outbox | None:
    """The outbox that an unfinished run of the same config left; None where there is none, or a process is at work on
    that run."""
    area = root / AREA
    if unfinished(area, asked) is None:
        return None
    with while_nobody_opens(area):
        left = unfinished(area, asked)
        return None if left is None else _opened(left)


@contextmanager
def while_nobody_opens(area: Path) -> Iterator[None]:
    """For a `with`: who would open an outbox in this area meanwhile waits, so that none is made or gone on in."""
    with (area / ".lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _made(folder: Path, **told: Any) -> Outbox:
    folder.mkdir()
    try:
        write_json(folder / TARGET, Target(host=node(), made_at=time.time_ns() // 1_000_000, **told))
        made = _opened(folder)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    assert made is not None, "nobody knows of it yet"
    return made


def _opened(folder: Path) -> Outbox | None:
    """The outbox, or None where another process has it."""
    lock = _try_lock(folder)
    try:
        return None if lock is None else Outbox(folder, lock)
    except BaseException:
        os.close(lock)  # type: ignore[arg-type]  # or this process would take itself for another
        raise


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
