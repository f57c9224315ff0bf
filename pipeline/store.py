"""Artifacts by key: a directory, or any fsspec URL behind the same verbs.

A directory publishes by one rename. Object stores have no rename: there the manifest, uploaded last, is the commit.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from pipeline.artifact import MANIFEST, Artifact, Manifest, first_fault, read_artifact, write_json
from pipeline.errors import BadArtifact, BadRequest, Failure, Transient

OF_THE_DISK = (errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ESTALE, errno.ENODEV, errno.EBUSY)
NOT_THE_DISK = (Failure, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
FULL_BELOW_BYTES = 64 * 1024


class Store(Protocol):
    """Where finished artifacts and training checkpoints live."""

    def get(self, key: str) -> Artifact | None: ...
    def partial(self, key: str) -> Path: ...
    def publish(self, key: str, manifest: Manifest) -> Artifact: ...
    def checkpoints(self, key: str) -> Path: ...


class DirectoryStore:
    """`root/artifacts/<key>`, `root/checkpoints/<key>`, and `root/locks/<key>` that the kernel frees at a kill -9."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, key: str) -> Artifact | None:
        """The finished artifact of this key, or None."""
        path = self._path(key)
        return read_artifact(path) if path.exists() else None

    def partial(self, key: str) -> Path:
        """An empty directory to work in; what a killed run left there is removed. Hold the key's lock."""
        shutil.rmtree(self._path(f".{key}.old"), ignore_errors=True)
        return self.empty(f".{key}.partial")

    def publish(self, key: str, manifest: Manifest) -> Artifact:
        """Seal the partial directory: manifest last, one rename, checkpoints removed."""
        partial, path, old = self._path(f".{key}.partial"), self._path(key), self._path(f".{key}.old")
        write_json(partial / MANIFEST, manifest)
        if path.exists():  # measured again: the old figures give way whole, whenever this is killed
            path.rename(old)
        partial.rename(path)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(self.root / "checkpoints" / key, ignore_errors=True)
        return read_artifact(path)  # as everybody will read it from now on: JSON knows no tuples and no integer keys

    def checkpoints(self, key: str) -> Path:
        """Where training of this key keeps its checkpoints."""
        return self.root / "checkpoints" / key

    def empty(self, name: str) -> Path:
        """An empty directory beside the artifacts; a name that begins with a dot is never taken for one."""
        path = self._path(name)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def adopt(self, folder: Path, manifest: Manifest) -> Artifact:
        """Take in a whole artifact that was put together in a directory from `empty`."""
        return read_artifact(folder.rename(self._path(manifest.key)))

    def _path(self, name: str) -> Path:
        return self.root / "artifacts" / name


class RemoteStore:
    """An fsspec URL as the store, with a directory store as its local half."""

    def __init__(self, url: str, local: DirectoryStore) -> None:
        import fsspec

        self.local = local
        try:
            self._fs, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise BadRequest(f"the store {url} cannot be opened: {error}") from error
        self._root = str(root).rstrip("/")

    def get(self, key: str) -> Artifact | None:
        """The artifact of this key, fetched and verified when it is not here yet; None when nobody has finished it.

        What is here and not there was sealed by a run that was killed before its upload ended: that is made up for.
        """
        here, there = self.local.get(key), self._fs.exists(self._remote(key, MANIFEST))
        if here is not None and not there:
            self._upload(here)
        return self._fetch(key) if here is None and there else here

    def partial(self, key: str) -> Path:
        """A local directory to work in."""
        return self.local.partial(key)

    def publish(self, key: str, manifest: Manifest) -> Artifact:
        """Seal locally, then upload; the manifest goes last and is the commit."""
        artifact = self.local.publish(key, manifest)
        self._upload(artifact)
        return artifact

    def checkpoints(self, key: str) -> Path:
        """Local: a checkpoint is worth its upload only where another machine may resume it, which Jobs do by a
        volume."""
        return self.local.checkpoints(key)

    def _upload(self, artifact: Artifact) -> None:
        key, files = artifact.manifest.key, artifact.manifest.files
        if self._fs.exists(self._remote(key, MANIFEST)):  # nobody may read old and new files as one
            self._fs.rm(self._remote(key, MANIFEST))
        for name in (*files, MANIFEST):
            self._fs.makedirs(self._remote(key, name).rpartition("/")[0], exist_ok=True)
            self._fs.put(str(artifact.path / name), self._remote(key, name))

    def _fetch(self, key: str) -> Artifact:
        """Into a folder of its own: another process may be at work in the key's partial one."""
        with key_lock(self.local.root, f"{key}.fetch", waiting=lambda: None):
            here = self.local.get(key)
            if here is not None:
                return here
            folder = self.local.empty(f".{key}.fetched")
            self._fs.get(self._remote(key, MANIFEST), str(folder / MANIFEST))
            manifest = read_artifact(folder).manifest
            for name in manifest.files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # named below
                    self._fs.get(self._remote(key, name), str(folder / name))
            fault = first_fault(Artifact(path=folder, manifest=manifest))
            if fault is not None:
                there = self._fs.unstrip_protocol(f"{self._root}/artifacts/{key}")
                raise BadArtifact(f"the store's {there}: {fault}; remove it there and run again")
            return self.local.adopt(folder, manifest)

    def _remote(self, key: str, name: str) -> str:
        return f"{self._root}/artifacts/{key}/{name}"


def open_store(url: str | None, local_root: Path) -> Store:
    """The store of a workspace: its own directory, or `url` with the directory as its local half."""
    local = DirectoryStore(local_root)
    return RemoteStore(url, local) if url else local


@contextmanager
def key_lock(root: Path, key: str, *, waiting: Callable[[], Any]) -> Iterator[None]:
    """Hold the work on `key`: one process does it, others wait (after calling `waiting`) and then read what it made."""
    path = root / "locks" / f"{key}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def trouble_is_transient(where: Path) -> Iterator[None]:
    """A full disk, or another trouble of the file system, becomes one Transient message; a bug stays what it is."""
    try:
        yield
    except Exception as error:
        if isinstance(error, NOT_THE_DISK):
            raise
        if _is_full(error, where):
            raise Transient(
                f"no space left on the disk of {where}; finished artifacts are safe: free some space there "
                "(`retort plan` names what is kept) and run again"
            ) from error
        if not isinstance(error, OSError) or error.errno not in OF_THE_DISK:
            raise
        raise Transient(
            f"the file system failed: {error}; finished artifacts are safe: run again once it is mended"
        ) from error


def _is_full(error: Exception, where: Path) -> bool:
    """Whether this is a full disk: torch, safetensors, numpy and sqlite each say so in a way of their own, or not."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    said = str(error).lower()
    there = next(folder for folder in (where, *where.parents) if folder.exists())
    return "no space left" in said or "disk is full" in said or shutil.disk_usage(there).free < FULL_BELOW_BYTES
