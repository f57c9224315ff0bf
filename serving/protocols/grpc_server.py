"""gRPC's own server, on the event loop that serves HTTP: its port, its connections, and that it stays up."""

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

import grpc

from serving.desk import Desk
from serving.errors import Transient
from serving.options import DEFAULT_CONNECTIONS
from serving.protocols.grpc_calls import Everybody, Guard
from serving.protocols.grpc_service import Service
from serving.room import Room

if TYPE_CHECKING:
    from serving.tracing import Tracer

LOOK_S: Final = 0.2
AGAIN_S: Final = 0.5
TRIES: Final = 20
LAST_CALLS_S: Final = 1.0
_FINISH_S: Final = 10.0
_TURN_S: Final = 0.01
_OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", 1024),
    ("grpc.so_reuseport", 0),  # a port that somebody has is an error
    # A client that is silent, gone or reads nothing is let go of; others connect again by themselves.
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 65_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_connection_age_ms", 600_000),
    ("grpc.max_connection_age_grace_ms", 60_000),
)
_log = logging.getLogger(__name__)


class Serving:
    """Answers on `port` until it is stopped. gRPC's server stops taking calls where a client sends a method's name that
    is no UTF-8 (grpcio 1.85: nothing of ours is asked before): then it finishes those under way, and another one is
    started in its place."""

    def __init__(self, service: Service, *, host: str, connections: int, body_bytes: int) -> None:
        self._service, self._host, self.port = service, host, 0
        self._options = (
            *_OPTIONS,
            ("grpc.max_allowed_incoming_connections", connections),
            ("grpc.max_receive_message_length", body_bytes),
        )
        self._server: Any = None
        self._keeper: asyncio.Task[None] | None = None
        self._finishing: set[asyncio.Task[None]] = set()

    async def start(self, port: int) -> None:
        """Port 0 is any that is free. Raises Transient where it cannot be had."""
        await self._start(port)
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and let those under way end; after `grace_s` they are cancelled. A client without a call
        that does not close its connection is not waited for."""
        if self._keeper is not None:
            self._keeper.cancel()
        stopping = asyncio.create_task(self._server.stop(grace_s))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(stopping), LAST_CALLS_S)
        while not stopping.done() and self._service.calls:
            await asyncio.sleep(_TURN_S)
        await asyncio.gather(stopping, self._server.stop(None), *self._finishing)

    async def ended(self) -> None:
        """Wait until it cannot be kept up; raises Transient then."""
        assert self._keeper is not None, "it was started"
        await asyncio.wait([self._keeper])
        self._keeper.result()

    async def _start(self, port: int) -> None:
        server = grpc.aio.server(options=self._options)
        server.add_generic_rpc_handlers((self._service.handlers(),))
        host = f"[{self._host}]" if ":" in self._host else self._host
        try:
            self.port = server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            way_out = "stop what holds it, or choose another with --grpc-port, or 0 for any that is free"
            raise Transient(f"port {port} on {self._host} cannot be had for gRPC; {way_out}") from error
        self._server = server
        await server.start()

    async def _keep(self) -> None:
        while True:
            why = await self._ended_by()
            _log.error("gRPC ended by itself, and is started again: %s", why)
            finishing = asyncio.create_task(self._server.stop(_FINISH_S))
            self._finishing.add(finishing)
            finishing.add_done_callback(self._finishing.discard)
            await self._start_again()

    async def _ended_by(self) -> str:
        """Why it takes no more calls. It says so only to who waits for its end in vain."""
        try:
            while await self._server.wait_for_termination(LOOK_S):
                pass
        except Exception as error:  # noqa: BLE001 - whatever it was
            return str(error)
        return "it does not say why"

    async def _start_again(self) -> None:
        for _ in range(TRIES - 1):
            with contextlib.suppress(Transient):
                await self._start(self.port)
                return
            await asyncio.sleep(AGAIN_S)
        await self._start(self.port)


async def start_grpc(
    desk: Desk,
    *,
    host: str,
    port: int,
    guard: Guard | None = None,
    tracer: "Tracer | None" = None,
    room: Room | None = None,
    connections: int = DEFAULT_CONNECTIONS,
) -> Serving:
    """Serve the protocol on this event loop; port 0 is any that is free. `room` is shared with HTTP; above
    `connections` clients are sent away.

    Raises:
        Transient: somebody has the port, or it cannot be had.
    """
    room = room or Room()
    service = Service(desk, guard or Everybody(), tracer, room)
    serving = Serving(service, host=host, connections=connections, body_bytes=room.body_bytes)
    await serving.start(port)
    return serving
