"""Reaching a registry and what it keeps: of what kind it is, how long it is waited for, and how a version's files are
fetched."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from serving.errors import BadArtifact
from serving.registry_failures import failure_of, raised_by_registries, shown

CONNECT_TIMEOUT_S, READ_TIMEOUT_S, RETRIES = 5.0, 60.0, 2
MAX_REASON: Final = 300
DATABASES: Final = ("sqlite", "postgresql", "mysql", "mssql")
# Words of the store itself: a 404 alone may be that of a proxy between, and says nothing of the version.
_NO_FILES = re.compile(
    r"No such artifact|NoSuchKey|\(404\) when calling|RESOURCE_DOES_NOT_EXIST|No such file or directory"
)


def is_server(uri: str) -> bool:
    """Whether a registry is one that answers requests, and not a database or a folder."""
    return uri.lower().startswith(("http://", "https://"))


def database_kind(uri: str) -> str | None:
    """Of a registry that is a database, which one: "sqlite", "postgresql", ..."""
    kind = re.split(r"[+:]", uri, maxsplit=1)[0].lower()
    return kind if kind in DATABASES else None


def sqlite_file(uri: str) -> Path | None:
    """The file of a registry that is one of sqlite: `sqlite:///FILE`, or `sqlite:///file:FILE?uri=true`. None of
    others, and of a database in memory."""
    if database_kind(uri) != "sqlite":
        return None
    place, _, query = uri.partition(":///")[2].partition("?")
    asked, name = parse_qs(query), unquote(place)  # as SQLAlchemy reads them
    if asked.get("uri") and name.startswith("file:"):
        name = unquote(urlsplit(name).path)  # and sqlite once more
    in_memory = name in ("", ":memory:") or asked.get("mode") == ["memory"]
    return None if in_memory else Path(name)


def is_made(uri: str) -> bool:
    """Whether there is a registry to ask. MLflow would make a file of sqlite that is not there; anything else is asked
    to know."""
    file = sqlite_file(uri)
    return file is None or file.is_file()


def fetch_files(place: str, *, to: Path, tracking_uri: str) -> Path:
    """Download the folder that a registry calls `place` into `to`; return where it lies in there.

    Raises:
        BadArtifact: there are no such files.
    """
    from mlflow.artifacts import download_artifacts

    expect_answers(place)
    try:
        found = Path(download_artifacts(artifact_uri=place, dst_path=str(to), tracking_uri=tracking_uri))
    except raised_by_registries() as error:
        if _NO_FILES.search(f"{getattr(error, 'error_code', '')}: {error}"):
            reason = shown(str(error))[:MAX_REASON]
            raise BadArtifact(f"{shown(place)} does not hold the registered files: {reason}") from error
        raise
    if not found.is_dir() or not any(found.iterdir()):
        raise BadArtifact(f"{shown(place)} does not hold the registered files: there is nothing; register it again")
    return found


def expect_answers(place: str = "") -> None:
    """Let MLflow, and boto for a `place` in S3, give up soon where the environment does not say otherwise: with their
    own patience, one who asks a registry that is away waits for many minutes. And let MLflow report to nobody."""
    from mlflow import environment_variables as settings

    settings.MLFLOW_HTTP_REQUEST_MAX_RETRIES.default = RETRIES
    settings.MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR.default = 1
    settings.MLFLOW_HTTP_REQUEST_TIMEOUT.default = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
    settings.MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.default = False
    _report_to_nobody()
    if place.startswith("s3:") and find_spec("boto3") is not None:  # without it MLflow says that it is needed
        _expect_answers_of_s3()


@cache
def _report_to_nobody() -> None:
    from mlflow import environment_variables as settings
    from mlflow.telemetry import set_telemetry_client

    settings.MLFLOW_DISABLE_TELEMETRY.default = True
    set_telemetry_client()  # anew: importing MLflow made one


@cache
def _expect_answers_of_s3() -> None:
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]
    from botocore.session import get_session  # type: ignore[import-untyped]

    session = get_session()
    retries = {"mode": "standard", "total_max_attempts": 1 + RETRIES}
    session.set_default_client_config(
        Config(connect_timeout=CONNECT_TIMEOUT_S, read_timeout=READ_TIMEOUT_S, retries=retries)
    )
    boto3.setup_default_session(botocore_session=session)


def require_database(uri: str) -> None:
    """Connect once where the registry is a database: MLflow would try ten times, each time waiting longer.

    Raises:
        BadRequest: SQLAlchemy is missing, which MLflow's small edition does without.
    """
    kind = database_kind(uri)
    if kind is None:
        return
    try:
        from sqlalchemy import NullPool, create_engine
    except ImportError as error:
        raise failure_of(error, uri=uri) from error
    patience = {"connect_timeout": int(CONNECT_TIMEOUT_S)} if kind in ("postgresql", "mysql") else {}
    with create_engine(uri, poolclass=NullPool, connect_args=patience).connect():
        pass
