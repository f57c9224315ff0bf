"""Calls of gRPC that keep their messages back, against a real server: they take nobody's place."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton
from asking_grpc import Doorkeeper, asking, call, calling, refusal, text
from http2 import Raw
from speaking import WAIT_S, Speaking, speaking, tiny_live

from serving.protocols.grpc_messages import SERVICE, message
from serving.protocols.grpc_server import start_grpc
from serving.room import Room

INFER = f"/{SERVICE}/ModelInfer"
READY = f"/{SERVICE}/ModelReady"
MANY = range(1, 1601, 2)  # more than there are places, and fewer than one connection may have


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Speaking]:
    with speaking(tiny_live(tmp_path)) as server:
        yield server


def started(server: Speaking, count: int) -> None:
    """Wait until so many calls have begun, less those that ended."""
    value = server.desk.metrics.registry.get_sample_value
    end = time.monotonic() + WAIT_S
    while (value("retort_requests_in_flight") or 0) < count:
        assert time.monotonic() < end, value("retort_requests_in_flight")
        time.sleep(0.005)


def test_heads_without_messages_lock_nobody_out(server: Speaking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.protocols.grpc_places.PROMPT_S", WAIT_S)  # none of them gives way for being slow
    with calling(server) as address, Raw(address) as raw:
        raw.head(INFER.encode(), *MANY)
        raw.head(READY.encode(), 1601)
        started(server, 320)
        time.sleep(0.1)
        with triton.InferenceServerClient(address) as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready("m")
            assert client.get_model_metadata("m").name == "m"
        for _ in range(20):
            assert call(address, asking(text("good")))[0].model_version == "7"
        assert server.desk.metrics.registry.get_sample_value("retort_requests_in_flight") == 319  # one gave way


def test_questions_without_messages_lock_out_no_questions(server: Speaking) -> None:
    with calling(server) as address, Raw(address) as raw:
        raw.head(READY.encode(), *MANY)
        time.sleep(0.1)
        assert call(address, message("ModelReadyRequest")(name="m"), method="ModelReady")[0].ready
        assert raw.status(1) == grpc.StatusCode.UNAVAILABLE.value[0]  # it gave way
        assert call(address, asking(text("good")))[0].model_version == "7"


def test_a_call_that_gave_way_is_counted_as_turned_away(server: Speaking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.protocols.grpc_service.SPARE_CALLS", 1 - server.desk.batcher.queue.limit)
    monkeypatch.setattr("serving.protocols.grpc_places.LATE_S", 1.0)
    with calling(server) as address:
        with grpc.insecure_channel(address) as channel, Raw(address) as raw:
            waits = channel.stream_unary(INFER).future(never_said(raw))
            started(server, 1)
            assert (
                refusal(address, asking(text("good"))).details() == "the server has 1 calls, its most; retry after 1 s"
            )
            time.sleep(1.0)
            assert call(address, asking(text("good")))[0].model_version == "7"
            with pytest.raises(grpc.RpcError) as refused:
                waits.result(WAIT_S)
        assert server.counts() == {"ok": 1, "rejected": 2}
    error: Any = refused.value
    told = "the message was not there yet when others needed its place; retry after 1 s"
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, told)
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"


def never_said(raw: Raw) -> Iterator[bytes]:
    """Waits until the connection is closed."""
    while raw.socket.fileno() >= 0:
        time.sleep(0.01)
    yield from ()


def test_a_message_has_as_long_as_a_body_over_http(server: Speaking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.protocols.grpc_places.BODY_TIMEOUT_S", 0.3)
    guard = Doorkeeper()
    with calling(server, guard=guard) as address, Raw(address) as raw:
        raw.head(INFER.encode(), 1, authorization="friend")
        raw.data(1, b"\0\0\0\1\0" + bytes(100), end=False)
        assert raw.status(1) == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert server.counts() == {"client_error": 1}
    assert [(one["status"], one["outcome"]) for one in guard.written] == [(408, "client_error")]
    assert 0.25 < guard.written[0]["seconds"] < 5


def test_a_client_that_says_how_long_it_waits_is_told_when_its_message_came_too_late(server: Speaking) -> None:
    guard = Doorkeeper()
    with calling(server, guard=guard) as address, Raw(address) as raw:
        raw.head(INFER.encode(), 1, authorization="friend", x_request_timeout_ms="100")
        assert raw.status(1) == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        assert server.counts() == {"expired": 1}
    assert [(one["status"], one["outcome"]) for one in guard.written] == [(504, "expired")]
    assert guard.written[0]["seconds"] < 5


def test_few_messages_may_be_slow_and_the_slowest_gives_way(server: Speaking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.protocols.grpc_places.PROMPT_S", 0.05)
    room = Room(most_bytes=2**23, body_bytes=2**22)
    with calling(server, room=room) as address, Raw(address) as raw:
        for stream in (1, 3, 5):
            raw.head(INFER.encode(), stream)
            started(server, stream // 2 + 1)
        assert raw.status(1) == grpc.StatusCode.UNAVAILABLE.value[0]
        time.sleep(0.2)
        assert server.desk.metrics.registry.get_sample_value("retort_requests_in_flight") == 2
        body = asking(text("good")).SerializeToString()
        raw.data(3, b"\0" + len(body).to_bytes(4) + body, end=True)
        assert raw.status(3) == 0


def test_who_has_no_key_is_refused_before_the_message(server: Speaking) -> None:
    with calling(server, guard=Doorkeeper()) as address, Raw(address) as raw:
        raw.head(INFER.encode(), 1)
        assert raw.status(1) == grpc.StatusCode.UNAUTHENTICATED.value[0]
        assert server.counts() == {"client_error": 1}


def test_signs_of_life_need_no_key_and_all_else_does(server: Speaking) -> None:
    requests = {"ServerLive": "", "ServerReady": "", "ModelReady": "m", "ServerMetadata": "", "ModelMetadata": "m"}
    open_ones, codes = [], set()
    with calling(server, guard=Doorkeeper()) as address:
        for method, name in requests.items():
            request = message(f"{method}Request")(**({"name": name} if name else {}))
            try:
                call(address, request, method=method)
                open_ones.append(method)
            except grpc.RpcError as error:
                codes.add(error.code())  # type: ignore[attr-defined]
        codes.add(refusal(address, asking(text("good"))).code())
    assert open_ones == ["ServerLive", "ServerReady", "ModelReady"]
    assert codes == {grpc.StatusCode.UNAUTHENTICATED}


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "the call has no message; send one"), (2, "the call has a second message; send one in each")],
)
def test_a_call_has_one_message(server: Speaking, count: int, told: str) -> None:
    request = asking(text("good")).SerializeToString()
    with calling(server) as address:
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as refused:
            channel.stream_unary(INFER)(iter([request] * count), timeout=WAIT_S)
        assert server.counts() == {"client_error": 1}
    error: Any = refused.value
    assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, told)


def test_a_client_that_leaves_before_its_message_is_dropped(server: Speaking) -> None:
    guard = Doorkeeper()
    with calling(server, guard=guard) as address:
        with Raw(address) as raw:
            raw.head(INFER.encode(), 1, authorization="friend")
            started(server, 1)
        end = time.monotonic() + WAIT_S
        while not guard.written:
            assert time.monotonic() < end
            time.sleep(0.005)
        assert server.counts() == {"dropped": 1}
    assert [(one["status"], one["outcome"]) for one in guard.written] == [(499, "dropped")]


def test_a_stop_waits_no_longer_for_a_message_than_a_message_has(
    server: Speaking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.protocols.grpc_places.BODY_TIMEOUT_S", 0.5)
    serving = server.run(start_grpc(server.desk, host="127.0.0.1", port=0))
    with Raw(f"127.0.0.1:{serving.port}") as raw:
        raw.head(INFER.encode(), 1)
        started(server, 1)
        began_s = time.monotonic()
        server.run(serving.stop(15.0))
    assert time.monotonic() - began_s < 5
