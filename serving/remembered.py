"""Which version answered for an alias last, written down beside the cached versions: a server that starts while the
registry is away serves that one, verified anew from the disk.

    CACHE/NAME/ALIAS.alias    JSON: registry, version, digest, files
"""

import logging
import os
from pathlib import Path
from urllib.parse import quote

import msgspec

from serving.cache import claim
from serving.errors import BadArtifact
from serving.redaction import redacted
from serving.registry import Resolved, name_and_alias, version_place
from serving.verifying import verify_version

_log = logging.getLogger(__name__)


class _Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    registry: str  # without its password: another one's versions are other models
    version: str
    digest: str
    files: str | None


def remember(resolved: Resolved, *, source: str, tracking_uri: str, cache: Path) -> None:
    """Write down that `resolved` answers for the alias of `source`. A disk that cannot be written costs the note and
    nothing else."""
    path = _place(source, cache=cache)
    note = _Note(redacted(tracking_uri), resolved.version, resolved.digest, resolved.files)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_bytes(msgspec.json.encode(note))
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        told = "%s cannot be written (%s): a restart without the registry will not know this version"
        _log.warning(told, path, error.strerror)


def recall(source: str, *, tracking_uri: str, cache: Path, key: Path | None) -> Resolved | None:
    """The version that answered for the alias last, whole and verified; None where there is none that is fit."""
    path = _place(source, cache=cache)
    try:
        note = msgspec.json.decode(path.read_bytes(), type=_Note)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        _log.warning("%s cannot be read and is passed over: %s", path, error)
        return None
    if note.registry != redacted(tracking_uri):
        return None
    name, _ = name_and_alias(source)
    place = version_place(cache, name=name, version=note.version, digest=note.digest)
    held = claim(place)
    try:
        bundle = verify_version(place, files=note.files, digest=note.digest, key=key, called=str(place))
    except BadArtifact as unfit:
        _log.warning("version %s of the cache is passed over: %s", note.version, unfit)
        return None
    return Resolved(bundle, name, version=note.version, digest=note.digest, files=note.files, claim=held)


def noted(name: str, *, cache: Path) -> list[Path] | None:
    """The folders of a model's versions that answered for an alias last, whoever wrote that down; None where one of
    the notes cannot be read, so that nobody knows."""
    folder = cache / quote(name, safe="")
    try:
        notes = [msgspec.json.decode(path.read_bytes(), type=_Note) for path in folder.glob("*.alias")]
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return [version_place(cache, name=name, version=note.version, digest=note.digest) for note in notes]


def _place(source: str, *, cache: Path) -> Path:
    name, alias = name_and_alias(source)
    return cache / quote(name, safe="") / f"{quote(str(alias), safe='')}.alias"
