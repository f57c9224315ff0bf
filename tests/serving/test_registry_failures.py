"""What each library says of a registry's failure, and what it becomes."""

import errno
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError, NoCredentialsError
from requests import HTTPError, Response
from sqlalchemy.exc import OperationalError

from serving.errors import BadRequest, Failure, Transient
from serving.registry_failures import failure_of, http_status, one_message, raised_by_registries, shown
from serving.registry_signs import AGAIN, ANOTHER

URI = "http://user:secret@registry"
NAMED = "http://registry"


def mlflow_error(text: str, code: str = "INTERNAL_ERROR") -> Exception:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ErrorCode

    return MlflowException(text, error_code=ErrorCode.Value(code))


def s3_error(code: str) -> Exception:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "PutObject")


def http_error(status: int, text: str = "") -> Exception:
    response = Response()
    response.status_code = status
    response._content = text.encode()
    return HTTPError(f"{status} Client Error: no for url: http://registry. Response text: {text}", response=response)


def of_database(text: str) -> Exception:
    return OperationalError("SELECT 1", {}, Exception(text))


S3_KEYS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and MLFLOW_S3_ENDPOINT_URL where it is not Amazon's, here or, "
    "where the server serves artifacts, there"
)
FULL = "the registry {uri} or its artifact store is full or overloaded ({found}); make room there, then " + AGAIN
AWAY = "the registry {uri} cannot be reached ({found}); start it, or " + ANOTHER + ", then " + AGAIN
WRITE = "the registry {uri} cannot be written ({found}); use an account that may write, or " + ANOTHER
DATABASE = "the database of the registry {uri} refuses these credentials ({found}); set PGUSER and PGPASSWORD"
STORE = "the artifact store of the registry {uri} refuses these credentials ({found}); " + S3_KEYS


@pytest.mark.parametrize(
    ("error", "kind", "told", "found"),
    [
        (s3_error("InvalidAccessKeyId"), BadRequest, STORE, "InvalidAccessKeyId"),
        (s3_error("SignatureDoesNotMatch"), BadRequest, STORE, "SignatureDoesNotMatch"),
        (s3_error("AccessDenied"), BadRequest, STORE, "AccessDenied"),
        (NoCredentialsError(), BadRequest, STORE, "Unable to locate credentials"),
        (http_error(401, "(InvalidAccessKeyId) when calling"), BadRequest, STORE, "InvalidAccessKeyId"),
        (s3_error("ServiceUnavailable"), Transient, FULL, "ServiceUnavailable"),
        (s3_error("InsufficientStorage"), Transient, FULL, "InsufficientStorage"),
        (mlflow_error("of files:\n[Errno 28] No space left on device"), Transient, FULL, "No space left on device"),
        (of_database("database or disk is full"), Transient, FULL, "database or disk is full"),
        (of_database("attempt to write a readonly database"), BadRequest, WRITE, "readonly database"),
        (of_database("cannot execute INSERT in a read-only transaction"), BadRequest, WRITE, "read-only transaction"),
        (of_database("permission denied for table runs"), BadRequest, WRITE, "permission denied for table runs"),
        (
            of_database('FATAL:  password authentication failed for user "me"'),
            BadRequest,
            DATABASE,
            "password authentication failed",
        ),
        (of_database("fe_sendauth: no password supplied"), BadRequest, DATABASE, "no password supplied"),
        (of_database('FATAL: role "me" does not exist'), BadRequest, DATABASE, 'role "me" does not exist'),
        (
            of_database("(1045, \"Access denied for user 'me'@'h' (using password: YES)\")"),
            BadRequest,
            "the database of the registry {uri} refuses these credentials ({found}); write user and password under "
            "[client] into a file, and add ?read_default_file=FILE to the registry's address",
            "Access denied for user",
        ),
        (mlflow_error("<Message>Access Denied</Message>"), BadRequest, STORE, "Access Denied"),
        (
            of_database('FATAL:  database "m" does not exist'),
            BadRequest,
            "the registry {uri} is not there ({found}); make it (createdb), or " + ANOTHER,
            'database "m" does not exist',
        ),
        (
            s3_error("NoSuchBucket"),
            BadRequest,
            "the artifact store of the registry {uri} lacks the bucket ({found}); make it, or serve another",
            "NoSuchBucket",
        ),
        (
            of_database("database is locked"),
            Transient,
            "the registry {uri} is busy with others ({found}); " + AGAIN,
            "database is locked",
        ),
        (
            ModuleNotFoundError("No module named 'boto3'", name="boto3"),
            BadRequest,
            "the artifact store of the registry {uri} needs boto3 ({found}); run pip install 'retort[s3]'",
            "No module named 'boto3'",
        ),
        (
            ModuleNotFoundError("No module named 'pymysql'", name="pymysql"),
            BadRequest,
            "the registry {uri} or its artifact store needs a package that is not installed ({found}); install it",
            "No module named 'pymysql'",
        ),
        (
            mlflow_error("Invalid Host header - possible DNS rebinding attack detected", "PERMISSION_DENIED"),
            BadRequest,
            "the MLflow server {uri} does not answer to this name of it ({found}); start it with --allowed-hosts",
            "Invalid Host header",
        ),
        (
            EndpointConnectionError(endpoint_url="http://s3"),
            Transient,
            "the artifact store of the registry {uri} cannot be reached ({found}); start it, or set "
            "MLFLOW_S3_ENDPOINT_URL to where it is, then " + AGAIN,
            "Could not connect to the endpoint URL",
        ),
        (
            ConnectTimeoutError(endpoint_url="http://s3"),
            Transient,
            "the artifact store of the registry {uri} cannot be reached ({found}); start it, or set "
            "MLFLOW_S3_ENDPOINT_URL to where it is, then " + AGAIN,
            "timeout on endpoint URL",
        ),
        (of_database("connection to server failed: Connection refused"), Transient, AWAY, "Connection refused"),
        (of_database("FATAL: the database system is starting up"), Transient, AWAY, "the database system is starting"),
        (http_error(502), Transient, AWAY, "HTTP 502"),
        (
            http_error(405),
            BadRequest,
            "the registry {uri} cannot be written ({found}): it is read-only; " + ANOTHER,
            "HTTP 405",
        ),
        (
            http_error(507),
            Transient,
            "the registry {uri} or its artifact store is full ({found}); make room there, then " + AGAIN,
            "HTTP 507",
        ),
        (
            mlflow_error("Permission denied", "PERMISSION_DENIED"),
            BadRequest,
            "the registry {uri} forbids this ({found}): these credentials may only read, or are wrong; set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of an account that may write",
            "HTTP 403",
        ),
        (
            mlflow_error("You are not authenticated", "UNAUTHENTICATED"),
            BadRequest,
            "the registry {uri} refuses these credentials ({found}); set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
            "HTTP 401",
        ),
        (
            http_error(413),
            BadRequest,
            "the registry {uri} refused: {found}",
            "413 Client Error: no for url: http://registry. Response text:",
        ),
        (
            mlflow_error("no such alias", "INVALID_PARAMETER_VALUE"),
            BadRequest,
            "the registry {uri} refused: {found}",
            "no such alias",
        ),
        (mlflow_error("broken\nat line 3"), Transient, "the registry {uri} failed: {found}; " + AGAIN, "broken"),
        (
            mlflow_error("failed with exception Max retries exceeded (Caused by 'too many 429 error responses')"),
            Transient,
            "the registry {uri} failed: {found}; " + AGAIN,
            "HTTP 429, again and again",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/place"),
            Transient,
            f"no space left for /place; make room there, then {AGAIN}",
            "",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/place"),
            BadRequest,
            "/place cannot be written (Read-only file system); choose a place that can",
            "",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "/place"),
            Transient,
            f"/place cannot be used (No such file or directory); look at it, then {AGAIN}",
            "",
        ),
    ],
    ids=lambda each: each if isinstance(each, str) and len(each) < 70 else "",
)
def test_a_failure_becomes_one_message_with_the_way_out(
    error: Exception, kind: type[Failure], told: str, found: str
) -> None:
    found_failure = failure_of(error, uri=URI)
    assert (type(found_failure), str(found_failure)) == (kind, told.format(uri=NAMED, found=found))


