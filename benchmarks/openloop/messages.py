"""Requests as the bytes that go over the wire, built before anything is timed."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from serving.bundle import Item
from serving.errors import BadRequest

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Url:
    """http://HOST:PORT/TARGET"""

    host: str
    port: int
    target: str

    def __str__(self) -> str:
        return f"http://{self._authority}{self.target}"

    @property
    def _authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def post(self, body: bytes, *, headers: Headers = ()) -> bytes:
        """The whole message of one request with a JSON body, on a connection that is kept; `headers` come beside those
        that every request has."""
        more = "".join(f"{name}: {value}\r\n" for name, value in headers)
        head = (
            f"POST {self.target} HTTP/1.1\r\nHost: {self._authority}\r\nAccept: application/json\r\n"
            f"Content-Type: application/json\r\n{more}Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode("latin-1") + body


def parse_url(text: str) -> Url:
    """Raises BadRequest for anything but plain HTTP with a host."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme != "http" or not host or not text.isascii() or any(each <= " " for each in text):
        raise BadRequest(f"url is {text!r}: load goes over plain HTTP; write http://HOST:PORT/PATH")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Url(host, 80 if port is None else port, target)


def body_of(items: Sequence[Item]) -> str:
    """What `serving.schema` reads: the items of one request."""
    texts = [item if len(item) > 1 else item[0] for item in items]
    return msgspec.json.encode({"texts": texts}).decode("utf-8")
