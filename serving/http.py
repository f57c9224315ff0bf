"""HTTP as an ASGI server hands it over, without a framework between: a request, a reply, and the routes.

Nothing here knows a model. A route's `infers` says that it is work: it is counted, may be refused, and needs a key.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec
import orjson

from serving.exchange import ARRIVAL, STARTED, Arrival
from serving.faults import ClientLeft, Fault, NotThere, SlowBody, TooLarge, WrongMethod
from serving.room import Room

BODY_TIMEOUT_S: Final = 10.0
JSON: Final = b"application/json"


class Reply(msgspec.Struct):
    """What goes back."""

    status: int
    body: bytes
    media: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


def told(value: object, *, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Reply:
    """A value as JSON."""
    return Reply(status, orjson.dumps(value), JSON, headers)


def refusal(fault: Fault) -> Reply:
    """A fault as {"error": MESSAGE}."""
    headers = [(b"retry-after", str(fault.retry_after_s).encode())] if fault.retry_after_s is not None else []
    if fault.close:
        headers.append((b"connection", b"close"))
    if fault.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return told({"error": fault.message}, status=fault.status, headers=tuple(headers))


class Asked:
    """One request. When its body has been read and the client leaves, what answers it is cancelled; where our own
    connections are not below, that takes a task that waits for it."""

    __slots__ = (
        *("_arrival", "_headers", "_held_bytes", "_receive", "_room", "_watch"),
        *("id", "left", "method", "path", "query", "scope", "started_s"),
    )

    def __init__(self, scope: Any, receive: Callable[[], Awaitable[Any]], *, room: Room | None = None) -> None:
        self.scope, self._receive, self._room = scope, receive, room or Room()
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope.get("query_string", b"")
        self.started_s: float = scope.get(STARTED) or time.perf_counter()
        self.id = ""
        self.left = False
        self._headers: dict[bytes, bytes] | None = None
        self._held_bytes = 0
        self._arrival: Arrival | None = scope.get(ARRIVAL)
        self._watch: asyncio.Task[None] | None = None

    @property
    def passed_s(self) -> float:
        """How long ago its head was read."""
        return time.perf_counter() - self.started_s

    @property
    def most_bytes(self) -> int:
        """How large its body may be."""
        return self._room.body_bytes

    def header(self, name: bytes) -> str | None:
        """A header by its name in lower case; of several the last one."""
        if self._headers is None:
            self._headers = dict(self.scope["headers"])
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def body(self) -> bytes:
        """Read the body, but never more of it, nor for longer, than is allowed.

        Raises:
            TooLarge, SlowBody: as they say.
            Overloaded: with those of other requests it is more than the server holds.
        """
        most, within_s = self._room.body_bytes, BODY_TIMEOUT_S
        declared = self.header(b"content-length") or "0"
        size_bytes = int(declared) if declared.isdigit() and len(declared) < 16 else most + 1
        _require_size(size_bytes, most=most)
        self._room.require(size_bytes)
        if self._arrival is not None and self._arrival.whole:  # a timeout would cost more than all the reading
            body = await self._read(most=most)
        else:
            body = await self._read_within(within_s, most=most)
        self._watch_client()
        return body

    def end(self) -> None:
        """The request is answered."""
        self._room.free(self._held_bytes)
        if self._arrival is not None:
            self._arrival.gone = None
        elif self._watch is not None:
            self._watch.cancel()

    async def _read_within(self, within_s: float, *, most: int) -> bytes:
        try:
            async with asyncio.timeout(within_s):
                return await self._read(most=most)
        except TimeoutError as error:
            raise SlowBody(f"the body did not arrive within {within_s:g} s") from error

    async def _read(self, *, most: int) -> bytes:
        parts, size_bytes = [], 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            part: bytes = message.get("body", b"")
            size_bytes += len(part)
            _require_size(size_bytes, most=most)
            self._held_bytes = self._room.grow(self._held_bytes, size_bytes)
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)

    def _watch_client(self) -> None:
        if self._arrival is not None:
            assert self._arrival.task is not None, "what answers it is running"
            self._arrival.gone = partial(self._leave, self._arrival.task.cancel)
            return
        task = asyncio.current_task()
        assert task is not None, "other servers answer a request in a task"
        self._watch = asyncio.get_running_loop().create_task(self._until_gone(task.cancel))

    def _leave(self, cancel: Callable[[], object]) -> None:
        self.left = True
        cancel()

    async def _until_gone(self, cancel: Callable[[], object]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave(cancel)


Handler = Callable[[Asked], Awaitable[Reply]]


class Route(NamedTuple):
    """Where a handler is asked. `below`: every path that begins with this one, and ends with `ends`, is its, too.
    `open`: no key is needed. `refuse` words what its clients are told of a failure."""

    path: str
    handler: Handler
    method: str = "GET"
    infers: bool = False
    below: bool = False
    open: bool = False
    refuse: Callable[[Fault], Reply] = refusal
    ends: str = ""


class Routes:
    """Finds the route of a request."""

    def __init__(self, routes: Iterable[Route]) -> None:
        every = list(routes)
        self._exact = {(route.method, route.path): route for route in every if not route.below}
        self._below = sorted((route for route in every if route.below), key=lambda route: -len(route.path + route.ends))
        self._methods: dict[str, list[str]] = {}
        for route in every:
            self._methods.setdefault(route.path, []).append(route.method)

    def find(self, method: str, path: str) -> Route:
        """The route; HEAD is GET without the body.

        Raises:
            NotThere: there is no such path.
            WrongMethod: it is there for another method.
        """
        method = "GET" if method == "HEAD" else method
        if found := self._exact.get((method, path)):
            return found
        under = [route for route in self._below if path.startswith(route.path) and path.endswith(route.ends)]
        for route in under:
            if route.method == method:
                return route
        if known := self._methods.get(path) or [route.method for route in under]:
            raise WrongMethod(f"{path} takes {' and '.join(sorted(set(known)))}, not {method[:16]}")
        raise NotThere(f"there is no {path[:100]} here; /openapi.json lists what there is")


def _require_size(size_bytes: int, *, most: int) -> None:
    if size_bytes > most:
        raise TooLarge(f"the body exceeds the {most} bytes allowed; split the request")
