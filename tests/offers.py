"""Small versions to register, and what a registry must show of them afterwards, asked with MLflow's own client."""

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fakes import tiny_bundle
from registries import Registry

from pipeline.tracking.registering import KEY_TAG, Offer
from serving.bundle import read_bundle
from serving.registry import DIGEST_TAG
from serving.signatures import FILES, FILES_TAG, MLFLOW_NOTE, files_listing

MLMODEL = "flavors:\n  python_function:\n    loader_module: serving.pyfunc\n    data: bundle\n"


def version_folder(path: Path, *, bias: float = 0.0) -> Path:
    """A tiny bundle as a version's folder; another `bias` is another model."""
    bundle = tiny_bundle(path / "bundle", bias=bias)
    (bundle.path / "receipts").mkdir()
    (bundle.path / "receipts" / "latency@here.json").write_text('{"p95_ms": 1.5}')
    (path / "MLmodel").write_text(MLMODEL)
    (path / FILES).write_text(files_listing(path))
    return path


def offer_of(folder: Path, *, name: str, key: str = "register-1") -> Offer:
    """What the register stage would offer of that folder, to an experiment called as the model is."""
    tags = {
        DIGEST_TAG: read_bundle(folder / "bundle").digest,
        FILES_TAG: hashlib.sha256((folder / FILES).read_bytes()).hexdigest(),
        "retort.verdict": "PASS",
    }
    return Offer(name=name, key=key, folder=folder, tags=tags, experiment=name, run_id=None, description="A tiny one.")


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file's content by its path, without MLflow's own note."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != MLFLOW_NOTE)
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def client_of(registry: Registry) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=registry.uri, registry_uri=registry.uri)


def versions_in(registry: Registry, name: str) -> list[Any]:
    """MLflow's own versions of a model, the oldest first; none where there is no such model."""
    found = client_of(registry).search_model_versions(f"name='{name}'", max_results=1000)
    return sorted(found, key=lambda version: int(version.version))


def model_id_of(version: Any) -> str:
    """The LoggedModel that a version is made of; MLflow's own field for it is empty in what a search finds."""
    return str(version.source.removeprefix("models:/"))


def faults_in(registry: Registry, offer: Offer) -> list[str]:
    """What is incomplete about any version of that key, each fault in words."""
    found = [version for version in versions_in(registry, offer.name) if version.tags.get(KEY_TAG) == offer.key]
    return [fault for version in found for fault in _faults_of(version, registry, offer)]


def _faults_of(version: Any, registry: Registry, offer: Offer) -> Iterator[str]:
    if missing := {name for name, value in offer.tags.items() if version.tags.get(name) != value}:
        yield f"version {version.version} lacks {sorted(missing)}"
    if version.status != "READY":
        yield f"version {version.version} is {version.status}"
    model = client_of(registry).get_logged_model(model_id_of(version))
    if str(model.status) != "READY":
        yield f"the model of version {version.version} is {model.status}"
    if _fetched(model.artifact_location, registry) != bytes_of(offer.folder):
        yield f"version {version.version} has other files than were offered"


def _fetched(location: str, registry: Registry) -> dict[str, bytes]:
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory() as folder:
        return bytes_of(Path(download_artifacts(location, dst_path=folder, tracking_uri=registry.uri)))


def leftovers_in(registry: Registry, offer: Offer) -> list[str]:
    """Logged models, and files of such, that no version is made of."""
    from mlflow.artifacts import list_artifacts

    client = client_of(registry)
    experiment = client.get_experiment_by_name(offer.experiment)
    if experiment is None:
        return []
    used = {model_id_of(version) for version in versions_in(registry, offer.name)}
    models = client.search_logged_models([experiment.experiment_id])
    found = list_artifacts(f"{experiment.artifact_location}/models", tracking_uri=registry.uri)
    folders = {Path(folder.path).name for folder in found}
    assert used <= folders, "the files are looked for in the wrong place"
    return [
        *(f"{model.model_id} is left, {model.status}" for model in models if model.model_id not in used),
        *(f"files of {folder} are left" for folder in sorted(folders - used)),
    ]
