"""Whether a version's folder is what was registered: every file by its digest, and by a signature where a key is given.

    files.sha256    "<sha256>  <relative path>" a line, sorted by path, of every file but itself and model.sig
    model.sig       model-signing's signature over every file, files.sha256 included; only where a version was signed

The digest of files.sha256 is a version's tag `retort.files`. MLflow leaves a note, `registered_model_meta`, in folders
that it reads, be it the store itself; it is no file of the version and is passed over.
"""

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from serving.errors import BadArtifact, BadRequest

FILES_TAG: Final = "retort.files"
FILES: Final = "files.sha256"
SIGNATURE: Final = "model.sig"
MLFLOW_NOTE: Final = "registered_model_meta"
UNLISTED: Final = (FILES, SIGNATURE, MLFLOW_NOTE)
INSTALL: Final = "pip install 'retort[signing]'"
_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")
_PLAIN = re.compile(r"[A-Za-z0-9._@+=,/-]+")
_PRIVATE = re.compile(rb"-----BEGIN ([A-Z]+ )*PRIVATE KEY-----")
_AGAIN: Final = "fetch the version again, or register it again"


def files_listing(folder: Path) -> str:
    """The text of files.sha256.

    Raises:
        BadArtifact: a link, what is no file, a name with odd characters, or a file that cannot be read.
    """
    return "".join(f"{_digest(folder, name)}  {name}\n" for name in _names(folder) if name not in UNLISTED)


def verify_folder(folder: Path, *, files_digest: str | None, key: Path | None) -> None:
    """Check a version's folder against its list of files, the list against `files_digest` where one is known, and all
    of it against the signature where a public key is given.

    Raises:
        BadArtifact: names the first file that is missing, altered or not listed; or says what is wrong with the list or
            the signature.
        BadRequest: the key cannot be read or is a private one, or model-signing is not installed.
    """
    if key is not None:
        _check_key(key)
    listed = _listed(folder, files_digest=files_digest)
    present = [name for name in _names(folder) if name not in UNLISTED]
    for name in sorted({*present, *listed}):
        if fault := _fault(folder, name, listed=listed, present=present):
            raise BadArtifact(f"{folder}: {name} {fault}; {_AGAIN}")
    if key is not None:
        _verify_signature(folder, key=key)


def _fault(folder: Path, name: str, *, listed: dict[str, str], present: list[str]) -> str | None:
    if name not in present:
        return "is missing"
    if name not in listed:
        return f"is not listed in {FILES}"
    return None if _digest(folder, name) == listed[name] else f"is not as {FILES} lists it: it was altered"


def _listed(folder: Path, *, files_digest: str | None) -> dict[str, str]:
    """Path -> digest, as files.sha256 says."""
    if not (folder / FILES).is_file():
        raise BadArtifact(f"{folder} is no version's folder: it has no {FILES}; name one that `retort run` registered")
    text = _read(folder, FILES)
    found = hashlib.sha256(text).hexdigest()
    if files_digest is not None and found != files_digest:
        raise BadArtifact(f"{folder}: {FILES} is {found[:12]}, not the {files_digest[:12]} registered; {_AGAIN}")
    lines = text.decode("utf-8", errors="replace").split("\n")
    matches = [_LINE.fullmatch(line) for line in lines[:-1]]
    entries = [(match[2], match[1]) for match in matches if match]
    names = [name for name, _ in entries]
    if lines[-1] or len(entries) != len(matches) or names != sorted(set(names)):
        raise BadArtifact(f"{folder}: {FILES} is no list of digests and paths, sorted and each once; {_AGAIN}")
    return dict(entries)


def _names(folder: Path) -> list[str]:
    """Every file's path below the folder, in the order of files.sha256."""
    return sorted(_walk(folder, folder))


def _walk(folder: Path, root: Path) -> Iterator[str]:
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise BadArtifact(f"{folder} cannot be read: {error.strerror}") from error
    for entry in entries:
        name = Path(entry.path).relative_to(root).as_posix()
        if not _PLAIN.fullmatch(name):
            raise BadArtifact(
                f"{root}: {name!a} has odd characters in its name: not A-Z a-z 0-9 . _ @ + = , -; {_AGAIN}"
            )
        if entry.is_symlink():
            raise BadArtifact(f"{root}: {name} is a link; a version holds files alone; {_AGAIN}")
        if entry.is_dir():
            yield from _walk(Path(entry.path), root)
        elif entry.is_file():
            yield name
        else:
            raise BadArtifact(f"{root}: {name} is neither a file nor a folder; {_AGAIN}")


def _digest(folder: Path, name: str) -> str:
    try:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadArtifact(f"{folder}: {name} cannot be read: {error.strerror}") from error


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise BadArtifact(f"{folder}: {name} cannot be read: {error.strerror}") from error


def _check_key(key: Path) -> None:
    """Refuse what is no public key before anything is read."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        raise BadRequest(f"a signature needs model-signing, which is not installed here; run {INSTALL}") from error
    try:
        text = key.read_bytes()
    except OSError as error:
        raise BadRequest(f"key {key} cannot be read: {error.strerror}; name the public key, a PEM file") from error
    if _PRIVATE.search(text):
        raise BadRequest(
            f"key {key} is a private key, which signs; verifying needs its public half alone: "
            f"openssl ec -in {key} -pubout -out {key}.pub"
        )
    try:
        load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadRequest(f"key {key} is no public key in PEM; make one with openssl ec -in KEY -pubout") from error


def _verify_signature(folder: Path, *, key: Path) -> None:
    if not (folder / SIGNATURE).is_file():
        raise BadArtifact(f"{folder} is not signed: it has no {SIGNATURE}; verify it without a key, or sign it")
    try:
        from cryptography.exceptions import InvalidSignature
        from model_signing import hashing, verifying
    except ImportError as error:
        raise BadRequest(f"a signature needs model-signing, which is not installed here; run {INSTALL}") from error
    told = hashing.Config().set_ignored_paths(paths=(SIGNATURE, MLFLOW_NOTE), ignore_git_paths=False)  # type: ignore[no-untyped-call]
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)  # type: ignore[no-untyped-call]
    except (ValueError, AttributeError) as error:  # AttributeError: of another family, such as RSA
        raise BadRequest(f"key {key} is on no curve that signs models (P-256, P-384, P-521)") from error
    try:
        verifier.set_hashing_config(told).verify(folder, folder / SIGNATURE)
        covered = _covered(folder / SIGNATURE)
    except (InvalidSignature, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        reason = " ".join(str(error).split()) or "it is another key's, or was altered"
        raise BadArtifact(f"{folder}: {SIGNATURE} does not fit these files and {key}: {reason[:300]}") from error
    if left_out := sorted({*_names(folder)} - {SIGNATURE, MLFLOW_NOTE} - covered):
        raise BadArtifact(f"{folder}: {SIGNATURE} leaves out {left_out[0]}; sign the whole folder")


def _covered(signature: Path) -> set[str]:
    """The files that a signature is over; it may say itself that some are passed over."""
    envelope = json.loads(signature.read_bytes())["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    return {str(each["name"]) for each in statement["predicate"]["resources"]}
