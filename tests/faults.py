"""An HTTP proxy on loopback that numbers requests and breaks those it is told to.

Several proxies may share one Line, so that the requests to a registry and to its artifact store are numbered together.
"""

import http.client
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Literal
from urllib.parse import urlsplit

from registries import Registry

When = Literal["before", "after"]  # the server got the request / did it; the client gets no answer either way
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "te", "trailer", "upgrade"}
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Cut:
    """Request number `at` and, unless `once`, all that follow get no answer; `then` is called at each."""

    at: int
    when: When
    once: bool = False
    then: Callable[[], None] | None = None

    def hits(self, number: int) -> bool:
        return number == self.at if self.once else number >= self.at


@dataclass(frozen=True)
class Answer:
    """The first `times` requests in which the pattern `request` is found ("PUT /api.*") are answered so, and do not
    reach the server."""

    request: str
    status: int
    body: str = ""
    times: int = sys.maxsize

    def hits(self, request: str, *, struck: int) -> bool:
        return struck < self.times and re.search(self.request, request) is not None


@dataclass
class Line:
    """The requests that went by, in order ("POST /api/2.0/..."), and the fault that befalls some of them."""

    fault: Cut | Answer | None = None
    seen: list[str] = field(default_factory=list)
    struck: list[str] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def clear(self, fault: Cut | Answer | None = None) -> None:
        """Count from 1 again; from now on `fault` holds."""
        with self._lock:
            self.fault, self.seen, self.struck = fault, [], []

    def passes(self, request: str) -> Cut | Answer | None:
        """Count a request and say what befalls it."""
        with self._lock:
            self.seen.append(request)
            hit = self.fault is not None and self._hits(self.fault, request)
            self.struck += [request] * hit
            return self.fault if hit else None

    def _hits(self, fault: Cut | Answer, request: str) -> bool:
        if isinstance(fault, Cut):
            return fault.hits(len(self.seen))
        return fault.hits(request, struck=len(self.struck))


@contextmanager
def through(registry: Registry) -> Iterator[tuple[Registry, Line]]:
    """The registry seen through proxies, which stand before its artifact store too where clients talk to that."""
    line = Line()
    with ExitStack() as proxies:
        uri = proxies.enter_context(proxy(registry.uri, line))
        s3 = proxies.enter_context(proxy(registry.s3, line)) if registry.s3 else None
        yield registry.seen_at(uri, s3), line


@contextmanager
def proxy(upstream: str, line: Line) -> Iterator[str]:
    """A proxy before `upstream`: where it answers."""
    target = urlsplit(upstream)
    assert target.hostname
    assert target.port
    where = (target.hostname, target.port)

    class Bound(_Handler):
        upstream = where
        on = line

    server = _Server(("127.0.0.1", 0), Bound)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        credentials = f"{target.username}:{target.password}@" if target.username else ""
        yield f"http://{credentials}127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed or cut off is what these proxies are for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: the second would wait for the first one's receipt
    upstream: tuple[str, int]
    on: Line

    def handle_one(self) -> None:
        body = self._body()
        fault = self.on.passes(f"{self.command} {self.path}")
        if isinstance(fault, Answer):
            self._send(fault.status, [("Content-Type", "text/plain")], fault.body.encode())
            return
        if fault is not None and fault.when == "before":
            self._break(fault)
            return
        status, headers, answer = self._forward(body)
        if fault is not None:
            self._break(fault)
            return
        self._send(status, headers, answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return b"".join(parts)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(*self.upstream, timeout=PATIENCE_S)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in {*HOP_BY_HOP, "expect"}}
        headers["Content-Length"] = str(len(body))
        try:
            connection.request(
                self.command, self.path, body=body, headers={**headers, "Content-Length": str(len(body))}
            )
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _send(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers:
            if self.command == "HEAD" and name.lower() == "content-length":
                length = value  # of what GET would have answered
            elif name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(body)

    def _break(self, fault: Cut) -> None:
        if fault.then is not None:
            fault.then()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *args: object) -> None:
        """Nothing is told: the Line keeps what went by."""
