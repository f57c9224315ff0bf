"""One client's connection: has its requests answered one after another, and bounds what it can take meanwhile.

Whatever ends it, what was asked before is answered first, and it is closed so that the answers arrive: the server says
that it writes no more, and lets the client finish before the connection is gone.
"""

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

from serving.exchange import Exchange, Headers, answer_head, error_answer
from serving.heads import Heads, Refused
from serving.listening import unread_bytes
from serving.patience import Patient
from serving.steps import Steps

if TYPE_CHECKING:
    from serving.connections import Connections

HIGH_WATER_BYTES: Final = 65536
MOST_DISCARDED_BYTES: Final = 16 * 2**20


class Connection(Patient):
    """Of one client."""

    __slots__ = (
        *("_active", "_ahead", "_discarded_bytes", "_fresh", "_heads", "_paused", "_receiving", "_refusal", "_stuck"),
    )

    def __init__(self, house: "Connections") -> None:
        super().__init__(house)
        self._active: Exchange | None = None  # being answered
        self._fresh: Exchange | None = None  # about to be: what else was read with its head is taken first
        self._receiving: Exchange | None = None  # its body is not all here
        self._ahead: deque[Exchange] = deque()  # to be answered after it
        self._refusal: Refused | None = None  # to be told last
        self._paused = False  # nothing is read for the moment
        self._stuck = False  # the client does not read
        self._discarded_bytes = 0

    # -- what the transport tells --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        client, server = (transport.get_extra_info(name) for name in ("peername", "sockname"))
        self._heads = Heads(self, limits=self._house.limits, client=client, server=server)
        refusal = self._house.enter(self)
        if refusal is None:
            self._wait(self._house.limits.head_s)
        elif refusal.status:
            self._refuse(refusal)
        else:
            self.deaf = True
            self._house.refused(refusal.why)
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.deaf:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > MOST_DISCARDED_BYTES:
                self._transport.abort()
            return
        if self._idle:
            self._wake()
        try:
            self._heads.feed(data)
        except Refused as refusal:
            if not self.deaf:
                self._refuse(refusal)
        if self._fresh is not None:
            exchange, self._fresh = self._fresh, None
            self._start(exchange)

    def connection_lost(self, _: Exception | None) -> None:
        self.deaf = self._ended = True
        for exchange in (self._active, self._receiving, *self._ahead):
            if exchange is not None:
                exchange.leave()
        self._ahead.clear()
        self._heads.let_go()
        self._house.leave(self)

    def pause_writing(self) -> None:
        self._stuck = True
        self._await_reader()

    def resume_writing(self) -> None:
        self._stuck = False
        if self._active is None:
            self._go_on()
        else:
            self._allow(math.inf)

    # -- what was read -------------------------------------------------------------------------------------------------

    def begin(self, scope: dict[str, Any], *, keep_alive: bool, expects: bool) -> None:
        """A head is here: it is answered now, or after those before it."""
        if self.deaf:
            return
        exchange = Exchange(
            scope,
            keep_alive=keep_alive,
            expects=expects,
            write=self._write,
            resume=self._resume,
            answered=self._answered,
        )
        self._receiving = exchange
        if self._active is None and not self._stuck:
            self._active = self._fresh = exchange
            self.until_s = math.inf
            return
        self._ahead.append(exchange)
        self._pause()

    def more(self, chunk: bytes) -> None:
        if self._receiving is not None and self._receiving.take(chunk):
            self._pause()

    def end(self) -> None:
        exchange, self._receiving = self._receiving, None
        if exchange is None:
            return
        exchange.end()
        if not exchange.keep_alive or len(self._ahead) >= self._house.limits.ahead:
            self.deaf = True

    # -- answering -----------------------------------------------------------------------------------------------------

    def _start(self, exchange: Exchange) -> None:
        running = exchange.run(self._house.app, abort=self._transport.abort)
        if exchange.received:  # reading it needs no asyncio.timeout, which needs a task
            exchange.arrival.task = steps = Steps(running, loop=self._house.loop)
            steps.begin()
        else:
            exchange.arrival.task = self._house.loop.create_task(running)

    def _answered(self, exchange: Exchange, status: int, headers: Headers, body: bytes) -> None:
        """Send an answer. What asks for the end of the connection has it when nothing was asked after it."""
        kept = [header for header in headers if header[0] != b"connection"]
        last = not self._ahead and self._refusal is None
        wanted = len(kept) < len(headers) or self._house.closing or self.deaf
        close = not (exchange.received and exchange.keep_alive) or (wanted and last)
        self._write(answer_head(status, kept, date=self._house.date, close=close) + body)
        self._active = None
        if close:
            self._end()
        elif not self._stuck:
            self._go_on()

    def _go_on(self) -> None:
        """To what was sent ahead, else to what was refused, else to waiting."""
        if self._ended:
            return
        if self._ahead:
            self._active = self._ahead.popleft()
            self.until_s = math.inf
            self._house.loop.call_soon(self._start, self._active)  # not within the answer before it
            return
        if self._paused:
            self._resume()
        if self._refusal is not None:
            self._write(error_answer(self._refusal.status, self._refusal.message, date=self._house.date))
            self._end()
        elif not self._heads.within:
            self._wait(self._house.limits.idle_s)
        else:
            self._allow(self._house.limits.head_s)

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def _write(self, data: bytes) -> None:
        if not self._ended:
            self._transport.write(data)

    # -- ending --------------------------------------------------------------------------------------------------------

    def close_if_idle(self) -> None:
        """Close it where nothing was asked and nothing has come that was not read."""
        waits = self._active is None and not (
            self._ahead or self.deaf or self._heads.within or self._transport.is_closing()
        )
        if waits and not unread_bytes(self._transport.get_extra_info("socket")):
            self._end()

    def expire(self) -> None:
        """It did not get further in time. A client that reads an answer, if slowly, gets further."""
        if self._reads_on() or self._waits_on():
            return
        unsent_bytes = self._transport.get_write_buffer_size()
        if self._ended or self._stuck or (self._idle and unsent_bytes):
            if unsent_bytes:
                self._house.refused("reader")
            self._transport.abort()
        elif self._heads.within:
            limit_s = self._house.limits.head_s
            self._refuse(Refused(408, f"the request's head did not arrive within {limit_s:g} s", why="slow"))
        else:
            self._end()

    def cut_off(self) -> None:
        """End it now, whatever is under way."""
        if self._active is not None and self._active.arrival.task is not None:
            self._active.arrival.task.cancel()
        self._transport.abort()

    def _refuse(self, refusal: Refused) -> None:
        """Read no more; tell why after what was asked before. A request that is broken off gets no other answer."""
        self.deaf = True
        self._house.refused(refusal.why)
        broken, self._receiving, self._refusal = self._receiving, None, refusal
        if broken is not None:
            broken.leave()
            if broken is self._active:
                self._active = None
            else:
                self._ahead.remove(broken)
        if self._active is None and not self._stuck:
            self._go_on()

    def _end(self) -> None:
        """Write no more, and give the client time to read what was written and to close."""
        if self._ended:
            return
        self.deaf = self._ended = True
        self._idle = False
        self._house.rest(self)
        if self._transport.is_closing():
            return
        self._resume()
        self._await_reader()
        if not self._unsent_bytes:
            self._allow(self._house.limits.linger_s)
        self._transport.write_eof()