def test_the_cause_counts_where_the_error_itself_says_nothing() -> None:
    """As where MLflow raises its own in an `except`."""
    error = mlflow_error("API request failed")
    error.__context__ = OSError(errno.ECONNREFUSED, "Connection refused")
    assert str(failure_of(error, uri=URI)) == AWAY.format(uri=NAMED, found="Connection refused")


def test_what_is_shown_is_one_line_without_secrets() -> None:
    assert shown("at http://me:s3cret@ss@host\nand more") == "at http://host and more"


def test_a_password_that_holds_blanks_is_shown_neither_where_it_is_known_nor_where_it_is_said() -> None:
    uri = "postgresql://me:my s3cret@host/m"
    told = str(failure_of(mlflow_error(f"cannot use '{uri}'", "BAD_REQUEST"), uri=uri))
    assert told == "the registry postgresql://host/m refused: cannot use 'postgresql://host/m'"


def test_a_password_in_what_a_library_says_is_not_repeated() -> None:
    error = mlflow_error("cannot talk to http://user:secret@registry/api", "BAD_REQUEST")
    assert str(failure_of(error, uri=URI)) == f"the registry {NAMED} refused: cannot talk to http://registry/api"


def test_what_is_no_registry_s_failure_comes_out_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError), one_message(URI):
        _ = 1 / 0
    with pytest.raises(BadRequest, match="mine"), one_message(URI):
        raise BadRequest("mine")


def test_a_file_of_this_machine_is_told_as_such_whoever_opened_it(tmp_path: Path) -> None:
    with pytest.raises(Transient) as told, one_message(URI):
        (tmp_path / "gone").read_bytes()
    assert str(told.value) == (
        f"{tmp_path / 'gone'} cannot be used (No such file or directory); look at it, then {AGAIN}"
    )


def test_a_module_of_our_own_that_is_missing_is_a_bug() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"serving\.nothing"), one_message(URI):
        import_module("serving.nothing")


def test_a_package_that_mlflow_misses_when_it_makes_a_store_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(BadRequest) as told, one_message(URI):
        get_artifact_repository("s3://bucket/a").list_artifacts()
    assert str(told.value) == (
        f"the artifact store of the registry {NAMED} needs boto3 (import of boto3); run pip install 'retort[s3]'"
    )


def test_the_status_of_an_answer_is_found_however_it_is_told() -> None:
    said = "API request to endpoint /x failed with error code 405 != 200. Response body: ''"
    errors: list[Any] = [http_error(413), mlflow_error(said), mlflow_error("x", "NOT_FOUND"), ValueError("x")]
    assert [http_status(error) for error in errors] == [413, 405, 404, 500]


def test_libraries_that_are_not_loaded_are_not_loaded_to_ask() -> None:
    asking = (
        "import sys; from serving.registry_failures import raised_by_registries\n"
        "assert raised_by_registries() == (OSError,)\n"
        "print(sorted({'mlflow', 'sqlalchemy', 'botocore', 'requests'} & set(sys.modules)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", asking], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert told.stdout == "[]\n"
    assert len(raised_by_registries()) > 2
