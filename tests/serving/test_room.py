import asyncio
import re
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from speaking import Speaking, speaking, tiny_live

from serving.app import build
from serving.room import MOST_BYTES, OWN_BYTES, Room
from serving.tickets import Overloaded

LARGE = b'{"texts": ["good"]}' + b" " * 80_000
FULL = r"the server holds \d+ bytes of large requests, 100000 at most; retry after 1 s"


def test_large_requests_share_the_room_and_give_it_back() -> None:
    room = Room(most_bytes=100_000)
    held = room.grow(room.grow(0, 70_000), 90_000)
    with pytest.raises(Overloaded) as refused:
        room.grow(0, 70_000)
    told = "the server holds 90000 bytes of large requests, 100000 at most; retry after 1 s"
    assert (str(refused.value), refused.value.retry_after_s, room.held_bytes) == (told, 1, 90_000)
    room.free(held)
    assert room.grow(0, 70_000) == room.held_bytes == 70_000


def test_small_requests_are_taken_however_full_it_is() -> None:
    room = Room(most_bytes=0)
    room.require(OWN_BYTES)
    with room.holding(OWN_BYTES):
        assert room.held_bytes == 0
    with pytest.raises(Overloaded), room.holding(OWN_BYTES + 1):
        raise AssertionError("it was taken")


@pytest.fixture
def room() -> Room:
    return Room(most_bytes=100_000)


@pytest.fixture
def server(tmp_path: Path, room: Room) -> Iterator[Speaking]:
    """A server with room for one large request; another application than its own stands before the same desk."""
    apps: list[Any] = []

    async def roomy(scope: Any, receive: Any, send: Any) -> None:
        await apps[0](scope, receive, send)

    with speaking(tiny_live(tmp_path), around=lambda _: roomy) as server:
        apps.append(build(server.desk, room=room))
        yield server


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 30_000):
        yield body[start : start + 30_000]


@pytest.mark.parametrize("chunked", [False, True])
def test_above_the_room_large_requests_are_503_and_small_ones_are_answered(
    server: Speaking, room: Room, chunked: bool
) -> None:
    async def script() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
            server.hold()
            first = asyncio.create_task(client.post("/classify", content=LARGE))
            await asyncio.to_thread(server.until_held)
            second = await client.post("/classify", content=in_pieces(LARGE) if chunked else LARGE)
            small = asyncio.create_task(client.post("/classify", json={"texts": ["good"]}))
            server.gate.set()
            answers = [await first, second, await small]
            return [*answers, await client.post("/classify", content=LARGE)]

    answers = asyncio.run(script())
    assert [answer.status_code for answer in answers] == [200, 503, 200, 200]
    assert re.fullmatch(FULL, answers[1].json()["error"])
    assert answers[1].headers["retry-after"] == "1"
    assert room.held_bytes == 0
    assert server.counts() == {"ok": 3, "rejected": 1}


def test_to_announce_large_bodies_takes_nobody_s_place(server: Speaking) -> None:
    """Else a few clients that send nothing would keep all others out."""
    head = b"POST /classify HTTP/1.1\r\nHost: h\r\nContent-Length: 90000\r\n\r\n"
    host, port = server.host.split(":")
    clients = [socket.create_connection((host, int(port))) for _ in range(5)]
    try:
        for client in clients:
            client.sendall(head + b" " * 1000)
        assert httpx.post(f"{server.url}/classify", content=LARGE).status_code == 200
    finally:
        for client in clients:
            client.close()


def test_the_largest_body_is_taken_where_nothing_else_is_held_however_large_it_may_be() -> None:
    room = Room.for_bodies(2 * MOST_BYTES)
    with room.holding(2 * MOST_BYTES):
        pass
    assert (room.body_bytes, Room.for_bodies(100).most_bytes, Room().body_bytes) == (
        2 * MOST_BYTES,
        MOST_BYTES,
        4 * 2**20,
    )


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_what_the_server_was_told_is_413(server: Speaking, room: Room, chunked: bool) -> None:
    async def script() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
            room.body_bytes = len(LARGE) - 1
            refused = await client.post("/classify", content=in_pieces(LARGE) if chunked else LARGE)
            room.body_bytes = len(LARGE)
            return [refused, await client.post("/classify", content=in_pieces(LARGE) if chunked else LARGE)]

    refused, taken = asyncio.run(script())
    told = {"error": f"the body exceeds the {len(LARGE) - 1} bytes allowed; split the request"}
    assert (refused.status_code, refused.json(), taken.status_code) == (413, told, 200)


def test_a_server_has_room_for_sixteen_of_the_largest_bodies() -> None:
    assert MOST_BYTES == 16 * 4 * 2**20
