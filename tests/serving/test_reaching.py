"""How long a registry is waited for, and what is fetched from it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.errors import BadArtifact, BadRequest
from serving.reaching import (
    database_kind,
    expect_answers,
    fetch_files,
    is_made,
    is_server,
    require_database,
    sqlite_file,
)

ASKING = (
    "from mlflow import environment_variables as settings\n"
    "from serving.reaching import expect_answers\n"
    "expect_answers()\n"
    "print(settings.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(), settings.MLFLOW_HTTP_REQUEST_TIMEOUT.get())\n"
    "import os; print(sorted(name for name in os.environ if name.startswith('MLFLOW_HTTP')))"
)


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "2 (5.0, 60.0)\n[]\n"),
        (
            {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5", "MLFLOW_HTTP_REQUEST_TIMEOUT": "7"},
            "5 7\n['MLFLOW_HTTP_REQUEST_MAX_RETRIES', 'MLFLOW_HTTP_REQUEST_TIMEOUT']\n",
        ),
    ],
    ids=["not said", "said"],
)
def test_a_registry_is_not_waited_for_longer_than_the_environment_says(environment: dict[str, str], told: str) -> None:
    known = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    found = subprocess.run(
        [sys.executable, "-c", ASKING], capture_output=True, text=True, check=True, env=known | environment
    )
    assert found.stdout == told


REPORTING = (
    "from mlflow.telemetry import get_telemetry_client\n"
    "from mlflow.telemetry.utils import is_telemetry_disabled\n"
    "from serving.reaching import expect_answers\n"
    "before = get_telemetry_client(), is_telemetry_disabled()\n"
    "assert before[0] is not None and not before[1], before\n"
    "expect_answers()\n"
    "print(get_telemetry_client() is not None, is_telemetry_disabled())"
)


@pytest.mark.parametrize(
    ("environment", "told"),
    [({}, "False True\n"), ({"MLFLOW_DISABLE_TELEMETRY": "false"}, "True False\n")],
    ids=["not said", "wished for"],
)
def test_mlflow_reports_to_nobody_unless_the_environment_says_so(
    environment: dict[str, str], told: str, tmp_path: Path
) -> None:
    bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}  # neither in CI nor under pytest, as MLflow sees it
    found = subprocess.run(
        [sys.executable, "-c", REPORTING], capture_output=True, text=True, check=True, env=bare | environment
    )
    assert found.stdout == told


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:///mlflow.db", "mlflow.db"),
        ("sqlite:////x/mlflow.db?timeout=5", "/x/mlflow.db"),
        ("sqlite+pysqlite:////x/my%20mlflow.db", "/x/my mlflow.db"),
        ("sqlite:///file:/x/mlflow.db?uri=true", "/x/mlflow.db"),
        ("sqlite:///file:///x/mlflow.db?mode=ro&uri=true", "/x/mlflow.db"),
        ("sqlite:///file:mlflow.db?uri=true", "mlflow.db"),
        ("sqlite:///file:mlflow.db", "file:mlflow.db"),
        ("sqlite:///file:x?mode=memory&uri=true", None),
        ("sqlite:///:memory:", None),
        ("sqlite://", None),
        ("postgresql://h/sqlite:///x", None),
        ("http://h", None),
    ],
)
def test_the_file_of_a_registry_is_the_one_that_sqlite_opens(uri: str, file: str | None) -> None:
    assert sqlite_file(uri) == (None if file is None else Path(file))


def test_only_a_file_of_sqlite_can_be_seen_not_to_be_made(tmp_path: Path) -> None:
    (tmp_path / "made.db").touch()
    (tmp_path / "folder.db").mkdir()
    uris = [
        f"sqlite:///{tmp_path}/made.db",
        f"sqlite:///file:{tmp_path}/made.db?uri=true",
        "http://h",
        "postgresql://h/m",
        f"sqlite:///{tmp_path}/none.db",
        f"sqlite:///file:{tmp_path}/none.db?uri=true",
        f"sqlite:///{tmp_path}/folder.db",
    ]
    assert [is_made(uri) for uri in uris] == [True] * 4 + [False] * 3


def test_servers_and_databases_are_told_apart() -> None:
    uris = ("http://h", "HTTPS://h", "postgresql+psycopg2://h/m", "sqlite:///m.db", "file:///m", "mlruns")
    assert [is_server(uri) for uri in uris] == [True, True, False, False, False, False]
    assert [database_kind(uri) for uri in uris] == [None, None, "postgresql", "sqlite", None, None]


def test_a_database_without_what_reads_databases_is_a_bad_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(BadRequest) as told:
        require_database("postgresql://u:secret@h/m")
    assert str(told.value) == (
        "the registry postgresql://h/m or its artifact store needs a package that is not installed (import of "
        "sqlalchemy); install it"
    )


def test_a_store_in_s3_without_boto3_is_left_to_mlflow_to_speak_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    expect_answers("s3://bucket/models")


def test_a_store_in_s3_is_not_waited_for_long() -> None:
    import boto3

    expect_answers("s3://bucket/models")
    config = boto3.client("s3", region_name="us-east-1", endpoint_url="http://127.0.0.1:1").meta.config
    assert (config.connect_timeout, config.read_timeout) == (5.0, 60.0)
    assert config.retries == {"mode": "standard", "total_max_attempts": 3}


def test_a_folder_is_fetched_with_all_in_it(tmp_path: Path) -> None:
    (tmp_path / "stored" / "inner").mkdir(parents=True)
    (tmp_path / "stored" / "inner" / "file").write_text("text")
    (tmp_path / "stored" / "empty").write_text("")

    found = fetch_files((tmp_path / "stored").as_uri(), to=tmp_path / "here", tracking_uri="sqlite:///unused")

    assert found.is_relative_to(tmp_path / "here")
    assert sorted(file.relative_to(found).as_posix() for file in found.rglob("*") if file.is_file()) == [
        "empty",
        "inner/file",
    ]


def test_a_folder_that_is_not_there_is_a_bad_artifact(tmp_path: Path) -> None:
    place = (tmp_path / "nowhere").as_uri()
    with pytest.raises(BadArtifact) as gone:
        fetch_files(place, to=tmp_path / "here", tracking_uri="sqlite:///unused")
    assert str(gone.value).startswith(f"{place} does not hold the registered files: ")


def test_only_a_database_is_connected_to(tmp_path: Path) -> None:
    for uri in ("http://127.0.0.1:1", "file:///nowhere", "somewhere", f"sqlite:///{tmp_path / 'made.db'}"):
        require_database(uri)
    assert [file.name for file in tmp_path.iterdir()] == ["made.db"]
