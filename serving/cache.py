"""The folder that versions are kept in, which several servers may share: who uses which, and which may go.

    CACHE/NAME/VERSION-DIGEST/              a version, whole; it appears by one rename
    CACHE/NAME/.download-VERSION-DIGEST-*   one that is being fetched, or what a process that was killed left of it
    CACHE/.locks/NAME/VERSION-DIGEST.used   shared by every process that has the version in memory, or is about to
    CACHE/.locks/NAME/VERSION-DIGEST.fetch  whose downloads it

Locks are the kernel's (flock), so that a process that is killed leaves none. Where they cannot be had (a cache that is
read-only, a file system without them) the cache is used all the same, and nothing is removed from it.
"""

import errno
import fcntl
import logging
import os
import re
import shutil
import tempfile
import time
import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from serving.errors import BadRequest, Transient

KEPT_BEFORE: Final = 2  # versions older than what is in use, for who goes back further than to the one in memory
FETCH_S: Final = 600.0  # that another process is waited for
_PAUSE_S: Final = 0.1
_VERSION: Final = re.compile(r"(\d+)-[0-9a-f]+")
_NOT_WRITABLE: Final = (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST)
_log = logging.getLogger(__name__)


class NoSpace(Transient):
    """The cache's disk is full; the registry has no part in it."""


class Claim:
    """As long as it is referred to, no server removes the version."""

    def __init__(self, descriptor: int) -> None:
        weakref.finalize(self, os.close, descriptor)


def claim(place: Path) -> Claim | None:
    """Say that this process uses the version of a `place`, or is about to fetch it; None where no lock can be had."""
    descriptor = _locked(_lock_file(place, "used"), fcntl.LOCK_SH)  # whoever removes holds it for a moment alone
    return None if descriptor is None else Claim(descriptor)


@contextmanager
def fetching(place: Path, *, patience_s: float = FETCH_S) -> Iterator[None]:
    """Be the only process that fetches the version of a `place`. What one that was killed left of it is removed.

    Raises:
        Transient: another one has been at it for `patience_s`.
    """
    end_s = time.monotonic() + patience_s
    while True:
        try:
            descriptor = _locked(_lock_file(place, "fetch"), fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= end_s:
                told = f"{place} has been fetched by another process for {patience_s:.0f} s; look at what keeps it"
                raise Transient(told) from None
        time.sleep(_PAUSE_S)
    try:
        if descriptor is not None:
            for left in place.parent.glob(f".download-{place.name}-*"):
                shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def beside(place: Path) -> Iterator[Path]:
    """A folder on the same disk, for what becomes `place` by `publish`."""
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".download-{place.name}-") as folder:
        yield Path(folder)


def publish(files: Path, place: Path) -> None:
    """Make `files` the version. What was there before, which is not whole, is put beside them and goes with them."""
    if place.exists():
        place.rename(files.with_name("before"))
    files.rename(place)


@contextmanager
def on_disk(folder: Path) -> Iterator[None]:
    """Tell what the cache's disk refuses as that."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"no space left for the model in {folder}; free some or use another --cache") from error
        if error.errno in _NOT_WRITABLE:
            raise BadRequest(f"{folder} cannot be written; choose another with --cache") from error
        raise


def prune(folder: Path, *, in_use: Collection[Path], noted: Collection[Path] = ()) -> list[Path]:
    """Remove versions of a model from its `folder` and return them: all but those `in_use` here or by another process,
    those `noted` as what an alias named last, the KEPT_BEFORE newest before the newest of `in_use`, and whatever is
    newer. What downloads left that were killed goes, too; what cannot be removed stays."""
    numbers = [number for place in in_use if place.parent == folder and (number := _number(place)) is not None]
    if not numbers:
        return []
    try:
        found = [(number, each) for each in folder.iterdir() if (number := _number(each)) is not None]
        _sweep(folder)
    except OSError as error:
        _log.warning("%s cannot be looked through for old versions: %s", folder, error.strerror)
        return []
    older = sorted((number, each) for number, each in found if number <= max(numbers) and each not in {*in_use, *noted})
    return [each for _, each in older[:-KEPT_BEFORE] if _removed(each)]


def _sweep(folder: Path) -> None:
    """Remove downloads that nobody is at any more."""
    for left in folder.glob(".download-*"):
        name = left.name.removeprefix(".download-").rpartition("-")[0]
        if name:  # an older Retort's have none, and no lock
            with suppress(Transient), fetching(folder / name, patience_s=0.0):
                pass


def _removed(place: Path) -> bool:
    """Remove a version nobody uses; whether that was so."""
    held: list[int] = []
    used, fetch = (_lock_file(place, kind) for kind in ("used", "fetch"))
    try:
        for file in (fetch, used):
            descriptor = _locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if descriptor is None:
                return False
            held.append(descriptor)
        with beside(place) as going:  # by a rename: half a version must never lie in its place
            place.rename(going / "before")
        for file in (used, fetch):
            file.unlink()
    except BlockingIOError:
        return False
    except OSError as error:
        _log.warning("version %s cannot be removed from the cache: %s", place, error.strerror)
        return False
    finally:
        for descriptor in held:
            os.close(descriptor)
    _log.info("removed %s from the cache: nobody uses it, and newer versions are kept", place)
    return True


def _number(place: Path) -> int | None:
    match = _VERSION.fullmatch(place.name)
    return int(match[1]) if match else None


def _lock_file(place: Path, kind: str) -> Path:
    return place.parent.parent / ".locks" / place.parent.name / f"{place.name}.{kind}"


def _locked(file: Path, how: int) -> int | None:
    """An open and locked file; None where it cannot be made or locked. One that was removed meanwhile locks nothing,
    and is made anew.

    Raises:
        BlockingIOError: another has it, and `how` says not to wait.
    """
    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, how)
            if _is_at(descriptor, file):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise
        except OSError:
            os.close(descriptor)
            return None
        os.close(descriptor)


def _is_at(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False
