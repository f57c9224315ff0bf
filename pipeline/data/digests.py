"""What data is, as sha256: file contents (remembered by path, size and mtime) and canonical JSON."""

import contextlib
import hashlib
import json
import os
import uuid
from pathlib import Path

REMEMBERED = "digests.json"


def json_digest(value: object) -> str:
    """sha256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def unit_hash(text: str, *, salt: str = "") -> float:
    """A number in [0, 1) that depends on the text and the salt only: splits and caps are cut by it."""
    return int.from_bytes(hashlib.sha256(f"{salt}\x1f{text}".encode()).digest()[:6], "big") / 2.0**48


def write_atomically(path: Path, content: str) -> None:
    """Whole or not at all, whoever else writes the same file; readable by whom the umask allows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with partial.open("x", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def file_digests(paths: list[Path], *, cache: Path) -> list[str]:
    """Content digests in order; a file is read again only when its size or mtime has changed."""
    known = _remembered(cache)
    before = dict(known)
    digests = []
    for path in paths:
        stamp = f"{path.stat().st_size}:{path.stat().st_mtime_ns}"
        name = str(path.resolve())
        if known.get(name, ("", ""))[0] != stamp:
            with path.open("rb") as file:
                known[name] = (stamp, hashlib.file_digest(file, "sha256").hexdigest())
        digests.append(known[name][1])
    if known != before:
        write_atomically(cache / REMEMBERED, json.dumps(known, indent=0, sort_keys=True))
    return digests


def _remembered(cache: Path) -> dict[str, tuple[str, str]]:
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        return {name: (stamp, digest) for name, (stamp, digest) in json.loads((cache / REMEMBERED).read_text()).items()}
    return {}
