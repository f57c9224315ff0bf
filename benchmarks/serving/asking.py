"""One question over HTTP, asked by itself: whether a server is there, and what it says."""

import http.client
from typing import Any, NamedTuple

import msgspec

from benchmarks.openloop.messages import parse_url

PATIENCE_S = 10.0


class Answered(NamedTuple):
    """A status (0: no answer) and a body, or the error in words."""

    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        return self.status // 100 == 2

    @property
    def told(self) -> str:
        text = self.body.decode("utf-8", errors="replace")[:300]
        return f"{self.status}: {text}" if self.status else text

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


def answer_of(url: str, body: str | None = None) -> Answered:
    """On a connection of its own, as a first client's: a POST of the body, or a GET where there is none."""
    to = parse_url(url)
    connection = http.client.HTTPConnection(to.host, to.port, timeout=PATIENCE_S)
    try:
        return _asked(connection, to.target, body)
    except (OSError, http.client.HTTPException) as error:
        return Answered(0, str(error).encode())
    finally:
        connection.close()


def _asked(connection: http.client.HTTPConnection, target: str, body: str | None) -> Answered:
    if body is None:
        connection.request("GET", target)
    else:
        connection.request("POST", target, body.encode("utf-8"), {"Content-Type": "application/json"})
    response = connection.getresponse()
    return Answered(response.status, response.read())
