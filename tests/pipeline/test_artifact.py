"""An artifact is whole, or it is refused with one message that says which file and what to do."""

import errno
import json
from pathlib import Path

import msgspec
import pytest
from fakes import manifest_of

from pipeline.artifact import (
    MANIFEST,
    Artifact,
    read_artifact,
    sealed_files,
    tree_digest,
    verify,
    write_json,
)
from pipeline.errors import BadArtifact

FILES = {"model.bin": b"weights", "sub/vocab.txt": b"a b c", "evidence/curve.jsonl": b"{}"}


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def digest_of(folder: Path) -> str:
    return tree_digest(sealed_files(folder))


@pytest.fixture
def sealed(tmp_path: Path) -> Artifact:
    folder = lay(tmp_path / "distill-1", FILES)
    files = sealed_files(folder)
    manifest = manifest_of(
        "distill-1", files, label="distill", inputs={"teacher": "t"}, config={"seed": 0}, facts={"parameters": 3}
    )
    write_json(folder / MANIFEST, manifest)
    return read_artifact(folder)


def test_what_was_sealed_reads_back_and_verifies(sealed: Artifact) -> None:
    verify(sealed)
    assert sealed.manifest.facts == {"parameters": 3}
    assert sealed.manifest.files["model.bin"].size_bytes == 7
    assert sealed.digest == digest_of(sealed.path)
    assert MANIFEST not in sealed.manifest.files


def test_the_digest_is_the_same_wherever_the_files_lie(tmp_path: Path) -> None:
    assert digest_of(lay(tmp_path / "a", FILES)) == digest_of(lay(tmp_path / "b", dict(reversed(FILES.items()))))


@pytest.mark.parametrize(
    "changed",
    [
        {"model.bin": b"WEIGHTS", "sub/vocab.txt": b"a b c"},
        {"model2.bin": b"weights", "sub/vocab.txt": b"a b c"},
        {"model.bin": b"weights", "vocab.txt": b"a b c"},
        {"model.bin": b"a b c", "sub/vocab.txt": b"weights"},
        {"model.bin": b"weights"},
        {"model.bin": b"weights", "sub/vocab.txt": b"a b c", "more": b""},
        {"model.bin": b"weights", "sub/vocab.txt": b"a b c", "evidence.txt": b""},
    ],
)
def test_the_digest_covers_contents_and_names(tmp_path: Path, changed: dict[str, bytes]) -> None:
    assert digest_of(lay(tmp_path / "a", FILES)) != digest_of(lay(tmp_path / "b", changed))


def test_evidence_does_not_change_the_digest(tmp_path: Path) -> None:
    before = digest_of(lay(tmp_path / "a", FILES))
    assert digest_of(lay(tmp_path / "a", {"evidence/curve.jsonl": b"other", "evidence/more/log": b"1"})) == before


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda path: (path / "model.bin").write_bytes(b"Weights"), "model.bin was altered after it was sealed"),
        (lambda path: (path / "model.bin").unlink(), "model.bin is missing"),
        (lambda path: (path / "late.txt").touch(), "late.txt was not there when it was sealed"),
        (lambda path: (path / "sub" / "vocab.txt").write_bytes(b""), "sub/vocab.txt was altered after it was sealed"),
        (
            lambda path: (path / "evidence" / "curve.jsonl").write_bytes(b"[]"),
            "evidence/curve.jsonl was altered after it was sealed",
        ),
        (lambda path: (path / "evidence" / "curve.jsonl").unlink(), "evidence/curve.jsonl is missing"),
    ],
)
def test_a_tampered_artifact_is_refused_with_the_file_and_the_way_out(sealed: Artifact, damage, fault: str) -> None:
    damage(sealed.path)
    with pytest.raises(BadArtifact) as refused:
        verify(sealed)
    assert str(refused.value) == (f"artifact distill-1: {fault}; remove {sealed.path} and run again to rebuild it")
    assert refused.value.exit_code == 65


def test_a_folder_without_a_manifest_is_no_artifact(sealed: Artifact) -> None:
    (sealed.path / MANIFEST).unlink()
    with pytest.raises(BadArtifact) as refused:
        read_artifact(sealed.path)
    assert str(refused.value) == (
        f"{sealed.path} is not a finished artifact: it has no manifest.json; remove {sealed.path} and run again"
    )


@pytest.mark.parametrize("keep", [0, 1, 100, -3])
def test_a_truncated_manifest_is_refused(sealed: Artifact, keep: int) -> None:
    content = (sealed.path / MANIFEST).read_bytes()
    (sealed.path / MANIFEST).write_bytes(content[:keep])
    with pytest.raises(BadArtifact, match="Input data was truncated") as refused:
        read_artifact(sealed.path)
    message = str(refused.value)
    assert message.startswith(f"{sealed.path / MANIFEST} cannot be read (")
    assert message.endswith(f"; remove {sealed.path} and run again")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seconds": "long"}, "Expected `float`, got `str` - at `$.seconds`"),
        ({"surprise": 1}, "Object contains unknown field `surprise`"),
    ],
)
def test_a_manifest_of_another_form_is_refused(sealed: Artifact, change: dict[str, object], reason: str) -> None:
    values = json.loads((sealed.path / MANIFEST).read_text()) | change
    (sealed.path / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(BadArtifact) as refused:
        read_artifact(sealed.path)
    assert str(refused.value) == (
        f"{sealed.path / MANIFEST} cannot be read ({reason}); remove {sealed.path} and run again"
    )


def test_json_is_replaced_whole_and_a_failed_write_leaves_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "new" / "a.json"
    write_json(path, {"a": 1})
    with monkeypatch.context() as disk:
        disk.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_json(path, {"a": 2})
    assert msgspec.json.decode(path.read_bytes()) == {"a": 1}
    write_json(path, {"a": 2})
    assert path.read_text() == '{\n  "a": 2\n}\n'
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.json"]
