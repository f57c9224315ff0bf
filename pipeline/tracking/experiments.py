"""The experiment that runs and logged models of a name belong to."""

import shlex
from pathlib import Path
from typing import Any

from pipeline.errors import BadRequest
from serving.reaching import database_kind
from serving.registry_failures import shown


def experiment_id(client: Any, name: str, *, uri: str, workspace: Path) -> str:
    """The experiment's id; it is made where there is none yet.

    Of a registry that is a file of sqlite its artifacts lie in WORKSPACE/mlartifacts/NAME; a server says itself where.

    Raises:
        BadRequest: it was deleted in MLflow, or the registry is a database that other machines may share, and nothing
            says where all of them would find the artifacts.
    """
    found = client.get_experiment_by_name(name) or _created(client, name, uri=uri, workspace=workspace)
    if found.lifecycle_stage != "active":
        raise BadRequest(
            f"the experiment {name} was deleted in the registry {shown(uri)}; restore it with `mlflow experiments "
            f"restore --experiment-id {found.experiment_id}`, or register under another name (register.name)"
        )
    return str(found.experiment_id)


def _created(client: Any, name: str, *, uri: str, workspace: Path) -> Any:
    from mlflow.exceptions import MlflowException

    kind = database_kind(uri)
    if kind not in (None, "sqlite"):
        raise BadRequest(
            f"the registry {shown(uri)} is a database that other machines may share, and has no experiment {name}, "
            "which would say where files go; create it with a place that all of them reach (`mlflow experiments create "
            f"-n {shlex.quote(name)} -l s3://BUCKET/FOLDER`), or name an MLflow server (register.tracking_uri, "
            "--tracking-uri)"
        )
    place = (workspace.absolute() / "mlartifacts" / name).as_uri() if kind == "sqlite" else None
    try:
        client.create_experiment(name, artifact_location=place)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
            raise
    return client.get_experiment_by_name(name)
