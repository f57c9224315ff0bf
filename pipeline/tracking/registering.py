"""MLflow, the offline half: runs, artifacts, versions, aliases. The only file of the pipeline that talks to a
registry."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import BadRequest, Transient

REACH_TIMEOUT_S = 5.0
MAX_PARAM_CHARACTERS = 500
PARAMS_A_BATCH = 100
METRICS_A_BATCH = 1000
KEY_TAG = "retort.key"


@dataclass(frozen=True)
class Curve:
    """Metrics over steps: rows with `step` and named values."""

    name: str
    rows: Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Evidence:
    """What a registered version carries: files by their folder in the run, parameters, metrics, curves and tags."""

    folders: Mapping[str, Path]
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    curves: Sequence[Curve]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Registered:
    """A version in the registry."""

    name: str
    version: str
    alias: str
    run_id: str
    tracking_uri: str

    @property
    def model_uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


def default_uri(workspace: Path) -> str:
    """The embedded default: a sqlite file in the workspace."""
    return f"sqlite:///{workspace / 'mlflow.db'}"


def register(
    evidence: Evidence, *, uri: str, workspace: Path, experiment: str, name: str, alias: str, key: str
) -> Registered:
    """Log the evidence, create one version of `name` from the folder `bundle` of it, and point `alias` there.

    The bundle's own bytes are logged as plain files: nothing is serialised again. A version of the same key is not
    created twice, so a run killed in the middle finishes what it began. Raises Transient when the registry cannot be
    reached, BadRequest when it refuses the name or the request.
    """
    with talking_to(uri) as client:
        version = _version_of(client, name, key)
        if version is None:
            _create_model(client, name)  # first: a name it refuses must not cost an upload
            run_id = _log(client, evidence, uri=uri, workspace=workspace, experiment=experiment, key=key)
            source = f"{client.get_run(run_id).info.artifact_uri}/bundle"
            version = client.create_model_version(
                name, source=source, run_id=run_id, tags={**evidence.tags, KEY_TAG: key}, await_creation_for=0
            )
        client.set_registered_model_alias(name, alias, str(version.version))
        return Registered(name=name, version=str(version.version), alias=alias, run_id=version.run_id, tracking_uri=uri)


@contextmanager
def talking_to(uri: str) -> Iterator[Any]:
    """An MLflow client whose failures are one message each."""
    _require_reachable(uri)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own deprecations are not the user's affair
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        for name in ("alembic", "mlflow"):  # now, as MLflow sets its own levels when it is imported
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield MlflowClient(tracking_uri=uri, registry_uri=uri)
        except ImportError as error:
            raise BadRequest(f"the registry {uri} needs a driver that is not installed: {error}") from error
        except (MlflowException, SQLAlchemyError) as error:
            reason = str(error).splitlines()[0]
            if isinstance(error, MlflowException) and error.get_http_status_code() < 500:
                raise BadRequest(f"the registry {uri} refused: {reason}") from error
            raise Transient(f"the registry {uri} failed: {reason}; run again, finished work is kept") from error


def _require_reachable(uri: str) -> None:
    """Ask once with a short timeout: MLflow's own client would retry for minutes before it says anything."""
    if not uri.startswith(("http://", "https://")):
        return
    import httpx

    try:
        httpx.get(f"{uri.rstrip('/')}/health", timeout=REACH_TIMEOUT_S).raise_for_status()
    except httpx.HTTPError as error:
        raise Transient(
            f"the MLflow server {uri} cannot be reached ({type(error).__name__}); start it or set "
            "register.tracking_uri, then run again: finished stages are kept"
        ) from error


def _log(client: Any, evidence: Evidence, *, uri: str, workspace: Path, experiment: str, key: str) -> str:
    from mlflow.entities import Metric, Param

    experiment_id = _experiment_id(client, experiment, uri=uri, workspace=workspace)
    run = client.create_run(experiment_id, run_name=experiment, tags={**evidence.tags, KEY_TAG: key})
    run_id = str(run.info.run_id)
    params = [Param(name, str(value)[:MAX_PARAM_CHARACTERS]) for name, value in flattened(evidence.params).items()]
    for start in range(0, len(params), PARAMS_A_BATCH):
        client.log_batch(run_id, params=params[start : start + PARAMS_A_BATCH])
    metrics = [Metric(name, value, 0, 0) for name, value in evidence.metrics.items()]
    metrics += [
        Metric(f"{curve.name}/{name}", value, 0, int(row["step"]))
        for curve in evidence.curves
        for row in curve.rows
        for name, value in row.items()
        if name != "step"
    ]
    for start in range(0, len(metrics), METRICS_A_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_A_BATCH])
    for artifact_path, folder in evidence.folders.items():
        client.log_artifacts(run_id, str(folder), artifact_path)
    client.set_terminated(run_id)
    return run_id


def _experiment_id(client: Any, name: str, *, uri: str, workspace: Path) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    local = uri.startswith("sqlite:")
    location = (workspace / "mlartifacts" / name).as_uri() if local else None
    return str(client.create_experiment(name, artifact_location=location))


def _create_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version_of(client: Any, name: str, key: str) -> Any:
    """The version this very step created before, if it did."""
    versions = client.search_model_versions(f"name='{name}'")
    return next((version for version in versions if version.tags.get(KEY_TAG) == key), None)


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
