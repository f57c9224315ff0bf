"""A version's folder, put together from what was earned."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from earned import LABELS, earned_steps, earned_version, facts_in, sources_in
from keys_in_pem import key_pair

from pipeline import version_folder
from pipeline.artifact import Artifact, read_artifact
from pipeline.errors import BadArtifact, BadRequest
from pipeline.evidence import manifests_of
from pipeline.version_folder import build_version
from pipeline.version_records import VersionFacts
from serving.bundle import TaskKind, read_bundle
from serving.signatures import FILES, SIGNATURE, files_listing, verify_folder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")
SECRETS = ("ann", "s3cr3t", "t0ken")


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def made(tmp_path: Path, **options: Any) -> tuple[dict[str, Artifact], VersionFacts]:
    steps = earned_steps(tmp_path / "steps", **options)
    return steps, facts_in(tmp_path, steps)


def build(tmp_path: Path, steps: dict[str, Artifact], facts: VersionFacts, *, key: Path | None = None) -> Path:
    return build_version(tmp_path, bundle=tmp_path / "bundle", manifests=manifests_of(steps), facts=facts, key=key)


def test_it_holds_what_the_layout_says(tmp_path: Path) -> None:
    steps, facts = made(tmp_path)
    folder = build(tmp_path, steps, facts)
    assert folder == tmp_path / "version"
    names = names_in(folder)
    assert {name for name in names if "/" not in name} == {
        *("MLmodel", "requirements.txt", "conda.yaml", "python_env.yaml"),
        *("input_example.json", "serving_input_example.json", "README.md", "sbom.cdx.json", "files.sha256"),
    }
    assert {name for name in names if name.startswith("manifests/")} == {f"manifests/{label}.json" for label in steps}
    assert {name.partition("/")[0] for name in names if "/" in name} == {"bundle", "code", "manifests"}


def test_the_bundle_s_bytes_are_its_own(tmp_path: Path) -> None:
    steps, facts = made(tmp_path)
    folder = build(tmp_path, steps, facts)
    assert read_bundle(folder / "bundle").digest == facts.digest
    for name in names_in(tmp_path / "bundle"):
        assert (folder / "bundle" / name).read_bytes() == (tmp_path / "bundle" / name).read_bytes()
    assert names_in(folder / "bundle") == names_in(tmp_path / "bundle")
    assert "receipts/latency@here.json" in names_in(folder / "bundle")


def test_the_manifests_are_the_steps_own(tmp_path: Path) -> None:
    steps, facts = made(tmp_path)
    folder = build(tmp_path, steps, facts)
    copy = tmp_path / "a-step"
    copy.mkdir()
    shutil.copyfile(folder / "manifests" / "distill.json", copy / "manifest.json")
    assert read_artifact(copy).manifest == steps["distill"].manifest


def test_the_list_is_of_every_other_file_and_can_be_verified(tmp_path: Path) -> None:
    steps, facts = made(tmp_path)
    folder = build(tmp_path, steps, facts)
    assert (folder / FILES).read_text() == files_listing(folder)
    listed = {line.partition("  ")[2] for line in (folder / FILES).read_text().splitlines()}
    assert listed == names_in(folder) - {FILES}
    verify_folder(folder, files_digest=hashlib.sha256((folder / FILES).read_bytes()).hexdigest(), key=None)


def test_with_a_key_it_is_signed_and_without_one_it_is_not(tmp_path: Path) -> None:
    keys = key_pair(tmp_path / "keys")
    steps, facts = made(tmp_path)
    folder = build(tmp_path, steps, facts, key=keys.private)
    verify_folder(folder, files_digest=None, key=keys.public)
    assert not (build(tmp_path, steps, facts) / SIGNATURE).exists()


def test_a_key_that_cannot_sign_is_told_before_anything_is_made(tmp_path: Path) -> None:
    steps, facts = made(tmp_path)
    with pytest.raises(BadRequest, match="is no private key in PEM"):
        build(tmp_path, steps, facts, key=key_pair(tmp_path / "keys").public)
    assert not (tmp_path / "version").exists()


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    found = []
    for place in ("a", "b/c"):
        root = tmp_path / place
        root.mkdir(parents=True)
        steps, facts = made(root)
        found.append((build(root, steps, facts, key=key_pair(root / "keys").private) / FILES).read_text())
    assert found[0] == found[1]


def test_what_a_killed_try_left_gives_way(tmp_path: Path) -> None:
    steps, facts = made(tmp_path)
    (tmp_path / "version" / "bundle").mkdir(parents=True)
    (tmp_path / "version" / "leftover").write_text("half a file")
    folder = build(tmp_path, steps, facts)
    assert "leftover" not in names_in(folder)
    verify_folder(folder, files_digest=None, key=None)


def test_a_link_in_the_bundle_is_refused_and_not_followed(tmp_path: Path) -> None:
    steps, facts = made(tmp_path)
    (tmp_path / "secret").write_text("not for the registry")
    (tmp_path / "bundle" / "receipts" / "more.json").symlink_to(tmp_path / "secret")
    with pytest.raises(BadArtifact, match=r"bundle/receipts/more.json is a link; a version holds files alone"):
        build(tmp_path, steps, facts)


def test_an_altered_bundle_is_refused(tmp_path: Path) -> None:
    steps, facts = made(tmp_path)
    (tmp_path / "bundle" / "model.onnx").write_bytes(b"other")
    with pytest.raises(BadArtifact, match=r"model.onnx was altered after it was sealed"):
        build(tmp_path, steps, facts)


def test_what_an_environment_lacks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, facts = made(tmp_path)
    monkeypatch.setattr(version_folder, "locked_versions", lambda: {"mlflow": "3.17.2"})
    with pytest.raises(BadRequest) as refused:
        build(tmp_path, steps, facts)
    assert str(refused.value) == (
        "requirements/*.txt lock no msgspec, which a version of student-onnx-int8 needs; lock it there"
    )


@pytest.mark.parametrize("task", LABELS)
def test_every_task_makes_a_version(tmp_path: Path, task: TaskKind) -> None:
    folder, _ = earned_version(tmp_path, task=task)
    verify_folder(folder, files_digest=None, key=None)


def test_no_user_password_or_token_of_a_data_url_is_in_any_file(tmp_path: Path) -> None:
    import fsspec

    url = "memory://ann:s3cr3t@bucket/mood/{}.jsonl"
    for split in ("train", "test"):
        with fsspec.open(url.format(split), "w") as file:
            file.write('{"text": "good", "label": "positive"}\n')
    places = {"train": url.format("train"), "dev": None, "test": url.format("test") + "?sig=t0ken"}
    sources = sources_in(tmp_path, format="json", **places)
    with fsspec.open(url.format("test") + "?sig=t0ken", "w") as file:
        file.write("{}\n")
    folder, _ = earned_version(tmp_path, sources=sources)
    assert "memory://bucket/mood" in (folder / "README.md").read_text()
    told = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "code" not in path.parts}
    assert len(told) > 15
    for secret in SECRETS[1:]:
        assert [path for path, content in told.items() if secret.encode() in content] == []
    assert not any(b"ann:" in content or b"ann@" in content for content in told.values())


def test_no_path_of_this_machine_is_in_any_file(tmp_path: Path) -> None:
    folder, _ = earned_version(tmp_path, sources=sources_in(tmp_path), key=key_pair(tmp_path / "keys").private)
    told = {path for path in folder.rglob("*") if path.is_file() and str(tmp_path).encode() in path.read_bytes()}
    assert told == set()
