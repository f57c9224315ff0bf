"""One keep-alive connection to a server, with at most one request on its way. Nothing here waits."""

import socket
from contextlib import suppress
from typing import Any, Final

from httptools import HttpParserError, HttpResponseParser

from serving.errors import Transient

Address = tuple[socket.AddressFamily, tuple[Any, ...]]  # of which kind, and what `connect` takes

FREE: Final = -1  # the number of no request
_READ_BYTES: Final = 2**16
_SHOWN: Final = 200  # bytes of a body that a message quotes


class Lost(Exception):  # noqa: N818  (it is caught by what happened)
    """The server closed the connection, or speaks no HTTP."""


class Connection:
    """Opened without waiting: writable when it stands. `number` is the request it carries, or FREE.

    httptools calls the `on_` methods.
    """

    def __init__(self, address: Address) -> None:
        family, where = address
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(where)
        self.stands = False
        self.number = FREE
        self.body = b""
        self._kept = True
        self._parser = HttpResponseParser(self)
        self._status = 0
        self._unsent = memoryview(b"")

    def established(self) -> bool:
        """Ask once it is writable: whether the server took it."""
        with suppress(OSError):
            self.socket.getpeername()
            self.stands = True
        return self.stands

    @property
    def reusable(self) -> bool:
        """After an answer: whether another request may follow on this connection."""
        return self._kept and not self._unsent

    def start(self, number: int, message: bytes) -> bool:
        """Carry request `number`; as `go_on`."""
        self.number, self._unsent = number, memoryview(message)
        return self.go_on()

    def go_on(self) -> bool:
        """Send what the kernel takes; False where some of it must wait until the socket is writable.

        Raises:
            Lost: the connection broke.
        """
        try:
            self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except BlockingIOError:
            return False
        except OSError as error:
            raise Lost(str(error)) from error
        return not self._unsent

    def receive(self) -> int | None:
        """The status of an answer that is complete now; None while some of it is on its way.

        Raises:
            Lost: the connection ended before its answer did.
        """
        try:
            data = self.socket.recv(_READ_BYTES)
            if not data:
                raise Lost("the server closed the connection")
            self._parser.feed_data(data)
        except BlockingIOError:
            return None
        except (OSError, HttpParserError) as error:
            raise Lost(str(error)) from error
        status, self._status = self._status, 0
        return status or None

    def on_message_begin(self) -> None:
        self.body = b""

    def on_body(self, data: bytes) -> None:
        if len(self.body) < _SHOWN:
            self.body += data[:_SHOWN]

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:  # what is below announces an answer
            self._kept = self._parser.should_keep_alive() and not self._status
            self._status = self._status or status  # one that nobody asked for may come with it


class TimedConnection(Connection):
    """Also keeps what the last answer's Server-Timing says, as it stands; "" where it says nothing."""

    timing = ""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.timing = ""

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"server-timing":
            self.timing = value.decode("latin-1")


def address_of(host: str, port: int) -> Address:
    """Raises Transient where the host has no address."""
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, OverflowError, UnicodeError) as error:
        raise Transient(f"{host}:{port} has no address: {error}; check the url, or try again") from error
    return family, where
