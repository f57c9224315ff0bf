"""All connections of a server: how many there may be, how long each may take, and how they end.

They are looked at twice a second; a request only notes until when it may take, which costs it nothing.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from email.utils import formatdate
from itertools import islice
from typing import Final

from serving.connection import Connection
from serving.exchange import App
from serving.heads import Limits, Refused
from serving.patience import Patient

SWEEP_S: Final = 0.5
LAST_REQUESTS_S: Final = 1.0  # what a client may be about to send on a connection that it keeps
MOST_REFUSED: Final = 64  # connections above the limit that are told why
MOST_ASKED: Final = 8  # connections that may not be idle after all, before a new one is refused
_TURN_S: Final = 0.01
_log = logging.getLogger(__name__)


class Connections:
    """Makes a Connection for each client. `refused` is told why one was turned away, a word for a metric."""

    def __init__(
        self,
        app: App,
        *,
        limits: Limits = Limits(),  # noqa: B008 frozen
        refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.app, self.limits, self.refused = app, limits, refused
        self.all: set[Connection] = set()
        self.idle: dict[Patient, None] = {}  # those on which nothing is under way, the longest first
        self._refused: set[Patient] = set()  # above the limit; they are told why, and take no place
        self.closing = False
        self.date = b""
        self._sweeper: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self.all)

    def start(self) -> None:
        """Within the loop, before the first connection."""
        self.loop = asyncio.get_running_loop()
        self._sweep()

    def connection(self) -> Connection:
        """For a client that has connected."""
        return Connection(self)

    async def finish(self, *, within_s: float) -> None:
        """Answer what was asked, and close every connection; nothing new is let in by the caller.

        A client may be sending on a connection that is idle here, and its request would be lost by closing: so each
        stays open for LAST_REQUESTS_S, and what comes is answered, and closed after the answer.
        """
        self.closing = True
        ends_s = self.loop.time() + within_s
        last_s = min(ends_s, self.loop.time() + LAST_REQUESTS_S)
        while self.all and self.loop.time() < last_s:
            await asyncio.sleep(_TURN_S)
        while self.all and self.loop.time() < ends_s:
            for connection in list(self.all):
                connection.close_if_idle()
            await asyncio.sleep(_TURN_S)
        if self.all:
            _log.error("%d connections were cut off: not done within %g s", len(self.all), within_s)
        for connection in list(self.all):
            connection.cut_off()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def enter(self, connection: Connection) -> Refused | None:
        """A client has connected; why it is turned away, if it is. A status of 0: there are too many to be told. Where
        all places are taken, the connection that was idle longest makes room: one client that keeps many must not shut
        the others out."""
        free = len(self.all) - len(self._refused) < self.limits.connections
        free = free or any(one.give_way() for one in list(islice(self.idle, MOST_ASKED)))
        self.all.add(connection)
        if free:
            return None
        self._refused.add(connection)
        status = 503 if len(self._refused) <= MOST_REFUSED else 0
        return Refused(status, f"the server has {self.limits.connections} connections, its most", why="full")

    def leave(self, connection: Patient) -> None:
        self.all.difference_update((connection,))
        self._refused.discard(connection)
        self.idle.pop(connection, None)

    def rest(self, connection: Patient) -> None:
        """Nothing is under way on it any more; it is closed when its client closes."""
        if connection not in self._refused:
            self.idle[connection] = None

    def _sweep(self) -> None:
        self.date = formatdate(time.time(), usegmt=True).encode()
        now_s = self.loop.time()
        for connection in [one for one in self.all if one.until_s < now_s]:
            connection.expire()
        self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)
