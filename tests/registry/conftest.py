"""The registries, each started once, when a test first asks for it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from registries import (
    BUCKET,
    Registry,
    execute,
    guarded_server,
    migrated,
    mlflow_server,
    or_absent,
    postgres,
    s3_environment,
    s3_store,
    sqlite_server,
)

KINDS = ("embedded", "served", "postgres_s3", "postgres_direct_s3")


@pytest.fixture(autouse=True)
def _nothing_leads_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sqlite file with MLflow's tables and nothing in them, to be copied."""
    return migrated(tmp_path_factory.mktemp("migrated") / "mlflow.db")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Registry]:
    """`mlflow server` over sqlite, artifacts served from a folder."""
    folder = tmp_path_factory.mktemp("served")
    with sqlite_server(folder, Path(shutil.copy(empty_database, folder))) as (uri, _):
        yield Registry(uri)


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """A PostgreSQL cluster with the databases `served` and `direct`."""
    with ExitStack() as servers:
        with or_absent():
            uri = servers.enter_context(postgres())
        execute(uri, "CREATE DATABASE served", "CREATE DATABASE direct")
        yield uri


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with ExitStack() as servers:
        with or_absent():
            uri = servers.enter_context(s3_store(tmp_path_factory.mktemp("s3")))
        yield uri


@pytest.fixture(scope="session")
def postgres_s3(tmp_path_factory: pytest.TempPathFactory, cluster: str, s3: str) -> Iterator[Registry]:
    """`mlflow server` over PostgreSQL, artifacts served from S3; clients know nothing of the store."""
    folder = tmp_path_factory.mktemp("postgres-s3")
    options = ["--serve-artifacts", "--artifacts-destination", f"s3://{BUCKET}/served"]
    environment = s3_environment(s3)
    with mlflow_server(folder, f"{cluster}/served", *options, environment=environment, workers=2) as (uri, _):
        yield Registry(uri)


@pytest.fixture(scope="session")
def postgres_direct_s3(tmp_path_factory: pytest.TempPathFactory, cluster: str, s3: str) -> Iterator[Registry]:
    """`mlflow server` over PostgreSQL; clients put artifacts into S3 themselves."""
    folder = tmp_path_factory.mktemp("postgres-direct-s3")
    options = ["--no-serve-artifacts", "--default-artifact-root", f"s3://{BUCKET}/direct"]
    with mlflow_server(folder, f"{cluster}/direct", *options) as (uri, _):
        yield Registry(uri, environment=s3_environment(s3), s3=s3)


@pytest.fixture
def embedded(empty_database: Path, workspace: Path) -> Registry:
    """No server: the workspace's own sqlite file."""
    shutil.copy(empty_database, workspace / "mlflow.db")
    return Registry(f"sqlite:///{workspace / 'mlflow.db'}")


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Registry]:
    """One that wants a name and a password."""
    folder = tmp_path_factory.mktemp("guarded")
    with ExitStack() as servers:
        with or_absent():
            uri = servers.enter_context(guarded_server(folder, Path(shutil.copy(empty_database, folder))))
        yield Registry(uri)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    found = tmp_path / "workspace"
    found.mkdir()
    return found


@pytest.fixture(params=KINDS)
def registry(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Each of them in turn, what its clients need being in the environment."""
    found: Registry = request.getfixturevalue(request.param)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    return found
