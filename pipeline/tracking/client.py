"""Reaching a registry: a client whose failures are one message each, and that does not wait for long."""

import fcntl
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from serving.reaching import expect_answers, is_server, require_database, sqlite_file
from serving.registry_failures import one_message

REACH_TIMEOUT_S: Final = 5.0


def default_uri(workspace: Path) -> str:
    """The embedded default: a sqlite file in the workspace."""
    return _uri_of(workspace / "mlflow.db")


def _uri_of(file: Path) -> str:
    return "sqlite:///" + str(file).replace("%", "%25").replace("?", "%3F")


@contextmanager
def talking_to(uri: str) -> Iterator[Any]:
    """An MLflow client whose failures are one message each.

    Raises:
        BadRequest: the registry refuses what is asked, the credentials, or to be written; a driver is missing.
        Transient: it cannot be reached, is busy or full.
    """
    with warnings.catch_warnings(), one_message(uri):
        warnings.simplefilter("ignore")  # MLflow's own deprecations are not the user's affair
        from mlflow import MlflowClient

        # Now, as MLflow sets its own levels when it is imported. What fails is told once, by us.
        for name in ("alembic", "mlflow", "urllib3.connectionpool"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        expect_answers()
        _require_reachable(uri)
        yield MlflowClient(tracking_uri=uri, registry_uri=uri)


def _require_reachable(uri: str) -> None:
    """Ask once with a short timeout: MLflow's own clients try again before they say anything."""
    if not is_server(uri):
        if (file := sqlite_file(uri)) is not None and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            _make(file)
        require_database(uri)
        return
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    http_request(get_default_host_creds(uri), "/health", "GET", timeout=REACH_TIMEOUT_S, max_retries=1)


def _make(file: Path) -> None:
    """A registry of sqlite with its tables, by one process while the others wait: MLflow's migrations of one file by
    two processes at once fail in both, and what a kill leaves of them nobody can open. It is made beside its place."""
    partial, lock = file.with_name(f".{file.name}.partial"), file.with_name(f".{file.name}.lock")
    with lock.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not file.exists():
            for left in (partial, partial.with_name(f"{partial.name}-journal")):
                left.unlink(missing_ok=True)
            _fill(partial)
        if file.exists():  # another process was faster, or a server of MLflow's own
            partial.unlink(missing_ok=True)
        else:
            partial.rename(file)
        lock.unlink(missing_ok=True)  # who waits for it, or makes another, finds the file


def _fill(file: Path) -> None:
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(_uri_of(file), DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
    store.engine.dispose()  # or its connections would go on in the file under its other name
