"""gRPC's own server: it stays up, and has no more connections than it may."""

import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from asking_grpc import asking, call, calling, text
from fakes import tiny_bundle
from http2 import Raw
from served import running
from speaking import WAIT_S, speaking, tiny_live

from serving.errors import Transient
from serving.protocols.grpc_server import Serving, start_grpc
from serving.room import Room


def answered_again(address: str, *, model: str = "m") -> Any:
    """The answer of a server that may be about to start."""
    request = asking(text("good"))
    request.model_name = model
    end = time.monotonic() + WAIT_S
    while True:
        try:
            return call(address, request)[0]
        except grpc.RpcError:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_a_method_whose_name_is_no_utf_8_does_not_end_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with speaking(tiny_live(tmp_path)) as server, calling(server) as address:
        for _ in range(3):
            with Raw(address) as raw:
                raw.head(b"/\xff", 1)
                assert raw.status(1) == grpc.StatusCode.CANCELLED.value[0]
                assert answered_again(address).model_version == "7"
                assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200
    told = [record.getMessage() for record in caplog.records if record.name == "serving.protocols.grpc_server"]
    assert len(told) == 3
    assert told[0].startswith("gRPC ended by itself, and is started again: 'utf-8' codec can't decode byte 0xff")


def test_the_calls_under_way_are_answered_when_it_ends_by_itself(tmp_path: Path) -> None:
    with speaking(tiny_live(tmp_path)) as server, calling(server) as address:
        server.hold()
        answers: list[Any] = []
        first = threading.Thread(target=lambda: answers.append(call(address, asking(text("good")))[0]))
        first.start()
        server.until_held()
        with Raw(address) as raw:
            raw.head(b"/\xff", 1)
            raw.status(1)
            server.gate.set()
            first.join()
            assert answered_again(address).model_version == "7"
    assert answers[0].outputs[1].contents.bytes_contents[0] == b"positive"


def test_one_that_cannot_be_started_again_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.protocols.grpc_server.AGAIN_S", 0.01)
    with speaking(tiny_live(tmp_path)) as server:
        serving: Serving = server.run(start_grpc(server.desk, host="127.0.0.1", port=0))
        tries = []

        async def taken(port: int) -> None:
            tries.append(port)
            raise Transient("port 1 is taken")

        monkeypatch.setattr(serving, "_start", taken)
        with Raw(f"127.0.0.1:{serving.port}") as raw:
            raw.head(b"/\xff", 1)
            with pytest.raises(Transient, match=r"^port 1 is taken$"):
                server.run(serving.ended())
        assert tries == [serving.port] * 20
        server.run(serving.stop(1.0))


def test_connections_above_the_most_are_closed(tmp_path: Path) -> None:
    with speaking(tiny_live(tmp_path)) as server, calling(server, connections=2) as address:
        with Raw(address) as first, Raw(address) as second:
            first.head(b"/none", 1)
            second.head(b"/none", 1)
            assert [first.status(1), second.status(1)] == [grpc.StatusCode.UNIMPLEMENTED.value[0]] * 2
            host, port = address.split(":")
            with socket.create_connection((host, int(port)), timeout=WAIT_S) as third:
                assert third.recv(9) == b""
        assert answered_again(address).model_version == "7"


def test_the_largest_message_is_the_room_s(tmp_path: Path) -> None:
    with speaking(tiny_live(tmp_path)) as server, calling(server, room=Room(body_bytes=1000)) as address:
        assert call(address, asking(text("good" * 20)))[0].model_version == "7"
        with pytest.raises(grpc.RpcError) as refused:
            call(address, asking(text("good" * 300)))
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]


def test_a_process_serves_on_and_ends_well_after_a_name_that_is_no_utf_8(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    with running(bundle.path, "--grpc-port", "0") as server:
        end = time.monotonic() + WAIT_S
        while not (found := re.search(r"gRPC on port (\d+)", server.errors.read_text())):
            assert time.monotonic() < end
            time.sleep(0.01)
        address = f"127.0.0.1:{found[1]}"
        with Raw(address) as raw:
            raw.head(b"/\xff", 1)
            raw.status(1)
        assert answered_again(address, model="tiny").model_name == "tiny"
        assert httpx.get(f"{server.url}/v2/health/live").status_code == 200
        assert server.stop() == 0
