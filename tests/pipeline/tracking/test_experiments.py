"""Where the artifacts of a name lie."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import BadRequest
from pipeline.tracking.experiments import experiment_id


class Client:
    """Knows the experiments that it made."""

    def __init__(self, *names: str) -> None:
        self.places: dict[str, str | None] = dict.fromkeys(names)

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=f"id of {name}", lifecycle_stage="active") if name in self.places else None

    def create_experiment(self, name: str, artifact_location: str | None) -> None:
        self.places[name] = artifact_location


@pytest.mark.parametrize("uri", ["sqlite:////x/mlflow.db", "sqlite:///file:/x/mlflow.db?uri=true"])
def test_of_a_file_of_sqlite_artifacts_lie_in_the_workspace(tmp_path: Path, uri: str) -> None:
    client = Client()
    assert experiment_id(client, "m", uri=uri, workspace=tmp_path) == "id of m"
    assert client.places == {"m": (tmp_path / "mlartifacts" / "m").as_uri()}


@pytest.mark.parametrize("uri", ["http://mlflow:5000", "file:///x/mlruns"])
def test_others_say_themselves_where_artifacts_lie(tmp_path: Path, uri: str) -> None:
    client = Client()
    experiment_id(client, "m", uri=uri, workspace=tmp_path)
    assert client.places == {"m": None}


def test_a_database_that_machines_share_needs_a_place_that_they_all_reach(tmp_path: Path) -> None:
    client = Client()
    with pytest.raises(BadRequest) as refused:
        experiment_id(client, "my model", uri="postgresql+psycopg2://u:secret@h/m", workspace=tmp_path)
    assert str(refused.value) == (
        "the registry postgresql+psycopg2://h/m is a database that other machines may share, and has no experiment my "
        "model, which would say where files go; create it with a place that all of them reach (`mlflow experiments "
        "create -n 'my model' -l s3://BUCKET/FOLDER`), or name an MLflow server (register.tracking_uri, --tracking-uri)"
    )
    assert client.places == {}


def test_an_experiment_that_such_a_database_has_is_used(tmp_path: Path) -> None:
    found = experiment_id(Client("m"), "m", uri="mysql+pymysql://h/m", workspace=tmp_path)
    assert found == "id of m"
