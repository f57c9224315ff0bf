"""What a stage leaves behind: a directory sealed by its manifest, which is written last.

`digest` covers what the next stage reads: every file but those under `evidence/` (curves, timings, logs), which
differ from one
machine and hour to the next. They are listed in the manifest with their own digests, so nothing sealed can change
unseen.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pipeline.data.digests import write_atomically
from pipeline.errors import BadArtifact

MANIFEST = "manifest.json"
EVIDENCE = "evidence"


class SealedFile(msgspec.Struct, frozen=True):
    sha256: str
    size_bytes: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an artifact was earned: from what, by which code and versions, on which machine, and what came out."""

    stage: str
    label: str
    key: str
    digest: str
    inputs: dict[str, str]
    config: dict[str, Any]
    code: str
    versions: dict[str, str]
    git: dict[str, Any]
    machine: dict[str, Any]
    finished_at: str
    seconds: float
    facts: dict[str, Any]
    files: dict[str, SealedFile]
    schema: int = 1


@dataclass(frozen=True)
class Artifact:
    """A sealed directory and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        return self.manifest.digest


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed_files(folder: Path) -> dict[str, SealedFile]:
    """Every file under `folder` but the manifest, by its relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {
        name: SealedFile(sha256=file_sha256(path), size_bytes=path.stat().st_size)
        for name, path in names.items()
        if name != MANIFEST
    }


def tree_digest(files: Mapping[str, SealedFile]) -> str:
    """One digest over names and contents, evidence left out."""
    lines = [f"{file.sha256}  {name}" for name, file in sorted(files.items()) if not name.startswith(f"{EVIDENCE}/")]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON in one rename, so that a reader sees the old document or the new one and never half of it."""
    write_atomically(path, msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def read_artifact(path: Path) -> Artifact:
    """The artifact at `path`; BadArtifact when its manifest is missing or unreadable. Contents are not read: see
    `verify`."""
    try:
        manifest = msgspec.json.decode((path / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        raise BadArtifact(
            f"{path} is not a finished artifact: it has no {MANIFEST}; remove {path} and run again"
        ) from error
    except msgspec.MsgspecError as error:
        raise BadArtifact(f"{path / MANIFEST} cannot be read ({error}); remove {path} and run again") from error
    return Artifact(path=path, manifest=manifest)


def verify(artifact: Artifact) -> None:
    """Read every sealed file again; BadArtifact names the first that is missing, altered or new."""
    fault = first_fault(artifact)
    if fault is not None:
        raise BadArtifact(
            f"artifact {artifact.manifest.key}: {fault}; remove {artifact.path} and run again to rebuild it"
        )


def first_fault(artifact: Artifact) -> str | None:
    """What is wrong with the first file that is not as it was sealed; None when all are."""
    found, sealed = sealed_files(artifact.path), artifact.manifest.files
    for name in sorted(found.keys() | sealed.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in sealed:
            return f"{name} was not there when it was sealed"
        if found[name] != sealed[name]:
            return f"{name} was altered after it was sealed"
    return None
