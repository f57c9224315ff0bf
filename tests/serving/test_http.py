"""What a request costs and knows on our own connections; tests/serving/test_app.py has the routes."""

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_versions import until
from speaking import Speaking, speaking, tiny_live

BODY = b'{"texts": ["good"]}'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Speaking]:
    with speaking(tiny_live(tmp_path)) as server:
        yield server


def asking(*headers: bytes) -> bytes:
    lines = (b"POST /classify HTTP/1.1", b"Host: h", b"Content-Length: %d" % len(BODY), *headers, b"", BODY)
    return b"\r\n".join(lines)


def connect(server: Speaking) -> socket.socket:
    host, port = server.host.split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def read_all(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


async def tasks() -> int:
    return len(asyncio.all_tasks())


def test_a_request_that_is_all_here_is_no_task(server: Speaking) -> None:
    before = server.run(tasks())
    server.hold()
    with connect(server) as client:
        client.sendall(asking(b"Connection: close"))
        server.until_held()
        assert server.run(tasks()) == before
        server.gate.set()
        assert read_all(client).startswith(b"HTTP/1.1 200 ")


def test_a_request_whose_body_comes_later_is_one_task(server: Speaking) -> None:
    before = server.run(tasks())
    server.hold()
    whole = asking(b"Connection: close")
    with connect(server) as client:
        client.sendall(whole[:-1])
        until(lambda: server.run(tasks()) == before + 1)
        client.sendall(whole[-1:])
        server.until_held()
        assert server.run(tasks()) == before + 1
        server.gate.set()
        assert read_all(client).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_leaves_ends_its_request(server: Speaking) -> None:
    before = server.run(tasks())
    server.hold()
    with connect(server) as client:
        client.sendall(asking())
        server.until_held()
    until(lambda: sum(server.desk.metrics.requests.outcomes.values()) == 1)
    assert server.run(tasks()) == before
    assert server.counts() == {"dropped": 1}


def test_the_time_behind_another_request_of_its_connection_counts_against_a_client_s_deadline(
    server: Speaking,
) -> None:
    server.hold()
    with connect(server) as client:
        client.sendall(asking() + asking(b"X-Request-Timeout-Ms: 100", b"Connection: close"))
        server.until_held()
        time.sleep(0.2)
        server.gate.set()
        first, second = read_all(client).split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"200 ")
    assert second.startswith((b"503 ", b"504 "))


def test_the_total_in_server_timing_begins_when_the_head_was_read(server: Speaking) -> None:
    server.hold()
    with connect(server) as client:
        client.sendall(asking() + asking(b"Connection: close"))
        server.until_held()
        time.sleep(0.2)
        server.gate.set()
        _, second = read_all(client).split(b"HTTP/1.1 ")[1:]
    assert second.startswith(b"200 ")
    assert float(second.split(b"total;dur=")[1].split(b"\r")[0]) > 190
