"""The ASGI application: finds the route, has the request answered, and makes every failure one line and one count.

accepted = ok + client_error + server_error + dropped + expired, for the routes that infer; what load turned away is
counted apart.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from serving.desk import Desk
from serving.faults import ClientLeft, Fault, fault_of
from serving.http import Asked, Reply, Route, Routes, refusal
from serving.protocols import every_route
from serving.room import Room

Send = Callable[[Any], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]
_CLOSE: Final = (b"connection", b"close")
_log = logging.getLogger(__name__)


class Guard(Protocol):
    """Who is let in, and what is written down of each request; security/ has one."""

    def name(self, asked: Asked, /) -> str: ...
    def require_key(self, asked: Asked, /) -> None: ...
    def note(self, asked: Asked, /, *, status: int, outcome: str, seconds: float) -> None: ...


class Open:
    """Everybody is let in, and nothing is written down."""

    def name(self, _: Asked) -> str:
        """No name of the request's own."""
        return ""

    def require_key(self, _: Asked) -> None:
        """Nothing."""

    def note(self, _: Asked, **told: Any) -> None:
        """Nothing."""


class App:
    """One server's application."""

    def __init__(
        self,
        desk: Desk,
        *,
        routes: Sequence[Route],
        guard: Guard,
        room: Room | None = None,
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        self.desk, self._routes, self._guard, self._on_start = desk, Routes(routes), guard, on_start
        self._room = room or Room()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request, or start and stop with the server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        assert scope["type"] == "http", "the server takes nothing else"
        asked = Asked(scope, receive, room=self._room)
        try:
            reply, outcome = await self._answered(asked)
        finally:
            asked.end()
        self._guard.note(asked, status=reply.status, outcome=outcome, seconds=asked.passed_s)
        if not asked.left:
            await self._send(asked, reply, send)

    async def _answered(self, asked: Asked) -> tuple[Reply, str]:
        """The reply and, of a route that infers, what it counts as."""
        metrics, infers, outcome = self.desk.metrics, False, ""
        refuse: Callable[[Fault], Reply] = refusal
        try:
            asked.id = self._guard.name(asked)
            route = self._routes.find(asked.method, asked.path)
            infers, refuse = route.infers, route.refuse
            if infers:
                metrics.requests.begun += 1
                self.desk.admit()
            if not route.open:
                self._guard.require_key(asked)
            reply, outcome = await route.handler(asked), "ok"
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and not asked.left:
                raise  # the server stops: nobody is there to be told
            fault = fault_of(error)
            asked.left = asked.left or isinstance(error, ClientLeft)
            reply, outcome = refuse(fault), fault.outcome
        finally:
            if infers:
                metrics.count(outcome or "dropped")  # type: ignore[arg-type]  # outcomes are of one table
        return reply, outcome if infers else ""

    async def _send(self, asked: Asked, reply: Reply, send: Send) -> None:
        headers = [(b"content-type", reply.media), (b"content-length", str(len(reply.body)).encode()), *reply.headers]
        if asked.id:
            headers.append((b"x-request-id", asked.id.encode("latin-1")))
        if self.desk.draining and _CLOSE not in reply.headers:
            headers.append(_CLOSE)
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if asked.method == "HEAD" else reply.body})

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._on_start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await send({"type": "lifespan.shutdown.complete"})
                return


def build(
    desk: Desk,
    *,
    guard: Guard | None = None,
    room: Room | None = None,
    page: bool = True,
    on_start: Callable[[], None] = lambda: None,
) -> App:
    """The application with every protocol, and the page; `room` is what it shares with protocols beside HTTP,
    `on_start` is called when it is about to take requests."""
    return App(desk, routes=every_route(desk, page=page), guard=guard or Open(), room=room, on_start=on_start)
