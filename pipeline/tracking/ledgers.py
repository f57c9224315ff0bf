"""What a ledger needs of MLflow beyond versions and aliases: its model, found again by a tag, and one file of a version
alone."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import BadArtifact
from pipeline.tracking.versions import MODELS_A_PAGE, Version, all_pages


def ensure_model(client: Any, name: str, *, tags: Mapping[str, str], description: str) -> None:
    """Create the registered model; another process may do so at the same time."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, tags=dict(tags), description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def names_with_tag(client: Any, tag: str) -> set[str]:
    """Every registered model that has the tag with the value "1"."""
    wanted = f"tags.`{tag}`='1'"
    pages = all_pages(
        lambda token: client.search_registered_models(wanted, max_results=MODELS_A_PAGE, page_token=token)
    )
    return {str(model.name) for model in pages}


def read_version_file(client: Any, version: Version, path: str) -> bytes:
    """One file in the folder of a version, without the others.

    Raises:
        BadArtifact: it is not there.
    """
    from mlflow.artifacts import download_artifacts, list_artifacts

    place = str(client.get_model_version_download_uri(version.name, str(version.number))).rstrip("/")
    where = {"tracking_uri": client.tracking_uri}
    if path not in {Path(each.path).name for each in list_artifacts(artifact_uri=place, **where)}:
        raise BadArtifact(
            f"version {version.number} of {version.name} has no {path} any more: its files are not those registered; "
            "register it again"
        )
    with tempfile.TemporaryDirectory() as folder:
        return Path(download_artifacts(artifact_uri=f"{place}/{path}", dst_path=folder, **where)).read_bytes()
