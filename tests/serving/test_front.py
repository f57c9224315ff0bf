"""The loop's thread, and what becomes of it when a server beside HTTP ends by itself."""

import asyncio
import threading

import httpx
import pytest
from speaking import WAIT_S

from serving.connections import Connections
from serving.errors import Transient
from serving.front import Front
from serving.listening import address_of, bind, listen


class Mortal:
    """Another protocol's server, until `die`."""

    def __init__(self) -> None:
        self.stopped = False

    async def start(self) -> "Mortal":
        self._loop, self._dead = asyncio.get_running_loop(), asyncio.Event()
        return self

    async def stop(self, grace_s: float) -> None:
        self.stopped = True

    async def ended(self) -> None:
        await self._dead.wait()
        raise Transient("it is dead")

    def die(self) -> None:
        self._loop.call_soon_threadsafe(self._dead.set)


async def hello(_: object, __: object, send: object) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})  # type: ignore[operator]
    await send({"type": "http.response.body", "body": b""})  # type: ignore[operator]


def test_a_server_beside_http_that_ends_is_told_and_http_serves_on_until_it_is_stopped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    other, ready, ended = Mortal(), threading.Event(), threading.Event()
    with bind("127.0.0.1", 0) as listener:
        listen(listener)
        front = Front(Connections(hello), listener=listener, others=other.start, ready=ready.set, ended=ended.set)
        front.start()
        assert ready.wait(WAIT_S)
        assert not ended.is_set()
        other.die()
        assert ended.wait(WAIT_S)
        front.join(0.05)  # it raises nothing yet
        assert httpx.get(address_of(listener)).status_code == 200
        front.stop()
        with pytest.raises(Transient, match=r"^it is dead$"):
            front.join(WAIT_S)
    assert other.stopped
    told = [record.getMessage() for record in caplog.records if record.name == "serving.front"]
    assert told == ["a server beside HTTP ended, so this process does, too: it is dead"]


def test_a_front_that_is_stopped_raises_nothing_of_a_server_that_lives() -> None:
    other, ready = Mortal(), threading.Event()
    with bind("127.0.0.1", 0) as listener:
        listen(listener)
        front = Front(Connections(hello), listener=listener, others=other.start, ready=ready.set, ended=lambda: None)
        front.start()
        assert ready.wait(WAIT_S)
        front.stop()
        front.join(WAIT_S)
    assert other.stopped
