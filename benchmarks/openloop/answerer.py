"""A server that answers every request with the same bytes: what the generator is tested and calibrated against.

    python -m benchmarks.openloop.answerer [--port 0] [--status 200] [--service-ms 0] [--one-shot]

With `--service-ms` it works on one request after the other, each for so long (to a millisecond), as a server with one
executor and an endless queue does: its capacity is 1000 / service_ms requests a second. With `--one-shot` each
connection ends after one answer. It ends with SIGTERM.
"""

import argparse
import asyncio
import signal
from collections.abc import Callable, Sequence
from typing import Final, cast

import uvloop
from httptools import HttpParserError, HttpRequestParser

_BODY: Final = b'{"results": []}'


class Answerer(asyncio.Protocol):
    """One connection. `delay_s` says, when a request is complete, how long its answer takes from then."""

    def __init__(self, answer: bytes, *, delay_s: Callable[[], float], one_shot: bool) -> None:
        self._answer, self._delay_s, self._one_shot = answer, delay_s, one_shot
        self._parser = HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            self._close()

    def on_message_complete(self) -> None:
        delay_s = self._delay_s()
        if delay_s > 0:
            asyncio.get_running_loop().call_later(delay_s, self._reply)
        else:
            self._reply()

    def _reply(self) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.write(self._answer)
            if self._one_shot:
                self._close()

    def _close(self) -> None:
        if self._transport:
            self._transport.close()


def one_at_a_time(service_s: float, *, clock: Callable[[], float]) -> Callable[[], float]:
    """How long a request that comes now takes, if each waits for those before it."""
    free_s = 0.0

    def delay_s() -> float:
        nonlocal free_s
        now_s = clock()
        free_s = max(free_s, now_s) + service_s
        return free_s - now_s

    return delay_s


def answer_of(status: int, *, one_shot: bool) -> bytes:
    """The whole message."""
    close = "Connection: close\r\n" if one_shot else ""
    head = f"HTTP/1.1 {status} Constant\r\nContent-Type: application/json\r\n{close}Content-Length: {len(_BODY)}"
    return head.encode("ascii") + b"\r\n\r\n" + _BODY


async def serve(*, port: int, status: int, service_s: float, one_shot: bool) -> None:
    """Listen on the loopback until SIGTERM."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    delay_s = one_at_a_time(service_s, clock=loop.time) if service_s else lambda: 0.0
    answer = answer_of(status, one_shot=one_shot)
    server = await loop.create_server(
        lambda: Answerer(answer, delay_s=delay_s, one_shot=one_shot), "127.0.0.1", port, backlog=1024
    )
    print(f"answering on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await stopped.wait()
    server.close()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0 takes any free port and prints it")
    parser.add_argument("--status", type=int, default=200)
    parser.add_argument("--service-ms", type=float, default=0.0)
    parser.add_argument("--one-shot", action="store_true", help="close each connection after its answer")
    asked = parser.parse_args(arguments)
    serving = serve(port=asked.port, status=asked.status, service_s=asked.service_ms / 1e3, one_shot=asked.one_shot)
    uvloop.run(serving)


if __name__ == "__main__":
    main()
