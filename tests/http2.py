"""A client of gRPC that writes HTTP/2 by hand, to break its word as no library would."""

import socket
from typing import Final

from speaking import WAIT_S

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS = 0, 1, 3, 4
_END, _WHOLE = 1, 4
_NO_TABLE: Final = b"\0\1\0\0\0\0"  # answers write each header's name and value out


class Raw:
    """One connection, to `address` as a channel has it."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=WAIT_S)
        self.socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, _NO_TABLE))
        self._rest = b""

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def head(self, path: bytes, *streams: int, **fields: str) -> None:
        """Begin a call on each of these streams, which are odd."""
        every = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"here")]
        every += [(b"te", b"trailers"), (b"content-type", b"application/grpc")]
        every += [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
        block = b"".join(b"\0" + _sized(name) + _sized(value) for name, value in every)
        self.socket.sendall(b"".join(_frame(_HEADERS, _WHOLE, stream, block) for stream in streams))

    def data(self, stream: int, data: bytes, *, end: bool) -> None:
        """Some of the call's bytes: for each message 0, its length in four bytes, and itself."""
        self.socket.sendall(_frame(_DATA, _END if end else 0, stream, data))

    def status(self, stream: int) -> int:
        """Wait for the end of a call, and read its gRPC status."""
        while True:
            kind, flags, of, payload = self._next()
            if of == stream and kind == _HEADERS and flags & _END:
                told = payload.split(b"grpc-status", 1)[1]
                return int(told[1 : 1 + told[0]])
            assert not (of == stream and kind == _RESET), "the call was reset without a status"

    def _next(self) -> tuple[int, int, int, bytes]:
        head = self._read(9)
        return head[3], head[4], int.from_bytes(head[5:]), self._read(int.from_bytes(head[:3]))

    def _read(self, count: int) -> bytes:
        while len(self._rest) < count:
            more = self.socket.recv(65536)
            if not more:
                raise EOFError("the server closed the connection")
            self._rest += more
        found, self._rest = self._rest[:count], self._rest[count:]
        return found


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _sized(value: bytes) -> bytes:
    return bytes([len(value)]) + value
