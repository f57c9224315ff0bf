"""How registries are reached, and what is said of those that cannot be."""

import logging
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from pipeline.build import ROOT as CHECKOUT
from pipeline.errors import BadRequest, Failure, Transient
from pipeline.tracking.client import REACH_TIMEOUT_S, default_uri, talking_to

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")
ANOTHER = "name another with register.tracking_uri or --tracking-uri"


def refusal(kind: type[Failure], uri: str) -> str:
    with pytest.raises(kind) as refused, talking_to(uri) as client:
        client.search_registered_models()
    return str(refused.value)


@contextmanager
def server(status: int, body: bytes = b"", *, after_s: float = 0.0) -> Iterator[tuple[str, list[Any]]]:
    """One that answers everything with `status`: where, and the headers it was asked with."""
    asked: list[Any] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers)
            time.sleep(after_s)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as http:
        Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", asked
        http.shutdown()


@pytest.fixture
def nobody() -> Iterator[str]:
    """A port that is bound and not listened to: nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["http://", "postgresql+psycopg2://"])
def test_a_registry_that_is_not_there_is_transient_at_once_and_named_without_its_password(
    nobody: str, scheme: str
) -> None:
    started = time.monotonic()
    assert refusal(Transient, f"{scheme}user:secret@{nobody}") == (
        f"the registry {scheme}{nobody} cannot be reached (Connection refused); start it, or {ANOTHER}, then run "
        "again: finished work is kept"
    )
    assert time.monotonic() - started < REACH_TIMEOUT_S


def test_a_server_that_accepts_and_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tracking.client.REACH_TIMEOUT_S", 0.05)
    with server(200, after_s=0.3) as (uri, _):
        assert refusal(Transient, uri) == (
            f"the registry {uri} cannot be reached (timed out); start it, or {ANOTHER}, then run again: finished work "
            "is kept"
        )


def test_a_server_that_is_not_well_is_transient() -> None:
    with server(503) as (uri, _):
        assert refusal(Transient, uri) == (
            f"the registry {uri} cannot be reached (HTTP 503); start it, or {ANOTHER}, then run again: finished work "
            "is kept"
        )


def test_a_server_that_knows_no_health_is_talked_to_all_the_same() -> None:
    with server(404) as (uri, _), talking_to(uri) as client:
        assert client.tracking_uri == uri


def test_a_server_of_something_else_is_said_so() -> None:
    with server(200, b"<html>Welcome") as (uri, _):
        assert refusal(BadRequest, uri) == (
            f"{uri} answers, and is no MLflow server (not in a valid JSON format); {ANOTHER}"
        )


def test_a_server_is_asked_with_the_credentials_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    with server(200) as (uri, asked), talking_to(uri):
        pass
    assert [headers["Authorization"] for headers in asked] == ["Basic bWU6c2VjcmV0"]


def test_a_server_that_refuses_credentials_says_where_to_set_them() -> None:
    with server(401) as (uri, _):
        assert refusal(BadRequest, uri) == (
            f"the registry {uri} refuses these credentials (HTTP 401); set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )


@pytest.mark.parametrize("uri", ["ftp://somewhere/else", "localhost:5000", "oracle://somewhere/else"])
def test_a_registry_of_an_unknown_kind_is_a_bad_request(uri: str) -> None:
    assert refusal(BadRequest, uri) == (
        f"the registry {uri} is of a kind that MLflow does not know (unsupported URI); write sqlite:///FILE, "
        "postgresql+psycopg2://HOST/NAME or http(s)://HOST"
    )


def test_a_missing_driver_is_a_bad_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    assert refusal(BadRequest, "postgresql+psycopg2://somewhere/else") == (
        "the registry postgresql+psycopg2://somewhere/else needs a driver that is not installed (import of psycopg2); "
        "run pip install 'retort[postgresql]'"
    )


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database at all, but long enough to be read as the header of one" * 20)
    assert refusal(BadRequest, default_uri(tmp_path)) == (
        f"the registry {default_uri(tmp_path)} is no database of MLflow (file is not a database); {ANOTHER}"
    )


def test_a_folder_in_the_place_of_the_database_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").mkdir()
    started = time.monotonic()
    assert refusal(BadRequest, default_uri(tmp_path)) == (
        f"the registry {default_uri(tmp_path)} cannot be opened (unable to open database file); look at its folder and "
        f"who may write there, or {ANOTHER}"
    )
    assert time.monotonic() - started < REACH_TIMEOUT_S


def changed(uri: str, folder: Path, statement: str) -> str:
    """A copy of the registry, after a statement of SQL."""
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as source, sqlite3.connect(folder / "mlflow.db") as copy:
        source.backup(copy)
        copy.execute(statement)
    source.close()
    copy.close()
    return default_uri(folder)


@pytest.mark.parametrize("revision", ["ffffffffffff", "451aebb31d03"], ids=["newer", "older"])
def test_tables_of_another_mlflow_are_a_bad_request(client: Any, uri: str, tmp_path: Path, revision: str) -> None:
    other = changed(uri, tmp_path, f"UPDATE alembic_version SET version_num = '{revision}'")
    assert refusal(BadRequest, other) == (
        f"the registry {other} has tables of another MLflow than this one (out-of-date database schema); of an older "
        "one, back it up and run `mlflow db upgrade` on it; of a newer one, install that MLflow"
    )


def test_a_registry_that_cannot_be_written_is_a_bad_request(
    client: Any, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MLflow makes a folder called file: there
    path = changed(uri, tmp_path, "SELECT 1").removeprefix("sqlite:///")
    other = f"sqlite:///file:{path}?mode=ro&uri=true"
    with pytest.raises(BadRequest) as refused, talking_to(other) as reading:
        reading.create_registered_model("m")
    assert str(refused.value) == (
        f"the registry {other} cannot be written (readonly database); use an account that may write, or {ANOTHER}"
    )


def test_the_folder_of_a_registry_is_made(tmp_path: Path) -> None:
    with talking_to(default_uri(tmp_path / "a" / "b")) as client:
        assert list(client.search_registered_models()) == []


@pytest.mark.parametrize("name", ["50%20 off", "why?"])
def test_the_registry_of_a_workspace_lies_in_it_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    with talking_to(default_uri(tmp_path / name)):
        assert [file.name for file in (tmp_path / name).iterdir()] == ["mlflow.db"]


def test_a_registry_named_as_sqlite_names_files_is_made_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with talking_to(f"sqlite:///file:{tmp_path}/a/mlflow.db?uri=true"):
        assert (tmp_path / "a" / "mlflow.db").is_file()


OPENING = """
import sys, time
from pathlib import Path
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from pipeline.tracking.client import talking_to

