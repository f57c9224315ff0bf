"""Artifacts by key: a directory, or any fsspec URL behind the same verbs.

A directory publishes by one rename. Object stores have no rename: there the manifest, uploaded last, is the commit.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pipeline.artifact import MANIFEST, Artifact, Manifest, read_artifact, verify, write_json
from pipeline.errors import Transient


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
        path = self._path(f".{key}.partial")
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def publish(self, key: str, manifest: Manifest) -> Artifact:
        """Seal the partial directory: manifest last, one rename, checkpoints removed."""
        partial, path = self._path(f".{key}.partial"), self._path(key)
        write_json(partial / MANIFEST, manifest)
        if path.exists():  # measured again: the old figures give way to the new ones
            shutil.rmtree(path)
        partial.rename(path)
        shutil.rmtree(self.root / "checkpoints" / key, ignore_errors=True)
        return Artifact(path=path, manifest=manifest)

    def checkpoints(self, key: str) -> Path:
        """Where training of this key keeps its checkpoints."""
        return self.root / "checkpoints" / key

    def _path(self, name: str) -> Path:
        return self.root / "artifacts" / name


class RemoteStore:
    """An fsspec URL as the store, with a directory store as its local half."""

    def __init__(self, url: str, local: DirectoryStore) -> None:
        import fsspec

        self.local = local
        self._fs, root = fsspec.core.url_to_fs(url)
        self._root = str(root).rstrip("/")

    def get(self, key: str) -> Artifact | None:
        """The artifact of this key, fetched and verified when it is not here yet; None when nobody has finished it."""
        here = self.local.get(key)
        if here is not None or not self._fs.exists(self._remote(key, MANIFEST)):
            return here
        partial = self.local.partial(key)
        self._fs.get(self._remote(key, MANIFEST), str(partial / MANIFEST))
        manifest = read_artifact(partial).manifest
        for name in manifest.files:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            self._fs.get(self._remote(key, name), str(partial / name))
        verify(Artifact(path=partial, manifest=manifest))
        return self.local.publish(key, manifest)

    def partial(self, key: str) -> Path:
        """A local directory to work in."""
        return self.local.partial(key)

    def publish(self, key: str, manifest: Manifest) -> Artifact:
        """Seal locally, then upload; the manifest goes last and is the commit."""
        artifact = self.local.publish(key, manifest)
        for name in (*manifest.files, MANIFEST):
            self._fs.makedirs(self._remote(key, name).rpartition("/")[0], exist_ok=True)
            self._fs.put(str(artifact.path / name), self._remote(key, name))
        return artifact

    def checkpoints(self, key: str) -> Path:
        """Local: a checkpoint is worth its upload only where another machine may resume it, which Jobs do by a volume."""
        return self.local.checkpoints(key)

    def _remote(self, key: str, name: str) -> str:
        return f"{self._root}/artifacts/{key}/{name}"


def open_store(url: str | None, local_root: Path) -> Store:
    """The store of a workspace: its own directory, or `url` with the directory as its local half."""
    local = DirectoryStore(local_root)
    return RemoteStore(url, local) if url and "://" in url else local


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


def as_transient(error: OSError, *, where: Path) -> Transient:
    """A full disk, or another trouble of the file system, in one message."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Transient(
            f"no space left on the disk of {where}; finished artifacts are safe: free some space there "
            "(`retort plan` names what is kept) and run again"
        )
    return Transient(f"the file system failed: {error}; finished artifacts are safe: run again once it is mended")
