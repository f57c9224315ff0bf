"""How long a client may take, and when its connection gives way to another one's."""

import asyncio
import math
from typing import TYPE_CHECKING, Final

from serving.listening import unread_bytes

if TYPE_CHECKING:
    from serving.connections import Connections

LEAST_READ_BYTES: Final = 256 * 2**10  # of an answer, in the time that a client has to read
NEW_S: Final = 1.0  # what a client that has just connected may be about to send


class Patient(asyncio.Protocol):
    """A connection, as far as time goes. `until_s`: by then, on the loop's clock, it must have got further."""

    __slots__ = (*("_ended", "_house", "_idle", "_new", "_rest_s", "_transport", "_unsent_bytes", "deaf", "until_s"),)
    _transport: asyncio.Transport

    def __init__(self, house: "Connections") -> None:
        self._house = house
        self.deaf = False  # nothing more is read
        self._ended = False  # nothing more is written
        self._idle = False  # nothing of a request is here: between two of them, or before the first
        self._new = True  # no request was here yet
        self._rest_s = 0.0  # how long it may be idle yet when `until_s` has come
        self._unsent_bytes = 0  # of answers, when it was last seen whether the client reads
        self.until_s = math.inf

    def give_way(self) -> bool:
        """Close it at once, for another client, where nothing is under way; whether that is so. One who has just
        connected is about to ask."""
        if self._transport.get_write_buffer_size() or self._transport.is_closing():
            return False
        left_s = self.until_s + self._rest_s - self._house.loop.time()
        fresh = self._new and left_s > self._house.limits.head_s - NEW_S
        if not self._ended and (fresh or unread_bytes(self._transport.get_extra_info("socket"))):
            return False
        self.deaf = self._ended = True
        self._house.refused("idle")
        self._house.leave(self)
        self._transport.close()
        return True

    def _allow(self, seconds: float) -> None:
        self.until_s = self._house.loop.time() + seconds

    def _wait(self, seconds: float) -> None:
        """For a request. After the time that a client has to read it is looked whether it has: a small answer that
        nobody reads makes nothing else wait."""
        house = self._house
        first_s = min(seconds, house.limits.read_s)
        self._idle, self._rest_s = True, seconds - first_s
        house.idle[self] = None
        self.until_s = house.loop.time() + first_s

    def _wake(self) -> None:
        """A request begins."""
        self._idle = self._new = False
        del self._house.idle[self]
        self._allow(self._house.limits.head_s)

    def _waits_on(self) -> bool:
        """Whether it has read all and may be idle for longer."""
        if not self._idle or self._rest_s <= 0 or self._transport.get_write_buffer_size():
            return False
        self.until_s += self._rest_s
        self._rest_s = 0.0
        return True

    def _await_reader(self) -> None:
        self._unsent_bytes = self._transport.get_write_buffer_size()
        self._allow(self._house.limits.read_s)

    def _reads_on(self) -> bool:
        """Whether the client has read enough to be given as much time again."""
        unsent_bytes = self._transport.get_write_buffer_size()
        if not 0 < unsent_bytes <= self._unsent_bytes - LEAST_READ_BYTES:
            return False
        self._await_reader()
        return True
