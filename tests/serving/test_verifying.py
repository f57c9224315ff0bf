"""Whether a folder holds the version that was registered."""

import hashlib
from pathlib import Path

import pytest
from offers import version_folder

from serving.bundle import read_bundle
from serving.errors import BadArtifact
from serving.verifying import verify_version

WHAT = "version 3 of m"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return version_folder(tmp_path / "version")


def files_of(folder: Path) -> str:
    return hashlib.sha256((folder / "files.sha256").read_bytes()).hexdigest()


def refusal(folder: Path, *, files: str | None, digest: str, key: Path | None = None) -> str:
    with pytest.raises(BadArtifact) as refused:
        verify_version(folder, files=files, digest=digest, key=key, called=WHAT)
    assert str(folder) not in str(refused.value)
    return str(refused.value)


def test_a_version_as_registered_is_good_and_its_bundle_is_found(folder: Path) -> None:
    digest = read_bundle(folder / "bundle").digest
    assert verify_version(folder, files=files_of(folder), digest=digest, key=None, called=WHAT) == folder / "bundle"


def test_of_an_older_retort_the_folder_is_the_bundle(folder: Path) -> None:
    bundle = folder / "bundle"
    assert verify_version(bundle, files=None, digest=read_bundle(bundle).digest, key=None, called=WHAT) == bundle


def test_an_altered_file_is_told_without_the_folder_s_own_name(folder: Path) -> None:
    files, digest = files_of(folder), read_bundle(folder / "bundle").digest
    (folder / "MLmodel").write_text("another")
    assert refusal(folder, files=files, digest=digest) == (
        f"{WHAT}: MLmodel is not as files.sha256 lists it: it was altered; fetch the version again, or register it "
        "again"
    )


def test_a_bundle_that_cannot_be_read_is_told_without_the_folder_s_own_name(folder: Path) -> None:
    (folder / "bundle" / "serving.yaml").unlink()
    assert refusal(folder / "bundle", files=None, digest="0" * 64).startswith(WHAT)


def test_another_bundle_than_registered_is_told(folder: Path) -> None:
    found = read_bundle(folder / "bundle").digest[:12]
    assert refusal(folder, files=files_of(folder), digest="0" * 64) == (
        f"{WHAT}: its bundle is {found}, not the 000000000000 registered; register it again"
    )


def test_what_an_older_retort_registered_is_not_signed(folder: Path, tmp_path: Path) -> None:
    assert refusal(folder / "bundle", files=None, digest="0" * 64, key=tmp_path / "key.pem") == (
        f"{WHAT} was registered by an older Retort, which signed nothing; go on without a key, or register it again"
    )
