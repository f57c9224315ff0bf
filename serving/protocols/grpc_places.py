"""Places of gRPC calls, and the reading of their messages.

A call is here from its head on, and its client may keep the message back. So calls have a number of places; one that
comes when all are taken is given that of the call which has kept its message back longest, and for LATE_S at least. A
message has as long as a body over HTTP; and since gRPC does not tell its size before it is whole, few may be slow at a
time: the others' memory is what can be sent within PROMPT_S.
"""

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import grpc

from serving.errors import BadRequest
from serving.faults import SlowBody
from serving.http import BODY_TIMEOUT_S
from serving.room import RETRY_AFTER_S
from serving.tickets import Expired, Overloaded

LATE_S: Final = 0.05
PROMPT_S: Final = 0.25
_GONE_S: Final = 0.05  # a call without a message may be one that was cancelled: that is told soon after

Message = asyncio.Future[bytes]


class Places:
    """For `most` calls at a time, of which `slow` may take longer than PROMPT_S to send their message."""

    def __init__(self, most: int, *, slow: int) -> None:
        self._most, self._taken = most, 0
        self._coming: dict[Message, float] = {}  # since when by the loop's clock, the oldest first
        self._slow: dict[Message, None] = {}
        self._most_slow = slow

    @contextmanager
    def place(self) -> Iterator[None]:
        """Have one until the end of the block; raises Overloaded where all are taken, and none can be given to it."""
        if self._taken >= self._most:
            self._make_way()
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def read(self, context: Any, *, within_s: float = math.inf) -> bytes:
        """The one message of a call that has a place, and whose client waits so long.

        Raises:
            SlowBody, Expired: it did not come in time.
            Overloaded: it is not there yet, and others need its place.
            BadRequest: there is none, or a second one.
        """
        loop = asyncio.get_running_loop()
        message: Message = loop.create_future()
        # Not cancelled when nobody waits any more: the runtime would leak what is still read. It ends with the call.
        loop.create_task(_only_message(context)).add_done_callback(partial(_hand_over, message))
        self._coming[message] = loop.time()
        timers = (
            loop.call_later(PROMPT_S, self._slows_down, message),
            loop.call_later(max(0.0, min(within_s, BODY_TIMEOUT_S)), _refuse, message, within_s < BODY_TIMEOUT_S),
        )
        try:
            return await message
        finally:
            for timer in timers:
                timer.cancel()
            self._forget(message)

    def _make_way(self) -> None:
        late_s = asyncio.get_running_loop().time() - LATE_S
        oldest = next(iter(self._coming), None)
        if oldest is None or self._coming[oldest] > late_s:
            raise Overloaded(
                f"the server has {self._most} calls, its most; retry after {RETRY_AFTER_S} s",
                retry_after_s=RETRY_AFTER_S,
            )
        self._end(oldest)

    def _slows_down(self, message: Message) -> None:
        if message in self._coming:
            self._slow[message] = None
            if len(self._slow) > self._most_slow:
                self._end(next(iter(self._slow)))

    def _end(self, message: Message) -> None:
        self._forget(message)
        if not message.done():
            message.set_exception(
                Overloaded(
                    f"the message was not there yet when others needed its place; retry after {RETRY_AFTER_S} s",
                    retry_after_s=RETRY_AFTER_S,
                )
            )

    def _forget(self, message: Message) -> None:
        self._coming.pop(message, None)
        self._slow.pop(message, None)


async def _only_message(context: Any) -> bytes:
    message = await context.read()
    if message is grpc.aio.EOF:
        await asyncio.sleep(_GONE_S)
        raise BadRequest("the call has no message; send one")
    if await context.read() is not grpc.aio.EOF:
        raise BadRequest("the call has a second message; send one in each")
    found: bytes = message
    return found


def _hand_over(message: Message, reader: "asyncio.Task[bytes]") -> None:
    error = asyncio.CancelledError() if reader.cancelled() else reader.exception()
    if message.done():
        return
    if isinstance(error, asyncio.CancelledError):
        message.cancel()
    elif error is not None:
        message.set_exception(error)
    else:
        message.set_result(reader.result())


def _refuse(message: Message, expired: bool) -> None:
    if message.done():
        return
    if expired:
        message.set_exception(Expired("the request's time was up before its message was here; allow more or retry"))
    else:
        message.set_exception(SlowBody(f"the message did not arrive within {BODY_TIMEOUT_S:g} s"))
