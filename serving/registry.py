"""MLflow, the serving half: what `models:/NAME@ALIAS` means now, fetched and verified.

A source is resolved to a bundle folder whose digest is the one the registry recorded when Retort registered it. Each
version is kept in a folder of its own under the cache; a download becomes visible by one rename, when it is verified.
"""

import errno
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from serving.bundle import read_bundle
from serving.errors import BadArtifact, BadRequest, Transient

if TYPE_CHECKING:
    from mlflow import MlflowClient

DIGEST_TAG = "retort.digest"
LOCAL_VERSION = "local"
_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_NOT_WRITABLE = (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST)
_URI = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")


@dataclass(frozen=True)
class Resolved:
    """A verified bundle folder on this machine, and what the registry calls it."""

    path: Path
    name: str
    version: str
    digest: str


def resolve(source: str, *, tracking_uri: str | None, cache: Path) -> Resolved:
    """Find, fetch and verify what `source` names: a bundle folder, models:/NAME@ALIAS or models:/NAME/VERSION.

    Raises:
        BadRequest: no such folder, name, alias or version; the message says which there are.
        BadArtifact: the version was not registered by Retort, or its files are not those registered.
        Transient: the registry cannot be reached, or there is no space.
    """
    if not source.startswith("models:"):
        return _resolve_folder(Path(source))
    name, _, _ = _parse(source)
    with _registry(tracking_uri) as client:
        version = _version(client, source)
        digest, uri = _recorded(client, name=name, version=version)
        path = cache / quote(name, safe="") / f"{version}-{digest[:16]}"
        if not _is_complete(path, digest=digest):
            _fetch(uri, path=path, digest=digest, tracking_uri=tracking_uri)
    return Resolved(path=path, name=name, version=version, digest=digest)


def is_followed(source: str) -> bool:
    """Whether `source` can come to mean another version: an alias can, a version or a folder cannot."""
    match = _URI.fullmatch(source)
    return bool(match and match["alias"])


def find_version(source: str, *, tracking_uri: str | None) -> str:
    """The version an alias names now; raises as `resolve` does."""
    with _registry(tracking_uri) as client:
        return _version(client, source)


def _resolve_folder(path: Path) -> Resolved:
    if not path.is_dir():
        raise BadRequest(f"{path} is no folder; name a bundle folder, models:/NAME@ALIAS or models:/NAME/VERSION")
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
    if tracking_uri.startswith("sqlite:///") and not _sqlite_file(tracking_uri).is_file():  # MLflow would create it
        raise BadRequest(f"there is no registry at {tracking_uri}; name a file that `retort run` made")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    shown = _shown(tracking_uri)
    try:
        yield MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    except MlflowException as error:
        if error.error_code in _NOT_THERE:
            raise BadRequest(f"registry {shown}: {_shown(error.message)}") from error
        raise Transient(f"registry {shown} is not available: {_shown(error.message)}; try again") from error
    except RequestException as error:
        raise Transient(f"registry {shown} is not available: {_shown(str(error))}; try again") from error


def _sqlite_file(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def _shown(text: str) -> str:
    """On one line, and with no user and password in any URI."""
    return re.sub(r"//[^/@\s]*@", "//", " ".join(text.split()))


def _version(client: "MlflowClient", source: str) -> str:
    name, alias, version = _parse(source)
    if alias is None:
        return str(version)
    aliases = {str(known): str(number) for known, number in client.get_registered_model(name).aliases.items()}
    if alias not in aliases:
        known = ", ".join(sorted(aliases)) or "none"
        raise BadRequest(f"model {name} has no alias {alias}; it has: {known}")
    return aliases[alias]


def _recorded(client: "MlflowClient", *, name: str, version: str) -> tuple[str, str]:
    """The digest a version was registered with, and where its files are."""
    digest = client.get_model_version(name, version).tags.get(DIGEST_TAG)
    if not digest:
        raise BadArtifact(
            f"model {name} version {version} has no tag {DIGEST_TAG}: Retort did not register it, so nothing says what "
            "its files must be; register it with `retort run`"
        )
    return str(digest), str(client.get_model_version_download_uri(name, version))


def _is_complete(path: Path, *, digest: str) -> bool:
    try:
        return read_bundle(path).digest == digest
    except BadArtifact:
        return False


def _fetch(uri: str, *, path: Path, digest: str, tracking_uri: str | None) -> None:
    """Download beside `path`, verify, and publish by one rename."""
    with _disk(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder:
            found = _download(uri, to=f"{folder}/files", tracking_uri=tracking_uri)
            if (actual := read_bundle(found).digest) != digest:
                raise BadArtifact(f"{uri} is {actual[:12]}, not the {digest[:12]} registered; register it again")
            if path.exists():
                shutil.rmtree(path)
            found.rename(path)


def _download(uri: str, *, to: str, tracking_uri: str | None) -> Path:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    where = {"tracking_uri": tracking_uri, "registry_uri": tracking_uri}
    try:
        return Path(download_artifacts(artifact_uri=uri, dst_path=to, **where))
    except MlflowException as error:
        if error.error_code in _NOT_THERE:
            raise BadArtifact(f"{_shown(uri)} does not hold the registered files: {_shown(error.message)}") from error
        raise


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Transient(f"no space left for the model in {folder}; free some or use another --cache") from error
        if error.errno in _NOT_WRITABLE:
            raise BadRequest(f"{folder} cannot be written; choose another with --cache") from error
        raise
