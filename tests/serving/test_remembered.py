import os
from pathlib import Path
from typing import Any

import pytest
from fakes import tiny_bundle
from offers import version_folder
from registries import or_absent, small_disk

from serving.bundle import read_bundle
from serving.registry import Resolved, version_place
from serving.remembered import noted, recall, remember
from serving.signatures import files_listing

SOURCE, URI = "models:/m@champion", "http://user:secret@registry"


def kept(cache: Path, *, version: str = "3") -> Resolved:
    """A version of an older Retort, whose folder is the bundle, in the cache."""
    bundle = tiny_bundle(cache / "made")
    place = version_place(cache, name="m", version=version, digest=bundle.digest)
    place.parent.mkdir(exist_ok=True)
    bundle.path.rename(place)
    return Resolved(place, "m", version, bundle.digest)


def recalled(cache: Path, **options: Any) -> Resolved | None:
    return recall(**{"source": SOURCE, "tracking_uri": URI, "cache": cache, "key": None, **options})


def test_what_answered_last_is_known_after_a_restart(tmp_path: Path) -> None:
    resolved = kept(tmp_path)
    assert recalled(tmp_path) is None
    remember(resolved, source=SOURCE, tracking_uri=URI, cache=tmp_path)
    assert recalled(tmp_path) == resolved
    assert [path.name for path in (tmp_path / "m").iterdir() if path.is_file()] == ["champion.alias"]


def test_a_whole_version_is_verified_by_its_list_of_files(tmp_path: Path) -> None:
    import hashlib

    made = version_folder(tmp_path / "made")
    files = hashlib.sha256(files_listing(made).encode()).hexdigest()
    digest = read_bundle(made / "bundle").digest
    place = version_place(tmp_path, name="m", version="3", digest=digest)
    place.parent.mkdir()
    made.rename(place)
    remember(Resolved(place / "bundle", "m", "3", digest, files), source=SOURCE, tracking_uri=URI, cache=tmp_path)
    found = recalled(tmp_path)
    assert found is not None
    assert (found.path, found.files) == (place / "bundle", files)

    (place / "MLmodel").write_text("another")
    assert recalled(tmp_path) is None


def test_the_folders_of_what_answered_last_are_known_whichever_the_alias(tmp_path: Path) -> None:
    resolved = kept(tmp_path)
    assert noted("m", cache=tmp_path) == []
    for alias in ("champion", "challenger"):
        remember(resolved, source=f"models:/m@{alias}", tracking_uri=URI, cache=tmp_path)
    assert noted("m", cache=tmp_path) == [resolved.path] * 2
    (tmp_path / "m" / "champion.alias").write_bytes(b'{"more": 1}')
    assert noted("m", cache=tmp_path) is None


def test_no_password_is_written_and_a_new_one_is_the_same_registry(tmp_path: Path) -> None:
    remember(kept(tmp_path), source=SOURCE, tracking_uri=URI, cache=tmp_path)
    assert b"secret" not in (tmp_path / "m" / "champion.alias").read_bytes()
    assert recalled(tmp_path, tracking_uri="http://user:changed@registry") is not None


@pytest.mark.parametrize(
    "asked", [{"tracking_uri": "http://another"}, {"source": "models:/m@challenger"}, {"source": "models:/n@champion"}]
)
def test_another_registry_alias_or_model_is_not_known(tmp_path: Path, asked: dict[str, str]) -> None:
    remember(kept(tmp_path), source=SOURCE, tracking_uri=URI, cache=tmp_path)
    assert recalled(tmp_path, **asked) is None


@pytest.mark.parametrize("note", [b"", b"{", b'{"version": 3}', b"\xff", b'{"more": 1}'])
def test_a_note_that_cannot_be_read_is_passed_over(
    tmp_path: Path, note: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    remember(kept(tmp_path), source=SOURCE, tracking_uri=URI, cache=tmp_path)
    path = tmp_path / "m" / "champion.alias"
    path.write_bytes(note)
    assert recalled(tmp_path) is None
    (told,) = caplog.messages
    assert told.startswith(f"{path} cannot be read and is passed over: ")


def test_a_version_that_was_altered_on_disk_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    resolved = kept(tmp_path)
    remember(resolved, source=SOURCE, tracking_uri=URI, cache=tmp_path)
    (resolved.path / "model.onnx").write_bytes(b"half")
    assert recalled(tmp_path) is None
    assert caplog.messages == [
        f"version 3 of the cache is passed over: {resolved.path}: model.onnx was altered after it was sealed; fetch or "
        "export the bundle again"
    ]


def test_with_a_key_an_unsigned_version_is_passed_over(tmp_path: Path) -> None:
    remember(kept(tmp_path), source=SOURCE, tracking_uri=URI, cache=tmp_path)
    assert recalled(tmp_path, key=tmp_path / "key.pem") is None


def test_a_note_that_finds_no_room_costs_the_note_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    resolved = kept(tmp_path)
    with or_absent(), small_disk(tmp_path / "small", size_kib=64):
        (tmp_path / "small" / "m").mkdir()
        (tmp_path / "small" / "ballast").write_bytes(bytes(os.statvfs(tmp_path / "small").f_bavail * 4096))
        remember(resolved, source=SOURCE, tracking_uri=URI, cache=tmp_path / "small")
        assert list((tmp_path / "small" / "m").iterdir()) == []
    path = tmp_path / "small" / "m" / "champion.alias"
    assert caplog.messages == [
        f"{path} cannot be written (No space left on device): a restart without the registry will not know this version"
    ]
