"""Reads the bytes of one client: heads and bodies out of a stream, by httptools, with bounds that llhttp does not have.

What another reader before us might take for another request is refused: llhttp sees to lengths, encodings and line
ends; version, host and size are seen to here.
"""

import time
import urllib.parse
from typing import Any, Final, Protocol

import httptools
import msgspec

from serving.exchange import STARTED

_VERSIONS: Final = ("1.1", "1.0")
_OLD_LINE: Final = b" HTTP/1.0\r"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What clients may take. `ahead`: requests sent before the first of them is answered."""

    connections: int = 1024
    head_bytes: int = 16384
    headers: int = 100
    ahead: int = 16
    head_s: float = 10.0
    idle_s: float = 65.0
    read_s: float = 30.0
    linger_s: float = 2.0


class Refused(Exception):  # noqa: N818 - the client's fault, and no failure of ours
    """What a client sent is not taken. `why` is a word for the metric; without a status it is told nothing."""

    def __init__(self, status: int, message: str, *, why: str) -> None:
        super().__init__(message)
        self.status, self.message, self.why = status, message, why


class Taker(Protocol):
    """Who is given what was read. `deaf`: it takes no more."""

    deaf: bool

    def begin(self, scope: dict[str, Any], *, keep_alive: bool, expects: bool) -> None: ...
    def more(self, chunk: bytes) -> None: ...
    def end(self) -> None: ...


class Heads:
    """Feeds a taker. `within` a head: it has begun, and not come to its end."""

    __slots__ = (
        *("_headers", "_limits", "_moved", "_parser", "_peer", "_piece", "_refused", "_seen"),
        *("_size_bytes", "_taker", "_url", "within"),
    )

    def __init__(self, taker: Taker, *, limits: Limits, client: Any, server: Any) -> None:
        self._taker, self._limits, self._peer = taker, limits, (client, server)
        self._parser = httptools.HttpRequestParser(self)
        self._refused: Refused | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._url = b""
        self._size_bytes = 0  # read in vain: since a request began, or a part of a body came
        self._piece: bytes | memoryview = b""  # being read
        self._seen = b""  # of a head that has not come to its end: its first line, or the end of what was read
        self.within = self._moved = False

    def feed(self, data: bytes) -> None:
        """Read on, until the taker is deaf. A large read is taken in pieces: what began in the last one and did not
        come to its end is small, and the rest of it is counted.

        Raises:
            Refused: this is no request that is taken; nothing more can be read.
        """
        most_bytes = self._limits.head_bytes
        try:
            if len(data) <= most_bytes:
                self._feed(data)
                return
            rest = memoryview(data)
            for start in range(0, len(data), most_bytes):
                self._feed(rest[start : start + most_bytes])
        except httptools.HttpParserError as error:
            if self._taker.deaf and self._refused is None:
                return
            malformed = Refused(400, f"this is not HTTP/1.1 as it is read here: {error}", why="malformed")
            raise self._refused or malformed from error

    def let_go(self) -> None:
        """The connection is gone; without this its parts would keep each other until the next garbage collection."""
        del self._parser, self._taker

    def _feed(self, piece: bytes | memoryview) -> None:
        """What is neither of a body nor the beginning of a request is of a head, of trailers or between chunks: all of
        that is bounded, also while it has not come to its end."""
        self._moved, self._piece = False, piece
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._feed_without_upgrade(upgrade.args[0])
        if self._moved:
            self._size_bytes = 0
        else:
            self._size_bytes += len(piece)
            self._require_size(self._size_bytes)
        self._piece = b""
        if self.within:
            seen = self._seen + piece
            self._seen = _OLD_LINE if _OLD_LINE in seen else seen[-len(_OLD_LINE) :]

    def _feed_without_upgrade(self, offset: int) -> None:
        """Feed each head that offers another protocol once more without the offer, and what follows it; a server may
        decide that. llhttp would take the body for the other protocol's, and some clients offer HTTP/2 with each first
        request. What has told one parser to close would have it read no more, so the head goes to a new one."""
        rest = memoryview(self._piece)
        while True:
            rest, self._piece = rest[offset:], self._without_upgrade()
            self._parser = httptools.HttpRequestParser(self)
            self._parser.feed_data(self._piece)
            self._piece = rest
            try:
                return self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                offset = upgrade.args[0]

    def _without_upgrade(self) -> bytes:
        kept = [header for header in self._headers if header[0] not in (b"upgrade", b"connection")]
        told = b",".join(value for name, value in self._headers if name == b"connection").split(b",")
        others = [one.strip() for one in told if one.strip().lower() not in (b"", b"upgrade")]
        if others:
            kept.append((b"connection", b", ".join(others)))
        line = b"%s %s HTTP/%s" % (self._parser.get_method(), self._url, self._parser.get_http_version().encode())
        return b"\r\n".join((line, *map(b": ".join, kept), b"", b""))

    def _require_size(self, size_bytes: int) -> None:
        if size_bytes > self._limits.head_bytes:
            part = "head exceeds" if self.within else "trailers exceed"
            raise self._refuse(431, f"the request's {part} the {self._limits.head_bytes} bytes allowed", "head")

    def _refuse(self, status: int, message: str, why: str) -> Refused:
        """Kept, since httptools lets no exception of ours through."""
        self._refused = Refused(status, message, why=why)
        return self._refused

    # -- what httptools calls ------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._taker.deaf:
            raise Refused(0, "nothing more is read", why="malformed")  # ends the parser's turn; nobody is told
        self.within = self._moved = True
        self._url = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.within:
            return  # a trailer: nothing here wants one
        self._headers.append((name.lower(), value))
        if len(self._headers) > self._limits.headers:
            raise self._refuse(431, f"the request has more than the {self._limits.headers} headers allowed", "head")

    def on_headers_complete(self) -> None:
        if self._parser.get_method() == b"CONNECT":
            raise self._refuse(400, "CONNECT is for proxies, and this is none", "malformed")
        version = self._version()
        if self._parser.should_upgrade():
            return  # it is read once more
        size_bytes, hosts, expects = len(self._url), 0, False
        for name, value in self._headers:
            size_bytes += len(name) + len(value) + 4
            if name == b"host":
                hosts += 1
            elif name == b"expect" and value.lower() == b"100-continue":
                expects = version == "1.1"
        self._require_size(size_bytes)
        self.within, self._seen = False, b""
        if hosts != 1 and (hosts or version == "1.1"):
            raise self._refuse(400, f"the request has {hosts} Host headers; HTTP/1.1 wants one", "malformed")
        keep_alive = version == "1.1" and self._parser.should_keep_alive()
        self._taker.begin(self._scope(version), keep_alive=keep_alive, expects=expects)

    def on_body(self, body: bytes) -> None:
        self._moved = True
        self._taker.more(body)

    def on_message_complete(self) -> None:
        self._moved = True
        if not self._parser.should_upgrade():
            self._taker.end()

    def _version(self) -> str:
        version = self._parser.get_http_version()
        if version not in _VERSIONS:
            raise self._refuse(505, f"HTTP/{version} is not spoken here; use HTTP/1.1", "malformed")
        if version == "1.0" and _OLD_LINE not in self._seen + self._piece:  # llhttp reads RTSP and ICE, too
            raise self._refuse(400, "the request is not of HTTP", "malformed")
        return version

    def _scope(self, version: str) -> dict[str, Any]:
        raw, query = self._target()
        path = raw.decode("ascii")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "method": self._parser.get_method().decode("ascii"),
            "scheme": "http",
            "path": urllib.parse.unquote(path) if "%" in path else path,
            "raw_path": raw,
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
            "client": self._peer[0],
            "server": self._peer[1],
            STARTED: time.perf_counter(),
        }

    def _target(self) -> tuple[bytes, bytes]:
        """The path and the query, of a path alone or of a whole address."""
        url = self._url
        if url[:1] == b"/" and b"#" not in url:
            path, _, query = url.partition(b"?")
            return path, query
        try:
            parsed = httptools.parse_url(url)
        except httptools.HttpParserError:
            raise self._refuse(400, "the request's target is no path", "malformed") from None
        return parsed.path or b"/", parsed.query or b""
