"""How long a client may take, on a clock that the test turns, with a transport that takes as much as the test says."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from serving import connection as of_one
from serving import patience
from serving.connection import Connection
from serving.connections import Connections
from serving.heads import Limits
from serving.patience import LEAST_READ_BYTES

LIMITS = Limits(connections=4, head_s=10.0, idle_s=65.0, read_s=30.0)
GET = b"GET /a HTTP/1.1\r\nHost: here\r\n\r\n"
BYTES = 4 * 2**20


class Loop:
    """The running loop, with a clock of its own."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def time(self) -> float:
        return self.now_s

    def create_task(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        return asyncio.get_running_loop().create_task(coroutine)

    def call_soon(self, *told: Any, **context: Any) -> asyncio.Handle:
        return asyncio.get_running_loop().call_soon(*told, **context)


class Transport:
    """Has `unsent` bytes that its client has not read."""

    def __init__(self) -> None:
        self.unsent, self.written, self.closed = 0, b"", ""

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = "closed"

    def abort(self) -> None:
        self.closed = "aborted"

    def write_eof(self) -> None:
        self.closed = "written to its end"

    def is_closing(self) -> bool:
        return self.closed in ("closed", "aborted")

    def get_extra_info(self, _: str) -> None: ...
    def set_write_buffer_limits(self, *, high: int) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class House(Connections):
    """Connections whose application answers in the loop's next turn; `expire` does what the sweep does."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.told: list[str] = []
        super().__init__(self._answer, limits=limits, refused=self.told.append)
        self.loop: Any = Loop()

    async def _answer(self, _: Any, __: Any, send: Any) -> None:
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def connected(self) -> tuple[Connection, Transport]:
        connection, transport = self.connection(), Transport()
        connection.connection_made(transport)  # type: ignore[arg-type]
        return connection, transport

    async def asked(self) -> tuple[Connection, Transport]:
        """One that has been answered once."""
        connection, transport = self.connected()
        connection.data_received(GET)
        await asyncio.sleep(0)
        assert transport.written.startswith(b"HTTP/1.1 200 ")
        return connection, transport

    def after(self, seconds: float) -> None:
        self.loop.now_s += seconds
        for connection in [one for one in self.all if one.until_s < self.loop.now_s]:
            connection.expire()


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    for module in (of_one, patience):
        monkeypatch.setattr(module, "unread_bytes", lambda _: 0)
    return House()


def test_a_client_that_reads_slowly_is_given_time_as_long_as_it_reads(house: House) -> None:
    connection, transport = house.connected()
    transport.unsent = BYTES
    connection.pause_writing()
    while transport.unsent > LEAST_READ_BYTES:
        transport.unsent -= LEAST_READ_BYTES
        house.after(31)
        assert not transport.closed
    house.after(31)
    assert (transport.closed, house.told) == ("aborted", ["reader"])
    assert house.loop.now_s > 400


def test_a_client_that_reads_next_to_nothing_is_not(house: House) -> None:
    connection, transport = house.connected()
    transport.unsent = BYTES
    connection.pause_writing()
    transport.unsent -= LEAST_READ_BYTES - 1
    house.after(31)
    assert (transport.closed, house.told) == ("aborted", ["reader"])


def test_a_small_answer_that_is_not_read_is_waited_for_no_longer_than_a_large_one(house: House) -> None:
    async def script() -> Transport:
        _, transport = await house.asked()
        transport.unsent = 100
        house.after(29)
        assert not transport.closed
        house.after(2)
        return transport

    assert (asyncio.run(script()).closed, house.told) == ("aborted", ["reader"])


def test_who_has_read_its_answer_may_be_idle_for_longer(house: House) -> None:
    async def script() -> Transport:
        _, transport = await house.asked()
        house.after(31)
        house.after(33)
        assert not transport.closed
        house.after(2)
        return transport

    assert (asyncio.run(script()).closed, house.told) == ("written to its end", [])


def test_who_does_not_close_what_was_ended_is_not_waited_for(house: House) -> None:
    async def script() -> Transport:
        connection, transport = await house.asked()
        connection.close_if_idle()
        assert transport.closed == "written to its end"
        house.after(LIMITS.linger_s + 0.1)
        return transport

    assert (asyncio.run(script()).closed, house.told) == ("aborted", [])


# -- who gives way ---------------------------------------------------------------------------------------------------


def test_of_those_that_are_idle_the_one_that_was_so_for_the_longest_time_gives_way(house: House) -> None:
    async def script() -> list[str]:
        asked = [await house.asked() for _ in range(LIMITS.connections)]
        asked[0][0].data_received(GET)
        await asyncio.sleep(0)  # the first one is the last one now
        asked[1][1].unsent = 1  # has not read its answer
        new = [house.connected(), house.connected()]
        return [transport.closed for _, transport in (*asked, *new)]

    assert asyncio.run(script()) == ["", "", "closed", "closed", "", ""]
    assert house.told == ["idle", "idle"]
    assert len(house) == LIMITS.connections


def test_one_from_which_something_has_come_does_not_give_way(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script() -> list[str]:
        asked = [await house.asked() for _ in range(LIMITS.connections)]
        asked[0][0].data_received(GET[:5])
        monkeypatch.setattr(patience, "unread_bytes", lambda _: 1)
        _, new = house.connected()
        assert new.written.startswith(b"HTTP/1.1 503 ")
        return [transport.closed for _, transport in asked]

    assert asyncio.run(script()) == [""] * LIMITS.connections
    assert house.told == ["full"]


def test_who_has_just_connected_is_about_to_ask_and_who_has_not_asked_for_long_gives_way(house: House) -> None:
    silent = [house.connected()[1] for _ in range(LIMITS.connections)]
    _, refused = house.connected()
    assert refused.written.startswith(b"HTTP/1.1 503 ")
    house.after(1.5)
    house.connected()
    house.connected()
    assert [transport.closed for transport in silent] == ["closed", "closed", "", ""]
    assert house.told == ["full", "idle", "idle"]


def test_to_be_full_costs_little_however_many_are_not_idle_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(patience, "unread_bytes", lambda _: looked.append(1) or 1)
    house = House(Limits(connections=100))

    async def script() -> None:
        for _ in range(100):
            await house.asked()
        house.connected()

    asyncio.run(script())
    assert (len(looked), house.told) == (8, ["full"])


def test_who_was_answered_for_the_last_time_gives_way_too_and_who_was_refused_takes_no_place(house: House) -> None:
    async def script() -> list[str]:
        asked = [await house.asked() for _ in range(LIMITS.connections)]
        for connection, _ in asked:
            connection.data_received(GET.replace(b"1.1", b"1.0"))
        refused = house.connected()[1]
        await asyncio.sleep(0)
        assert [transport.closed for _, transport in asked] == ["written to its end"] * LIMITS.connections
        house.connected()
        return [transport.closed for transport in (*(transport for _, transport in asked), refused)]

    assert asyncio.run(script()) == ["closed", *["written to its end"] * LIMITS.connections]
    assert house.told == ["full", "idle"]


def test_who_has_left_is_idle_no_more(house: House) -> None:
    async def script() -> None:
        connection, _ = await house.asked()
        connection.connection_lost(None)

    asyncio.run(script())
    assert (len(house), len(house.idle)) == (0, 0)
