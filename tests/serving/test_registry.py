"""Against a real MLflow sqlite store; its migration takes seconds, so one store is shared."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fakes import tiny_bundle

from serving.bundle import Bundle
from serving.errors import BadArtifact, BadRequest, Failure, Transient
from serving.registry import Resolved, find_version, is_followed, resolve

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Raised inside MLflow's own models of its tables.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
]


@dataclass(frozen=True)
class Store:
    """A registry with a model "m": version 1 (alias champion), version 2 (not Retort's), version 3 (another digest),
    version 4 (its files are gone)."""

    uri: str
    client: "MlflowClient"
    bundle: Bundle


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    from mlflow import MlflowClient

    root = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{root / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    bundle = tiny_bundle(root / "bundle")
    experiment = client.create_experiment("e", artifact_location=(root / "artifacts").as_uri())
    run = client.create_run(experiment)
    for folder in ("bundle", "lost"):
        client.log_artifacts(run.info.run_id, str(bundle.path), folder)
    client.create_registered_model("m")
    source = f"{run.info.artifact_uri}/bundle"
    tags = {"retort.digest": bundle.digest}
    client.create_model_version("m", source, run.info.run_id, tags=tags)
    client.create_model_version("m", source, run.info.run_id)
    client.create_model_version("m", source, run.info.run_id, tags={"retort.digest": "0" * 64})
    client.create_model_version("m", f"{run.info.artifact_uri}/lost", run.info.run_id, tags=tags)
    shutil.rmtree(root / "artifacts" / run.info.run_id / "artifacts" / "lost")
    client.set_registered_model_alias("m", "champion", "1")
    client.set_registered_model_alias("m", "challenger", "2")
    return Store(uri=uri, client=client, bundle=bundle)


def refusal(kind: type[Failure], source: str, *, tracking_uri: str | None, cache: Path) -> str:
    with pytest.raises(kind) as refused:
        resolve(source, tracking_uri=tracking_uri, cache=cache)
    return str(refused.value)


@pytest.mark.parametrize("source", ["models:/m@champion", "models:/m/1"])
def test_an_alias_or_version_becomes_a_verified_folder(store: Store, tmp_path: Path, source: str) -> None:
    resolved = resolve(source, tracking_uri=store.uri, cache=tmp_path)
    path = tmp_path / "m" / f"1-{store.bundle.digest[:16]}"
    assert resolved == Resolved(path=path, name="m", version="1", digest=store.bundle.digest)
    assert (path / "model.onnx").read_bytes() == (store.bundle.path / "model.onnx").read_bytes()
    assert [entry.name for entry in (tmp_path / "m").iterdir()] == [path.name]


def test_a_version_in_the_cache_is_not_fetched_again(store: Store, tmp_path: Path) -> None:
    path = resolve("models:/m/1", tracking_uri=store.uri, cache=tmp_path).path
    before = (path / "model.onnx").stat().st_ino
    resolve("models:/m/1", tracking_uri=store.uri, cache=tmp_path)
    assert (path / "model.onnx").stat().st_ino == before


def test_a_damaged_version_in_the_cache_is_fetched_again(store: Store, tmp_path: Path) -> None:
    path = resolve("models:/m/1", tracking_uri=store.uri, cache=tmp_path).path
    (path / "model.onnx").write_bytes(b"half")
    assert resolve("models:/m/1", tracking_uri=store.uri, cache=tmp_path).path == path
    assert (path / "model.onnx").read_bytes() == (store.bundle.path / "model.onnx").read_bytes()


def test_an_alias_names_its_version(store: Store) -> None:
    assert find_version("models:/m@challenger", tracking_uri=store.uri) == "2"


def test_an_unknown_alias_is_told_which_there_are(store: Store, tmp_path: Path) -> None:
    told = refusal(BadRequest, "models:/m@winner", tracking_uri=store.uri, cache=tmp_path)
    assert told == "model m has no alias winner; it has: challenger, champion"


@pytest.mark.parametrize("source", ["models:/nobody@champion", "models:/nobody/1", "models:/m/77"])
def test_an_unknown_name_or_version_is_a_bad_request(store: Store, tmp_path: Path, source: str) -> None:
    told = refusal(BadRequest, source, tracking_uri=store.uri, cache=tmp_path)
    assert told.startswith(f"registry {store.uri}: ")
    assert "not found" in told


def test_a_version_that_retort_did_not_register_is_refused(store: Store, tmp_path: Path) -> None:
    told = refusal(BadArtifact, "models:/m@challenger", tracking_uri=store.uri, cache=tmp_path)
    assert told == (
        "model m version 2 has no tag retort.digest: Retort did not register it, so nothing says what its files must "
        "be; register it with `retort run`"
    )


def test_files_with_another_digest_than_registered_are_refused_and_not_kept(store: Store, tmp_path: Path) -> None:
    told = refusal(BadArtifact, "models:/m/3", tracking_uri=store.uri, cache=tmp_path)
    assert told.endswith(f"/bundle is {store.bundle.digest[:12]}, not the 000000000000 registered; register it again")
    assert list((tmp_path / "m").iterdir()) == []


def test_a_version_whose_files_are_gone_is_a_failure_with_a_message(store: Store, tmp_path: Path) -> None:
    told = refusal(BadArtifact, "models:/m/4", tracking_uri=store.uri, cache=tmp_path)
    assert "/lost does not hold the registered files: " in told
    assert "No such artifact: 'lost'" in told
    assert list((tmp_path / "m").iterdir()) == []


def test_a_cache_that_cannot_be_made_is_a_bad_request(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = refusal(BadRequest, "models:/m/1", tracking_uri=store.uri, cache=tmp_path / "file")
    assert told == f"{tmp_path / 'file' / 'm'} cannot be written; choose another with --cache"


def test_a_full_disk_is_transient(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    told = refusal(Transient, "models:/m/1", tracking_uri=store.uri, cache=tmp_path)
    assert told == f"no space left for the model in {tmp_path / 'm'}; free some or use another --cache"


def test_a_registry_nobody_answers_for_is_transient_and_named_without_its_password(tmp_path: Path) -> None:
    asking = (
        "import sys; from pathlib import Path\n"
        "from serving.errors import Transient; from serving.registry import resolve\n"
        "try: resolve('models:/m@a', tracking_uri='http://user:secret@127.0.0.1:1', cache=Path(sys.argv[1]))\n"
        "except Transient as away: print(away)"
    )
    environment = os.environ | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-c", asking, str(tmp_path)]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
    assert told.startswith("registry http://127.0.0.1:1 is not available: ")
    assert told.endswith("; try again\n")
    assert "secret" not in told


def test_a_registry_file_that_does_not_exist_is_not_created(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'none.db'}"
    told = refusal(BadRequest, "models:/m@champion", tracking_uri=uri, cache=tmp_path)
    assert told == f"there is no registry at {uri}; name a file that `retort run` made"
    assert list(tmp_path.iterdir()) == []


def test_a_registered_source_needs_a_registry(tmp_path: Path) -> None:
    told = refusal(BadRequest, "models:/m@champion", tracking_uri=None, cache=tmp_path)
    assert told == "a models:/ source needs a registry; say where with --tracking-uri, e.g. sqlite:///mlflow.db"


@pytest.mark.parametrize(
    "source", ["models:/", "models:/m", "models:/m@", "models:/m/last", "models:m@a", "models:/a/b@c"]
)
def test_a_source_that_names_no_version_is_refused(tmp_path: Path, source: str) -> None:
    told = refusal(BadRequest, source, tracking_uri="http://unused", cache=tmp_path)
    assert told == f"{source} names no model; write models:/NAME@ALIAS or models:/NAME/VERSION"


def test_a_folder_needs_no_registry(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    resolved = resolve(str(bundle.path), tracking_uri=None, cache=tmp_path)
    assert resolved == Resolved(path=bundle.path, name="tiny", version="local", digest=bundle.digest)


def test_a_folder_that_does_not_exist_is_a_bad_request(tmp_path: Path) -> None:
    told = refusal(BadRequest, str(tmp_path / "none"), tracking_uri=None, cache=tmp_path)
    way_out = "name a bundle folder, models:/NAME@ALIAS or models:/NAME/VERSION"
    assert told == f"{tmp_path / 'none'} is no folder; {way_out}"


def test_only_an_alias_is_followed() -> None:
    sources = ("models:/m@champion", "models:/m/1", "/a/folder@home")
    assert [is_followed(source) for source in sources] == [True, False, False]
