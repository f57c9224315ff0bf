"""What each failure is answered with, over HTTP and gRPC alike, and what it is counted as.

404 the model does another task   413 body too large   422 unreadable or over a limit   408 body too slow
415 a type that is not read
504 the client's time was up      503 no room, with Retry-After   401 no key   499 the client has left
500 the model failed; the reason in one line, never a stack trace
"""

import asyncio
import logging
from typing import Final, NamedTuple

from serving.errors import BadRequest, Failure
from serving.metrics import Outcome
from serving.tickets import ExecutorLost, Expired, Overloaded

_log = logging.getLogger(__name__)


class TooLarge(BadRequest):
    """The body is larger than this server reads."""


class SlowBody(BadRequest):
    """The body did not arrive in time."""


class OtherMedia(BadRequest):
    """The body is of a type that is not read here."""


class NotThere(BadRequest):
    """No such route, model or version here."""


class WrongMethod(BadRequest):
    """The route is there, and does something else."""


class Unauthorized(BadRequest):
    """The request names no key that is known."""


class ClientLeft(Exception):  # noqa: N818  (as the others are called)
    """Nobody waits for the answer any more."""


class Fault(NamedTuple):
    """An HTTP status, what the request counts as, and one line for the client; `close`: what else it sends is not
    read."""

    status: int
    outcome: Outcome
    message: str
    retry_after_s: int | None = None
    close: bool = False


# The first class that fits decides.
_KINDS: Final[tuple[tuple[type[BaseException], int, Outcome], ...]] = (
    (TooLarge, 413, "client_error"),
    (SlowBody, 408, "client_error"),
    (NotThere, 404, "client_error"),
    (WrongMethod, 405, "client_error"),
    (Unauthorized, 401, "client_error"),
    (OtherMedia, 415, "client_error"),
    (BadRequest, 422, "client_error"),
    (Overloaded, 503, "rejected"),
    (Expired, 504, "expired"),
    (ExecutorLost, 503, "server_error"),
    (ClientLeft, 499, "dropped"),
    (asyncio.CancelledError, 499, "dropped"),
    (BaseException, 500, "server_error"),
)


def fault_of(error: BaseException) -> Fault:
    """What a client is told of a failure. The log has why the server failed, of what nobody expected with its trace."""
    status, outcome = next((status, outcome) for kind, status, outcome in _KINDS if isinstance(error, kind))
    if isinstance(error, Failure):
        message = str(error)
        if status == 500:
            _log.error("a request failed: %s", message)
    elif status == 500:
        _log.error("a request failed in an unexpected way", exc_info=error)
        message = "the server failed on this request; its log says why"
    else:
        message = "the client has left"
    retry_after_s = error.retry_after_s if isinstance(error, Overloaded) else 1 if status == 503 else None
    return Fault(status, outcome, message, retry_after_s, close=isinstance(error, TooLarge | SlowBody))
