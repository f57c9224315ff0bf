"""The event loop, in a thread of its own: it takes connections, and lets go of them when told to stop.

The main thread is left to signals: however busy the loop is, a second SIGTERM is heard.
"""

import asyncio
import contextlib
import logging
import math
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import uvloop

from serving.connections import Connections
from serving.errors import Transient
from serving.listening import BACKLOG, keep_out

FINISH_S: Final = 30.0
SETTLE_S: Final = 0.1  # for clients that are in the middle of connecting
TURN_S: Final = 0.2  # the main thread looks for signals so often, whatever it waits for
_log = logging.getLogger(__name__)


class Stop(Protocol):
    """Another protocol's server in the same loop; protocols.grpc_server has one. `ended` waits until it serves no more
    although nobody stopped it, and raises why."""

    async def stop(self, grace_s: float) -> None: ...
    async def ended(self) -> None: ...


class Front:
    """Serves in a thread from `start` to `stop`. `others` are started before `ready` is called, and stopped beside;
    where they end by themselves, `ended` is called, and HTTP served on until `stop`."""

    def __init__(
        self,
        connections: Connections,
        *,
        listener: socket.socket,
        others: Callable[[], Awaitable[Stop]] | None,
        ready: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        self._connections, self._listener, self._others = connections, listener, others
        self._ready, self._ended = ready, ended
        self._loop = uvloop.new_event_loop()
        self._stopping = asyncio.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="http")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let nobody else in, finish what is under way, and end."""
        with contextlib.suppress(RuntimeError):  # it ended by itself
            self._loop.call_soon_threadsafe(self._stopping.set)

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the end; raises what ended it, if that was a failure."""
        end_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while self._thread.is_alive() and (left_s := end_s - time.monotonic()) > 0:
            self._thread.join(min(TURN_S, left_s))
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._turn())
        except BaseException as failure:  # noqa: BLE001 - raised again by join, in the main thread
            self._failure = failure
        finally:
            self._ended()

    async def _turn(self) -> None:
        self._connections.start()
        server = await self._loop.create_server(self._connections.connection, sock=self._listener, backlog=BACKLOG)
        other = await self._others() if self._others is not None else None
        self._ready()
        failure = await self._until_stopped(other)
        keep_out(self._listener)
        await asyncio.sleep(SETTLE_S)
        server.close()
        finishing = [self._connections.finish(within_s=FINISH_S)]
        if other is not None:
            finishing.append(other.stop(FINISH_S))
        await asyncio.gather(*finishing)
        if failure is not None:
            raise failure

    async def _until_stopped(self, other: Stop | None) -> BaseException | None:
        """What the other server ended with, if it did."""
        if other is None:
            await self._stopping.wait()
            return None
        ending, stopping = asyncio.ensure_future(other.ended()), asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((ending, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            ending.cancel()
            return None
        failure = ending.exception() or Transient("a server beside HTTP ended by itself, and does not say why")
        _log.error("a server beside HTTP ended, so this process does, too: %s", failure)
        self._ended()
        await stopping
        return failure
