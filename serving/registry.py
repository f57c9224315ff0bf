"""MLflow, the serving half: what `models:/NAME@ALIAS` means now, fetched and verified.

A source is resolved to a bundle folder whose digest is the one the registry recorded when Retort registered it. Each
version is kept whole in a folder of its own under the cache (cache.py), so that it can be verified again; a download
becomes visible by one rename, when it is verified. A version holds its bundle in `bundle/`, beside what verifies it;
one that an older Retort registered is the bundle alone.

MLflow says in one way alone that something is not there. Whatever else is answered, a proxy's page, a login, an error,
comes out as NoAnswer or Transient: it says nothing of the alias.
"""

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from serving.bundle import read_bundle
from serving.cache import Claim, beside, claim, fetching, on_disk, publish
from serving.errors import BadArtifact, BadRequest
from serving.reaching import expect_answers, fetch_files, is_made, require_database
from serving.registry_failures import NoAnswer, NotThere, one_message, raised_by_registries, shown
from serving.signatures import FILES, FILES_TAG, verify_folder
from serving.verifying import BUNDLE, verify_version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

DIGEST_TAG = "retort.digest"
LOCAL_VERSION = "local"
FULL_BYTES = 2**20  # a download that failed with less than this left failed for want of it
_URI = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")


class NoAlias(BadRequest):
    """The registry has no such alias, or not even the model."""


class Named(NamedTuple):
    """What an alias names. A model that was deleted and registered anew has another version 1, whose digest is another;
    it is empty where Retort did not register the version."""

    version: str
    digest: str


@dataclass(frozen=True)
class Resolved:
    """A verified bundle folder on this machine, and what the registry calls it; `files` is the digest of a version's
    list of files, where it has one. It stays in the cache as long as `claim` is referred to."""

    path: Path
    name: str
    version: str
    digest: str
    files: str | None = field(default=None, compare=False)
    claim: Claim | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class _Recorded:
    """What the registry says of a version: the bundle's digest, that of its list of files, and where they are."""

    version: str
    digest: str
    files: str | None  # None: an older Retort registered it, the bundle alone
    place: str

    def bundle_in(self, folder: Path, *, key: Path | None, called: str) -> Path:
        """The bundle in a folder that must hold the version; raises as `verify_version` does."""
        return verify_version(folder, files=self.files, digest=self.digest, key=key, called=called)


def resolve(source: str, *, tracking_uri: str | None, cache: Path, key: Path | None = None) -> Resolved:
    """Find, fetch and verify what `source` names: a bundle folder, models:/NAME@ALIAS or models:/NAME/VERSION.

    With a public `key` only what was signed by its owner is let through.

    Raises:
        BadRequest: no such folder or version, a key that cannot be used, or
            NoAlias: no such name or alias (the message says which there are).
            NoAnswer: wrong credentials, or what answers is no registry.
        BadArtifact: the version was not registered by Retort, its files are not those registered, or not signed.
        Transient: the registry cannot be reached, or (NoSpace) there is no room for the files.
    """
    if not source.startswith("models:"):
        return _resolve_folder(Path(source), key=key)
    name, _, _ = _parse(source)
    with _registry(tracking_uri) as client:
        found = _recorded(client, name=name, version=_version(client, source))
        path = version_place(cache, name=name, version=found.version, digest=found.digest)
        held = claim(path)
        bundle = _kept(found, path=path, key=key) or _fetch(found, path=path, key=key, tracking_uri=str(tracking_uri))
    return Resolved(bundle, name, version=found.version, digest=found.digest, files=found.files, claim=held)


def version_place(cache: Path, *, name: str, version: str, digest: str) -> Path:
    """Where a version is kept."""
    return cache / quote(name, safe="") / f"{version}-{digest[:16]}"


def name_and_alias(source: str) -> tuple[str, str | None]:
    """What models:/NAME@ALIAS is made of; no alias where it names a version. BadRequest: it names no model."""
    name, alias, _ = _parse(source)
    return name, alias


def is_followed(source: str) -> bool:
    """Whether `source` can come to mean another version: an alias can, a version or a folder cannot."""
    match = _URI.fullmatch(source)
    return bool(match and match["alias"])


def find_version(source: str, *, tracking_uri: str | None) -> Named:
    """The version an alias names now; raises as `resolve` does."""
    name, _, _ = _parse(source)
    try:
        with _registry(tracking_uri) as client:
            version = _version(client, source)
            return Named(version, str(_told(client, name=name, version=version).tags.get(DIGEST_TAG, "")))
    except NotThere as missing:
        raise NoAlias(str(missing)) from missing


