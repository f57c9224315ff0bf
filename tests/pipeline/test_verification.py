"""`retort verify` of a run, of an artifact's, a bundle's and a version's folder, and of what is none of these."""

from pathlib import Path

import pytest
import yaml
from fakes import manifest_of, tiny_bundle
from keys_in_pem import key_pair
from offers import version_folder
from written import WRITTEN

from pipeline.artifact import Artifact, sealed_files
from pipeline.config import RunConfig
from pipeline.errors import BadArtifact, BadRequest
from pipeline.signing import sign
from pipeline.verification import verify_target
from pipeline.workspace import Workspace
from serving.bundle import read_bundle


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "w")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(WRITTEN))
    return path


def sealed(place: Workspace, key: str) -> Artifact:
    out = place.store.partial(key)
    (out / "weights").write_text(key)
    files = sealed_files(out)
    manifest = manifest_of(key, files)
    return place.store.publish(key, manifest)


def record(place: Workspace, **steps: str) -> None:
    config = RunConfig.model_validate(WRITTEN).model_dump(mode="json")
    place.record("a-run", config=config, steps={label: {"key": key} for label, key in steps.items()})


def test_every_artifact_of_a_run_is_read(place: Workspace, config: Path) -> None:
    first, second = sealed(place, "one"), sealed(place, "two")
    record(place, distill="one", export="two")
    assert list(verify_target(config, (), place)) == [f"distill {first.digest}", f"export {second.digest}"]


def test_the_first_artifact_of_a_run_that_is_not_whole_is_named(place: Workspace, config: Path) -> None:
    sealed(place, "one")
    path = sealed(place, "two").path
    record(place, distill="one", export="two")
    (path / "weights").unlink()
    with pytest.raises(BadArtifact) as refused:
        list(verify_target(config, (), place))
    assert str(refused.value) == f"artifact two: weights is missing; remove {path} and run again to rebuild it"


def test_settings_choose_the_run(place: Workspace, config: Path) -> None:
    with pytest.raises(BadArtifact) as refused:
        list(verify_target(config, ["name=other"], place))
    assert str(refused.value) == f"nothing of the run 'other' is in {place.root}; `retort run` makes it"


def test_an_artifact_folder_is_read_wherever_it_lies(place: Workspace) -> None:
    artifact = sealed(place, "one")
    moved = artifact.path.rename(place.root / "copy")
    assert list(verify_target(moved, (), place)) == [f"{moved} {artifact.digest}"]


def test_a_bundle_folder_is_read_by_its_own_contract(place: Workspace, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    assert list(verify_target(bundle.path, (), place)) == [f"{bundle.path} {bundle.digest}"]
    (bundle.path / "receipts").mkdir()
    (bundle.path / "receipts" / "latency@here.json").write_text("{}")  # comes later and is not of the core
    assert list(verify_target(bundle.path, (), place)) == [f"{bundle.path} {bundle.digest}"]
    (bundle.path / "model.onnx").write_bytes(b"other")
    with pytest.raises(BadArtifact) as refused:
        list(verify_target(bundle.path, (), place))
    assert str(refused.value) == (
        f"{bundle.path}: model.onnx was altered after it was sealed; fetch or export the bundle again"
    )


def test_a_version_s_folder_is_read_whole_and_with_a_key_its_signature_too(place: Workspace, tmp_path: Path) -> None:
    folder, keys = version_folder(tmp_path / "version"), key_pair(tmp_path / "keys")
    told = [f"{folder} {read_bundle(folder / 'bundle').digest}"]
    assert list(verify_target(folder, (), place)) == told
    with pytest.raises(BadArtifact, match=r"is not signed: it has no model\.sig; verify it without a key, or sign it$"):
        list(verify_target(folder, (), place, key=keys.public))
    sign(folder, keys.private)
    assert list(verify_target(folder, (), place, key=keys.public)) == told
    (folder / "MLmodel").write_text("flavors: {}\n")
    with pytest.raises(BadArtifact) as refused:
        list(verify_target(folder, (), place))
    assert str(refused.value) == (
        f"{folder}: MLmodel is not as files.sha256 lists it: it was altered; fetch the version again, or register it "
        "again"
    )


def test_a_key_is_for_what_somebody_signed(place: Workspace, config: Path, tmp_path: Path) -> None:
    for target in (config, sealed(place, "one").path, tiny_bundle(tmp_path / "bundle").path):
        with pytest.raises(BadRequest) as refused:
            list(verify_target(target, (), place, key=tmp_path / "retort.pub"))
        assert str(refused.value) == (
            f"{target} has no files.sha256: only versions are signed, so --key is for their folders and models"
        )


@pytest.mark.parametrize("name", ["empty", "absent"])
def test_anything_else_is_refused_with_what_it_could_have_been(place: Workspace, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadRequest) as refused:
        list(verify_target(tmp_path / name, (), place))
    assert str(refused.value) == (
        f"{tmp_path / name} is neither a config, nor an artifact (manifest.json), nor a bundle (manifest.sha256), nor "
        "a version (files.sha256), nor the name of a model"
    )
    assert refused.value.exit_code == 64