uri, ready, go = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
ready.touch()
while not go.exists():
    time.sleep(0.001)
with talking_to(uri) as client:
    client.search_registered_models()
    client.search_experiments()
"""


@pytest.mark.timeout(180)
def test_processes_that_first_open_a_registry_at_once_all_find_it_whole(tmp_path: Path) -> None:
    uri, go, both = default_uri(tmp_path / "workspace"), tmp_path / "go", [tmp_path / "one", tmp_path / "other"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPENING, uri, str(ready), str(go)], cwd=CHECKOUT, stderr=subprocess.PIPE
        )
        for ready in both
    ]
    while not all(ready.exists() for ready in both):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    go.touch()
    told = [process.communicate()[1].decode() for process in processes]
    assert ([process.returncode for process in processes], told) == ([0, 0], ["", ""])
    assert [file.name for file in (tmp_path / "workspace").iterdir()] == ["mlflow.db"]


def test_what_a_kill_left_of_a_registry_that_was_being_made_is_made_anew(tmp_path: Path) -> None:
    for left in (".mlflow.db.partial", ".mlflow.db.partial-journal", ".mlflow.db.lock"):
        (tmp_path / left).write_bytes(b"half of something")
    with talking_to(default_uri(tmp_path)) as client:
        assert list(client.search_registered_models()) == []
    assert [file.name for file in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_registry_that_a_server_made_meanwhile_is_taken_as_it_is(
    client: Any, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_registered_model("theirs")

    def overtaken(partial: Path) -> None:
        partial.touch()
        changed(uri, tmp_path, "SELECT 1")

    monkeypatch.setattr("pipeline.tracking.client._fill", overtaken)
    with talking_to(default_uri(tmp_path)) as found:
        assert "theirs" in [model.name for model in found.search_registered_models()]
    assert [file.name for file in tmp_path.iterdir()] == ["mlflow.db"]


def test_what_the_block_raises_itself_comes_out_as_it_is(uri: str) -> None:
    with pytest.raises(Transient, match=r"^mine$"), talking_to(uri):
        raise Transient("mine")
    with pytest.raises(ZeroDivisionError), talking_to(uri):
        _ = 1 / 0


def test_mlflow_says_nothing_of_its_own(uri: str, client: Any) -> None:
    for name in ("mlflow.store.db.utils", "alembic.runtime.migration", "urllib3.connectionpool"):
        assert not logging.getLogger(name).isEnabledFor(logging.ERROR), name
