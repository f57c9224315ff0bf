"""One request and its answer, as an ASGI application sees them: `receive` gives the body, `send` takes the answer."""

import asyncio
import http
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import orjson

from serving.steps import Steps

Headers = Sequence[tuple[bytes, bytes]]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]
MOST_UNREAD_BYTES: Final = 65536
ARRIVAL: Final = "retort.arrival"
"""Where a request's scope has its Arrival."""
STARTED: Final = "retort.started_s"
"""Where it has when its head was read, by time.perf_counter."""
_log = logging.getLogger(__name__)
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus}


def answer_head(status: int, headers: Headers, *, date: bytes, close: bool) -> bytes:
    """The head of an answer. `connection` is not among the headers: whether it closes is decided by the connection.

    Raises:
        ValueError: a header would make a line of its own.
    """
    parts = [_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, b"date: ", date]
    lines = 2
    for name, value in headers:
        parts += (b"\r\n", name, b": ", value)
        lines += 1
    parts.append(b"\r\nconnection: close\r\n\r\n" if close else b"\r\n\r\n")
    head = b"".join(parts)
    if head.count(b"\n") != lines + 1 + close or b"\0" in head:
        raise ValueError(f"a header of this answer holds a line break or NUL: {list(headers)!r}")
    return head


def error_answer(status: int, message: str, *, date: bytes) -> bytes:
    """What a client is told whose request never was one; the connection ends with it."""
    body = orjson.dumps({"error": message})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    return answer_head(status, headers, date=date, close=True) + body


class Arrival:
    """What who answers a request may know of its client without asking: that the body is `whole`, and, by being called
    once, that the client is `gone`. `task` is what answers it."""

    __slots__ = ("gone", "task", "whole")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | Steps | None = None
        self.whole = False
        self.gone: Callable[[], object] | None = None


class Exchange:
    """What is between a request's head and the end of its answer. `left`: the client is gone, or broke its word."""

    __slots__ = (
        *("_answered", "_chunks", "_ended", "_expects", "_resume", "_start", "_unread", "_waiter", "_write"),
        *("arrival", "complete", "keep_alive", "left", "received", "scope"),
    )

    def __init__(
        self,
        scope: dict[str, Any],
        *,
        keep_alive: bool,
        expects: bool,
        write: Callable[[bytes], None],
        resume: Callable[[], None],
        answered: Callable[["Exchange", int, Headers, bytes], None],
    ) -> None:
        self.scope, self.keep_alive, self._expects = scope, keep_alive, expects
        self.arrival = scope[ARRIVAL] = Arrival()
        self._write, self._resume, self._answered = write, resume, answered
        self.complete = self.left = self.received = False
        self._chunks: list[bytes] = []
        self._unread, self._ended = 0, False
        self._start: Any = None
        self._waiter: asyncio.Future[None] | None = None

    async def run(self, app: App, *, abort: Callable[[], None]) -> None:
        """Have it answered by the application; `abort` is called where it is cancelled."""
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            abort()
            raise
        except Exception:  # noqa: BLE001 - the application tells of what it knows; a bug in it must not end the others
            _log.exception("the application failed")
        if not (self.complete or self.left):  # it was not answered, or its answer could not be sent
            self._answered(self, 500, ((b"content-length", b"0"),), b"")
            self.complete = True

    # -- what the connection tells -------------------------------------------------------------------------------------

    def take(self, chunk: bytes) -> bool:
        """A part of the body has come; whether more would be too much, until some of it is read."""
        self._chunks.append(chunk)
        self._unread += len(chunk)
        if self._waiter is not None:
            self._wake()
        return self._unread > MOST_UNREAD_BYTES

    def end(self) -> None:
        """The body has come."""
        self.received = self.arrival.whole = True
        if self._waiter is not None:
            self._wake()

    def leave(self) -> None:
        """No answer will be read."""
        self.left = True
        if self._waiter is not None:
            self._wake()
        gone, self.arrival.gone = self.arrival.gone, None
        if gone is not None:
            gone()

    def _wake(self) -> None:
        """Where somebody waits, which is asked first: a request that is all here waits for nothing."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- what the application asks -------------------------------------------------------------------------------------

    async def receive(self) -> dict[str, Any]:
        """The next part of the body; when all was given, what comes next is that the client is gone."""
        while not (self.left or self.complete) and (self._ended or not (self._chunks or self.received)):
            if self._expects:
                self._expects = False
                self._write(_CONTINUE)
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self.left or self.complete:
            return {"type": "http.disconnect"}
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._unread, self._ended = 0, self.received
        self._resume()
        return {"type": "http.request", "body": body, "more_body": not self.received}

    async def send(self, message: Any) -> None:
        """Take the answer: its start, then its body in one piece. What nobody reads any more is let go.

        Raises:
            ValueError: its head cannot be sent; nothing was.
        """
        if message["type"] == "http.response.start":
            self._start = message
            return
        assert not message.get("more_body"), "an answer is sent in one piece"
        if not (self.left or self.complete):
            self._answered(self, self._start["status"], self._start["headers"], message.get("body", b""))
            self.complete = True
            if self._waiter is not None:
                self._wake()
