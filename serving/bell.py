"""How executors tell the event loop that answers are there.

`loop.call_soon_threadsafe` wakes the loop while the executor has the interpreter: on one core the loop, which goes
first, then finds nothing to do but to wait for it, and both are switched to once more. The write to this pipe lets go
of the interpreter, so that who is woken goes on at once; and the answers of one call are told in one go.
"""

import asyncio
import os
import weakref
from collections import deque
from contextlib import suppress
from typing import Any, Final

from serving.tickets import Ticket

_READ_BYTES: Final = 4096


class Bell:
    """Of one loop, in whose thread it is made."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._told: deque[asyncio.Future[None]] = deque()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        # Not at the interpreter's exit: an executor may ring yet, and the system closes them then.
        weakref.finalize(self, _close, self._reader, self._writer).atexit = False
        loop.add_reader(self._reader, self._heard)

    def put(self, ticket: Ticket[Any]) -> None:
        """In an executor: the ticket is done, and the future in its note is to be set when next it rings."""
        self._told.append(ticket.note)

    def ring(self) -> None:
        """In an executor: wake the loop, if there is anything to tell it."""
        if not self._told:
            return
        with suppress(BlockingIOError):  # it is full: the loop will be awake
            os.write(self._writer, b"\0")

    def _heard(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._reader, _READ_BYTES)
        while self._told:
            waiter = self._told.popleft()
            if not waiter.done():
                waiter.set_result(None)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