def _resolve_folder(path: Path, *, key: Path | None) -> Resolved:
    if not path.is_dir():
        raise BadRequest(f"{path} is no folder; name a bundle folder, models:/NAME@ALIAS or models:/NAME/VERSION")
    if key is not None or (path / FILES).is_file():  # a whole version
        verify_folder(path, files_digest=None, key=key)
        path = path / BUNDLE
    bundle = read_bundle(path)
    return Resolved(path=path, name=bundle.spec.name, version=LOCAL_VERSION, digest=bundle.digest)


def _parse(source: str) -> tuple[str, str | None, str | None]:
    match = _URI.fullmatch(source)
    if not match:
        raise BadRequest(f"{source} names no model; write models:/NAME@ALIAS or models:/NAME/VERSION")
    return match["name"], match["alias"], match["version"]


@contextmanager
def _registry(tracking_uri: str | None) -> "Iterator[MlflowClient]":
    """A client whose failures come out as ours."""
    if tracking_uri is None:
        raise BadRequest("a models:/ source needs a registry; say where with --tracking-uri, e.g. sqlite:///mlflow.db")
    if not is_made(tracking_uri):
        raise NoAnswer(f"there is no registry at {shown(tracking_uri)}; name a file that `retort run` made")
    with one_message(tracking_uri):
        from mlflow import MlflowClient

        expect_answers()
        require_database(tracking_uri)
        yield MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def _version(client: "MlflowClient", source: str) -> str:
    name, alias, version = _parse(source)
    if alias is None:
        return str(version)
    found = client.get_registered_model(name)
    _require(found.name, name, tracking_uri=client.tracking_uri)
    aliases = {str(known): str(number) for known, number in found.aliases.items()}
    if alias not in aliases:
        known = ", ".join(sorted(aliases)) or "none"
        raise NoAlias(f"model {name} has no alias {alias}; it has: {known}")
    return aliases[alias]


def _told(client: "MlflowClient", *, name: str, version: str) -> "ModelVersion":
    found = client.get_model_version(name, version)
    _require(f"{found.name} version {found.version}", f"{name} version {version}", tracking_uri=client.tracking_uri)
    return found


def _require(found: str, wanted: str, *, tracking_uri: str) -> None:
    """A proxy that answers every question with {} or nothing is taken for a registry with an empty model."""
    if found != wanted:
        raise NoAnswer(f"the registry {shown(tracking_uri)} was asked for model {wanted} and answered of {found!r}")


def _recorded(client: "MlflowClient", *, name: str, version: str) -> _Recorded:
    found = _told(client, name=name, version=version)
    digest, files = found.tags.get(DIGEST_TAG), found.tags.get(FILES_TAG)
    missing = DIGEST_TAG if not digest else FILES_TAG if _is_logged_model(found.source) and not files else None
    if missing:
        raise BadArtifact(
            f"model {name} version {version} has no tag {missing}: it was registered by something else than Retort, so "
            "nothing says what its files must be; register it with `retort run`"
        )
    place = client.get_model_version_download_uri(name, version)
    return _Recorded(version=version, digest=str(digest), files=files, place=str(place))


def _is_logged_model(source: str) -> bool:
    return source.startswith("models:/m-")


def _kept(found: _Recorded, *, path: Path, key: Path | None) -> Path | None:
    """The bundle of a version that was fetched before and is whole."""
    try:
        return found.bundle_in(path, key=key, called=str(path))
    except BadArtifact:
        return None


def _fetch(found: _Recorded, *, path: Path, key: Path | None, tracking_uri: str) -> Path:
    """Download beside `path`, verify, and publish by one rename; return the bundle. Where another process was quicker,
    what it fetched is taken: it may be reading that."""
    with on_disk(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with fetching(path):
            if bundle := _kept(found, path=path, key=key):
                return bundle
            with beside(path) as folder:
                files = _fetched(found.place, to=folder / "files", tracking_uri=tracking_uri)
                bundle = found.bundle_in(files, key=key, called=shown(found.place))
                publish(files, path)
    return path / bundle.relative_to(files)


def _fetched(place: str, *, to: Path, tracking_uri: str) -> Path:
    """As `fetch_files`, but a disk that is full here is told as that: MLflow words it as the registry's failure."""
    try:
        return fetch_files(place, to=to, tracking_uri=tracking_uri)
    except raised_by_registries() as error:
        if shutil.disk_usage(to.parent).free < FULL_BYTES:
            raise OSError(errno.ENOSPC, "No space left on device") from error
        raise
