"""Whether a folder holds the version that was registered: every file as listed, the bundle as measured."""

from pathlib import Path
from typing import Final

from serving.bundle import read_bundle
from serving.errors import BadArtifact
from serving.signatures import verify_folder

BUNDLE: Final = "bundle"  # in a version's folder


def verify_version(folder: Path, *, files: str | None, digest: str, key: Path | None, called: str) -> Path:
    """Check a folder against what the registry says: the digest of its list of files, None where an older Retort
    registered the bundle alone, and its bundle's digest; with a public `key` also that its owner signed it.

    A fault says `called` for the folder, which may be a temporary one. Returns the bundle's folder.

    Raises:
        BadArtifact: names the first fault.
        BadRequest: the key cannot be used.
    """
    bundle = folder / BUNDLE if files else folder
    if key is not None and not files:
        raise BadArtifact(
            f"{called} was registered by an older Retort, which signed nothing; go on without a key, or register it "
            "again"
        )
    try:
        if files:
            verify_folder(folder, files_digest=files, key=key)
        actual = read_bundle(bundle).digest
    except BadArtifact as fault:
        raise BadArtifact(str(fault).replace(str(folder), called)) from fault
    if actual != digest:
        raise BadArtifact(f"{called}: its bundle is {actual[:12]}, not the {digest[:12]} registered; register it again")
    return bundle
