"""Requests over HTTP: a pool of keep-alive connections that one thread watches without ever sleeping.

Timers of the kernel and of event loops round to a millisecond or wake late; spinning does not, which is why this
process has a core of its own.
"""

import selectors
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from benchmarks.openloop.connection import FREE, Address, Connection, Lost, TimedConnection
from benchmarks.openloop.generator import Event
from benchmarks.openloop.trace import NO_ANSWER, REFUSED
from serving.errors import BadRequest, Transient

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_PATIENCE_S: Final = 10.0  # for opening all connections, and for the first answer


class HttpWire:
    """Sends `messages` in turn, each on the connection that was used last of those that are free. One that ends is
    opened again, and given up where the server does not take it. A request for which none is free has failed at once:
    waiting for the answer to another would be a closed loop. With `timed`, what each answer's Server-Timing says is
    kept by the request's number."""

    def __init__(
        self, address: Address, messages: Sequence[bytes], *, clock: Callable[[], int], timed: bool = False
    ) -> None:
        self._address, self._messages, self._clock = address, messages, clock
        self._kind = TimedConnection if timed else Connection
        self._selector = selectors.DefaultSelector()
        self._free: list[Connection] = []
        self._ended: list[Event] = []
        self.last_body = b""
        self.timings: dict[int, str] = {}

    @property
    def connections(self) -> int:
        """How many stand or are being opened."""
        return len(self._selector.get_map())

    def open(self, connections: int, *, patience_s: float = _PATIENCE_S) -> None:
        """Open the pool.

        Raises:
            Transient: the server did not take all connections.
            BadRequest: this process may not have so many.
        """
        try:
            for _ in range(connections):
                self._connect()
        except OSError as error:
            raise BadRequest(f"{connections} connections cannot be opened: {error}; ask for fewer") from error
        end_s = time.monotonic() + patience_s
        while len(self._free) < connections:
            self.poll()
            if time.monotonic() > end_s or self.connections < connections:
                host, port = self._address[1][:2]
                took = f"{host}:{port} took {len(self._free)} of {connections} connections"
                raise Transient(f"{took}; start the server, or ask for fewer")

    def first_answer(self, *, patience_s: float = _PATIENCE_S) -> None:
        """Send the first message: what the server does not understand is told before it is offered thousands.

        Raises:
            Transient: it refuses (503), or gives no answer.
            BadRequest: it answers with another failure.
        """
        self.send(0)
        end_s = time.monotonic() + patience_s
        while not (events := self.poll()):
            if time.monotonic() > end_s:
                raise Transient(f"the server gave no answer to the first request within {patience_s:g} s; is it well?")
        status = events[0].status
        told = f"{status}: {self.last_body.decode('utf-8', errors='replace')}"
        if status == NO_ANSWER:
            raise BadRequest("the server closed the connection instead of answering; is it an HTTP/1.1 server?")
        if status == REFUSED:
            raise Transient(f"the server refused the first request with {told}; try again when it is ready")
        if status // 100 != 2:
            raise BadRequest(f"the server answered the first request with {told}; correct the url or the texts")

    def send(self, number: int) -> None:
        if not self._free:
            self._ended.append(Event(number, NO_ANSWER, self._clock()))
            return
        connection = self._free.pop()
        try:
            if not connection.start(number, self._messages[number % len(self._messages)]):
                self._watch(connection, READ | WRITE)
        except Lost:
            self._replace(connection)

    def poll(self) -> list[Event]:
        for key, events in self._selector.select(0):
            connection: Connection = key.data
            if not connection.stands:
                self._settle(connection)
                continue
            try:
                if events & WRITE and connection.go_on():
                    self._watch(connection, READ)
                if events & READ:
                    self._read(connection)
            except Lost:
                self._replace(connection)
        ended, self._ended = self._ended, []
        return ended

    def rest(self, ns: int) -> None:
        """Never: this thread spins."""

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            key.data.socket.close()
        self._selector.close()

    def _read(self, connection: Connection) -> None:
        status = connection.receive()
        if status is None:
            return
        number, connection.number = connection.number, FREE
        if number != FREE:
            self._ended.append(Event(number, status, self._clock()))
            self.last_body = connection.body
            if isinstance(connection, TimedConnection):
                self.timings[number] = connection.timing
        if number != FREE and connection.reusable:
            self._free.append(connection)
        else:  # what is said without being asked comes before a server closes
            self._replace(connection)

    def _connect(self) -> None:
        connection = self._kind(self._address)
        self._selector.register(connection.socket, WRITE, connection)

    def _settle(self, connection: Connection) -> None:
        if connection.established():
            self._watch(connection, READ)
            self._free.append(connection)
        else:
            self._drop(connection)

    def _replace(self, connection: Connection) -> None:
        if connection.number != FREE:
            self._ended.append(Event(connection.number, NO_ANSWER, self._clock()))
        elif connection in self._free:
            self._free.remove(connection)
        self._drop(connection)
        with suppress(OSError):  # no more descriptors: the pool is smaller by one
            self._connect()

    def _drop(self, connection: Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()

    def _watch(self, connection: Connection, events: int) -> None:
        self._selector.modify(connection.socket, events, connection)
