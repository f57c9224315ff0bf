"""What a registry's failure means: one message with the way out and the exit code, whichever library raised it.

MLflow, requests, SQLAlchemy, boto and the drivers below them each have their own classes, and MLflow hands most of them
on as text. So what was said, by the error and by those that caused it, is compared with SIGNS, the first that fits
first; after them the HTTP status counts. What is said of a file of this machine is told as that file's. No password of
a URI is repeated.

    BadRequest
    ├── NotThere    MLflow itself says that it has no such thing
    └── NoAnswer    whatever else repeating cannot help: credentials, a page of a proxy, the wrong address
    Transient
"""

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import Final

from serving.errors import BadRequest, Failure, Transient
from serving.redaction import redacted, without_secrets
from serving.registry_signs import AGAIN, BY_STATUS, SIGNS

MAX_REASON = 300
_RAISED: Final = (
    ("mlflow.exceptions", "MlflowException"),
    ("requests", "RequestException"),
    ("sqlalchemy.exc", "SQLAlchemyError"),
    ("alembic.util.exc", "CommandError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("boto3.exceptions", "Boto3Error"),
    ("google.protobuf.json_format", "ParseError"),  # of JSON that is no answer of MLflow's
)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE: Final = (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
_STATUS: Final = re.compile(
    r"too many (\d{3}) error responses|failed with error code (\d{3})|\b(\d{3}) (?:Client|Server) Error"
    r"|\((\d{3})\) when calling"
)


class NotThere(BadRequest):
    """MLflow itself says that there is no such model, version or run: no proxy's 404, and not a wrong address."""


class NoAnswer(BadRequest):
    """What answers lets nobody in or is no registry. Whoever asks for the first time has something to mend; whoever
    follows an alias knows as little of it as from a registry that is away."""


@contextmanager
def one_message(uri: str) -> Iterator[None]:
    """Turn what MLflow and all below it raise into one Failure with one message: a Transient, a NotThere or a
    NoAnswer."""
    try:
        yield
    except raised_by_registries() as error:
        raise _kind_of(error, uri=uri) from error
    except ImportError as error:
        if not misses_a_package(error):
            raise
        raise _kind_of(error, uri=uri) from error


def _kind_of(error: BaseException, *, uri: str) -> Failure:
    failure = failure_of(error, uri=uri)
    if not isinstance(failure, BadRequest):
        return failure
    said = getattr(error, "error_code", None)  # of a page without MLflow's own code, MLflow says ENDPOINT_NOT_FOUND
    return NotThere(str(failure)) if said == "RESOURCE_DOES_NOT_EXIST" else NoAnswer(str(failure))


def failure_of(error: BaseException, *, uri: str) -> Failure:
    """What an error of a registry at `uri` means."""
    local = _of_disk(error)
    if local is not None:
        return local
    where = redacted(uri)
    words = " ".join(_said(error)).replace(uri, where)
    for sign in SIGNS:
        if found := re.search(sign.words, words, re.IGNORECASE):
            return sign.kind(sign.told.format(uri=where, found=shown(found[0])))
    status = http_status(error)
    if status in BY_STATUS:
        kind, told = BY_STATUS[status]
        return kind(told.format(uri=where))
    first = (str(error).replace(uri, where).splitlines() or [type(error).__name__])[0]
    again = "error responses" in words  # no more than a status was answered
    reason = f"HTTP {status}, again and again" if again else shown(first)[:MAX_REASON]
    if 400 <= status < 500 and status not in (408, 429):
        return BadRequest(f"the registry {where} refused: {reason}")
    return Transient(f"the registry {where} failed: {reason}; {AGAIN}")


def http_status(error: BaseException) -> int:
    """The status of the answer that an error is about; 500 where nothing says which."""
    response = getattr(error, "response", None)
    if isinstance(status := getattr(response, "status_code", None), int):
        return status
    if found := _STATUS.search(" ".join(_said(error))):
        return int(next(group for group in found.groups() if group))
    by_code = getattr(error, "get_http_status_code", None)
    return int(by_code()) if by_code else 500


def shown(text: str) -> str:
    """On one line, and without what opens a door."""
    return without_secrets(" ".join(text.split()))


def raised_by_registries() -> tuple[type[Exception], ...]:
    """For an `except`. Of the libraries that are loaded: one that is not has raised nothing."""
    loaded = (getattr(sys.modules[module], name) for module, name in _RAISED if module in sys.modules)
    return (OSError, *loaded)


def misses_a_package(error: ImportError) -> bool:
    """Whether it is MLflow or a library below it that could not import, as it does when it makes a client or a store. A
    module of our own that is missing is a bug."""
    libraries = {module.partition(".")[0] for module, _ in _RAISED}
    frames = (frame for frame, _ in walk_tb(error.__traceback__))
    return any(str(frame.f_globals.get("__name__")).partition(".")[0] in libraries for frame in frames)


def _said(error: BaseException | None) -> Iterator[str]:
    """The words of an error and of what caused it, the last one first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield f"{type(error).__name__}: {error}"
        error = error.__cause__ or error.__context__


def _of_disk(error: BaseException) -> Failure | None:
    """A file or folder of this machine: no registry has a part in it."""
    if not isinstance(error, OSError) or not error.filename or getattr(error, "request", None) is not None:
        return None
    written = error.filename2 or error.filename  # of a copy, the first is what was read
    if error.errno in _FULL:
        return Transient(f"no space left for {written}; make room there, then {AGAIN}")
    if error.errno in _NOT_WRITABLE:
        return BadRequest(f"{written} cannot be written ({error.strerror}); choose a place that can")
    return Transient(f"{error.filename} cannot be used ({error.strerror}); look at it, then {AGAIN}")
