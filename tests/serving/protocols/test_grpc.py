"""The Open Inference Protocol over gRPC, by tritonclient and by plain channels against a real server."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from asking_grpc import Doorkeeper, asking, call, calling, refusal, text
from fakes import VOCABULARY
from google.protobuf.descriptor import FieldDescriptor
from speaking import WAIT_S, Speaking, speaking, tiny_live
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from serving.errors import Transient
from serving.protocols.grpc_messages import SERVICE, message, methods
from serving.protocols.grpc_server import Serving, start_grpc
from serving.room import Room

IDS = {word: index for index, word in enumerate(VOCABULARY)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Speaking]:
    with speaking(tiny_live(tmp_path_factory.mktemp("single"))) as server:
        yield server


@pytest.fixture(scope="module")
def address(server: Speaking) -> Iterator[str]:
    with calling(server) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address) as client:
        yield client


def ids(*rows: list[int], name: str = "input_ids", **changes: Any) -> dict[str, Any]:
    contents = {"int64_contents": [each for row in rows for each in row]}
    return {"name": name, "datatype": "INT64", "shape": [len(rows), len(rows[0])], "contents": contents, **changes}


# -- the messages ------------------------------------------------------------------------------------------------------


def shape_of(descriptor: Any) -> dict[str, tuple[Any, ...]]:
    """Name, number and type of each field of a message, by those of the messages in it."""
    found: dict[str, tuple[Any, ...]] = {}
    for field in descriptor.fields:
        kind = field.message_type.full_name if field.type == FieldDescriptor.TYPE_MESSAGE else field.type
        choice = field.containing_oneof.name if field.containing_oneof else None
        found[field.name] = (field.number, kind, field.is_repeated, choice)
    return found


def every_message(descriptors: Any) -> Iterator[Any]:
    for descriptor in descriptors:
        yield descriptor
        yield from every_message(descriptor.nested_types)


def test_every_field_has_the_number_and_type_that_triton_gives_it() -> None:
    kinds = [*(kind for pair in methods().values() for kind in pair)]
    kinds += [message("InferParameter"), message("InferTensorContents")]
    ours = {each.full_name: each for each in every_message([kind.DESCRIPTOR for kind in kinds])}
    theirs = {each.full_name: each for each in every_message(service_pb2.DESCRIPTOR.message_types_by_name.values())}
    assert len(ours) == 23
    for name, descriptor in ours.items():
        known = shape_of(theirs[name])
        assert {field: known.get(field) for field in shape_of(descriptor)} == shape_of(descriptor), name


def test_every_method_is_triton_s_too() -> None:
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert service.full_name == SERVICE
    for name, (request, response) in methods().items():
        theirs = service.methods_by_name[name]
        assert theirs.input_type.full_name == request.DESCRIPTOR.full_name
        assert theirs.output_type.full_name == response.DESCRIPTOR.full_name
    assert set(methods()) == {
        "ServerLive",
        "ServerReady",
        "ModelReady",
        "ServerMetadata",
        "ModelMetadata",
        "ModelInfer",
    }


# -- tritonclient ------------------------------------------------------------------------------------------------------


def test_tritonclient_finds_a_server_that_lives_and_is_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("m")
    assert client.is_model_ready("m", "7")
    assert not client.is_model_ready("m", "8")
    assert not client.is_model_ready("other")


def test_tritonclient_reads_the_metadata_of_server_and_model(client: triton.InferenceServerClient) -> None:
    assert client.get_server_metadata(as_json=True) == {"name": "retort", "version": "0.1.0"}
    told = client.get_model_metadata("m", "7", as_json=True)
    assert (told["name"], told["versions"], told["platform"]) == ("m", ["7"], "onnxruntime_onnx")
    assert told["inputs"][0] == {"name": "text", "datatype": "BYTES", "shape": ["-1"]}
    assert told["outputs"] == [
        {"name": "scores", "datatype": "FP32", "shape": ["-1", "2"]},
        {"name": "label", "datatype": "BYTES", "shape": ["-1"]},
    ]


def test_tritonclient_asks_with_texts(client: triton.InferenceServerClient, server: Speaking) -> None:
    given = triton.InferInput("text", [2, 1], "BYTES")
    given.set_data_from_numpy(np.array([["good"], ["bad 😀"]], np.object_))
    wanted = [triton.InferRequestedOutput("scores"), triton.InferRequestedOutput("label")]
    result = client.infer("m", [given], model_version="7", outputs=wanted, request_id="one")
    answer = result.get_response()
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "7", "one")
    assert {key: value.string_param for key, value in answer.parameters.items()} == {
        "version": "7",
        "digest": server.live.digest,
    }
    plain = httpx.post(f"{server.url}/classify", json={"texts": ["good", "bad 😀"]}).json()["results"]
    assert result.as_numpy("label").tolist() == [b"positive", b"negative"]
    assert result.as_numpy("scores").tolist() == [pytest.approx(list(one["scores"].values())) for one in plain]


def test_tritonclient_asks_with_the_ids_of_its_own_tokenizer(client: triton.InferenceServerClient) -> None:
    rows = np.array([[2, IDS["good"], 3, 0], [2, IDS["bad"], IDS["bad"], 3]], np.int64)
    mask = (rows != 0).astype(np.int64)
    inputs = [triton.InferInput(name, rows.shape, "INT64") for name in ("input_ids", "attention_mask")]
    inputs[0].set_data_from_numpy(rows)
    inputs[1].set_data_from_numpy(mask)
    assert client.infer("m", inputs).as_numpy("label").tolist() == [b"positive", b"negative"]


def test_tritonclient_of_asyncio_is_answered_too(address: str) -> None:
    import asyncio

    import tritonclient.grpc.aio as aio

    async def ask() -> list[bytes]:
        async with aio.InferenceServerClient(address) as client:
            given = triton.InferInput("text", [1], "BYTES")
            given.set_data_from_numpy(np.array(["good"], np.object_))
            results = await asyncio.gather(*(client.infer("m", [given]) for _ in range(20)))
            found: list[bytes] = [result.as_numpy("label")[0] for result in results]
            return found

    assert asyncio.run(ask()) == [b"positive"] * 20


def test_tritonclient_is_told_why_it_is_refused(client: triton.InferenceServerClient) -> None:
    given = triton.InferInput("text", [1], "BYTES")
    given.set_data_from_numpy(np.array(["good"], np.object_))
    with pytest.raises(InferenceServerException) as refused:
        client.infer("other", [given])
    assert refused.value.message() == "there is no model 'other' here; this server has 'm'"
    assert refused.value.status() == "StatusCode.NOT_FOUND"


# -- typed contents ----------------------------------------------------------------------------------------------------


def test_a_message_of_very_many_outputs_or_parameters_is_refused_unread(address: str) -> None:
    told = "the message has more than the 4104 fields that are read; split the request"
    for body in (bytes([6 << 3 | 2, 0]) * 2**20, bytes([7 << 3 | 2, 0]) * 2**20):
        refused = refusal(address, body)
        assert (refused.code(), refused.details()) == (grpc.StatusCode.INVALID_ARGUMENT, told)


def test_base64_is_no_text_for_a_whole_request_either(address: str) -> None:
    refused = refusal(address, asking(text("a"), parameters={"content_type": {"string_param": "base64"}}))
    told = "the request has the content_type 'base64'; send plain text, which is 'str'"
    assert (refused.code(), refused.details()) == (grpc.StatusCode.INVALID_ARGUMENT, told)


def test_what_comes_typed_is_answered_typed(address: str, server: Speaking) -> None:
    answer, trailing = call(address, asking(text("good", "bad")))
    scores, label = answer.outputs
    assert (scores.name, [*scores.shape], len(scores.contents.fp32_contents)) == ("scores", [2, 2], 4)
    assert json.loads(scores.parameters["labels"].string_param) == ["negative", "positive"]
    assert [*label.contents.bytes_contents] == [b"positive", b"negative"]
    assert not answer.raw_output_contents
    assert (trailing["x-model-version"], trailing["x-model-digest"]) == ("7", server.live.digest)
    phases = [phase.split(";dur=")[0] for phase in trailing["server-timing"].split(", ")]
    assert phases == ["queue", "tokenize", "infer", "total"]


def test_ids_of_a_tagger_have_the_scores_of_their_tokens(tmp_path: Path) -> None:
    with speaking(tiny_live(tmp_path, task="token-classification")) as tagger, calling(tagger) as address:
        (scores,) = call(address, asking(ids([2, IDS["good"], 3])))[0].outputs
        (entities,) = call(address, asking(text("good day")))[0].outputs
    assert (scores.name, [*scores.shape]) == ("token_scores", [1, 3, 3])
    assert json.loads(entities.contents.bytes_contents[0])[0]["text"] == "good"


REFUSED: dict[str, tuple[Any, str]] = {
    "nothing": (asking(), "the input 'text' is missing; send it, or 'input_ids'"),
    "type": (asking(text("a", datatype="FP32")), "input 'text' is BYTES, not 'FP32'"),
    "count": (asking(text("a", shape=[3])), "input 'text' has 1 value(s), and its shape [3] says 3"),
    "minus": (
        asking(text("a", shape=[-1])),
        "input 'text' has the shape [-1]; its sizes are whole numbers, none below 0",
    ),
    "vast": (
        asking(ids([2] * 129)),
        "input 'input_ids' has 129 values, more than the 128 that are read; split the request",
    ),
    "more": (asking(ids([2] * 500, shape=[1, 8])), "input 'input_ids' has 129 value(s), and its shape [1, 8] says 8"),
    "six": (asking(*[text("a")] * 6), "an input is there twice; send each once"),
    "id": (asking(ids([2, 999])), "item 0 has the token id 999; this model's are 0 to 10"),
    "utf-8": (
        asking(text("a", contents={"bytes_contents": [b"\xff"]})),
        "the data of input 'text' is no UTF-8: invalid start byte at byte 0",
    ),
    "output": (
        asking(text("a"), outputs=[{"name": "logits"}]),
        "there is no output 'logits' for this input; this model gives scores and label",
    ),
    "both": (
        asking(text("a"), raw_input_contents=[b"\1\0\0\0a"]),
        "input 'text' has contents and raw_input_contents; send one or the other",
    ),
    "raw": (
        asking(text("a"), raw_input_contents=[b"", b""]),
        "there are 2 raw_input_contents for 1 input(s); send one for each",
    ),
    "base64": (
        asking(text("a", parameters={"content_type": {"string_param": "base64"}})),
        "input 'text' has the content_type 'base64'; send plain text, which is 'str'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_input_is_an_invalid_argument(address: str, name: str) -> None:
    request, told = REFUSED[name]
    refused = refusal(address, request)
    assert (refused.code(), refused.details()) == (grpc.StatusCode.INVALID_ARGUMENT, told)


def test_bytes_that_are_no_message_are_an_invalid_argument(address: str) -> None:
    refused = refusal(address, b"\xff\xff\xff")
    assert refused.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert refused.details().startswith("the message cannot be read: ")


def test_another_version_and_another_method_are_not_there(address: str) -> None:
    refused = refusal(address, asking(text("good"), model_version="8"))
    assert (refused.code(), refused.details()) == (
        grpc.StatusCode.NOT_FOUND,
        "m has no version '8' here; in service: '7'",
    )
    unknown = refusal(address, message("ModelMetadataRequest")(name="other"), method="ModelMetadata")
    assert unknown.code() == grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as absent, grpc.insecure_channel(address) as channel:
        channel.unary_unary(f"/{SERVICE}/ModelStatistics")(b"", timeout=WAIT_S)
    assert absent.value.code() == grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]


def test_a_message_larger_than_a_body_may_be_is_refused(address: str) -> None:
    refused = refusal(address, asking(text("x" * (4 * 2**20))))
    assert refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_model_that_fails_is_internal_with_its_reason(address: str) -> None:
    refused = refusal(address, asking(text("poison")))
    told = "model tiny gave NaN or infinity for this input; its weights are unfit"
    assert (refused.code(), refused.details()) == (grpc.StatusCode.INTERNAL, told)


# -- load, deadlines, cancelled calls, and the end ---------------------------------------------------------------------


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Speaking, str]]:
    """A server whose executor stands still with one request."""
    with speaking(tiny_live(tmp_path), limit=1) as server, calling(server) as address:
        server.hold()
        first = threading.Thread(target=call, args=(address, asking(text("good"))))
        first.start()
        server.until_held()
        yield server, address
        server.gate.set()
        first.join()


def waiting(server: Speaking, count: int) -> None:
    end = time.monotonic() + WAIT_S
    while server.desk.batcher.waiting != count:
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_full_queue_is_unavailable_and_says_when_to_come_again(held: tuple[Speaking, str]) -> None:
    server, address = held
    second = threading.Thread(target=call, args=(address, asking(text("good"))))
    second.start()
    waiting(server, 1)
    refused = refusal(address, asking(text("good")))
    server.gate.set()
    second.join()
    assert refused.code() == grpc.StatusCode.UNAVAILABLE
    trailing = dict(refused.trailing_metadata())
    after_s = int(trailing["retry-after"])
    assert after_s >= 1
    assert trailing["grpc-retry-pushback-ms"] == str(1000 * after_s)


def test_above_the_room_for_large_calls_they_are_unavailable_and_small_ones_are_answered(tmp_path: Path) -> None:
    with speaking(tiny_live(tmp_path)) as server, calling(server, room=Room(most_bytes=0)) as address:
        refused = refusal(address, asking(text("good" * 20_000)))
        call(address, asking(text("good")))
        assert server.counts() == {"ok": 1, "rejected": 1}
    assert refused.code() == grpc.StatusCode.UNAVAILABLE
    assert dict(refused.trailing_metadata())["retry-after"] == "1"


def test_more_calls_than_there_are_places_are_unavailable_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.protocols.grpc_service.SPARE_CALLS", 0)
    with speaking(tiny_live(tmp_path), limit=1) as server, calling(server, guard=Doorkeeper()) as address:
        server.hold()
        friend = {"metadata": (("authorization", "friend"),)}
        first = threading.Thread(target=call, args=(address, asking(text("good"))), kwargs=friend)
        first.start()
        server.until_held()
        refused = refusal(address, asking(text("good")), **friend)
        assert call(address, message("ServerReadyRequest")(), method="ServerLive")[0].live
        assert call(address, message("ModelMetadataRequest")(name="m"), method="ModelMetadata", **friend)[0].name == "m"
        server.gate.set()
        first.join()
        assert server.counts() == {"ok": 1, "rejected": 1}
    assert refused.code() == grpc.StatusCode.UNAVAILABLE
    assert refused.details() == "the server has 1 calls, its most; retry after 1 s"
    trailing = dict(refused.trailing_metadata())
    told = {name: trailing[name] for name in ("x-request-id", "retry-after", "grpc-retry-pushback-ms")}
    assert told == {"x-request-id": "made", "retry-after": "1", "grpc-retry-pushback-ms": "1000"}


def test_a_call_whose_deadline_passes_in_the_queue_is_not_computed(held: tuple[Speaking, str]) -> None:
    server, address = held
    request = asking(text("good")).SerializeToString()
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as late:
        channel.unary_unary(f"/{SERVICE}/ModelInfer")(request, timeout=0.2)
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]
    settled(server, {"expired": 1})
    server.gate.set()
    settled(server, {"expired": 1, "ok": 1})
    assert not server.entered.acquire(blocking=False), "the work was done"


def test_a_cancelled_call_drops_its_work(held: tuple[Speaking, str]) -> None:
    server, address = held
    with grpc.insecure_channel(address) as channel:
        request = asking(text("good")).SerializeToString()
        left = channel.unary_unary(f"/{SERVICE}/ModelInfer").future(request)
        waiting(server, 1)
        left.cancel()
        settled(server, {"dropped": 1})
    server.gate.set()
    settled(server, {"dropped": 1, "ok": 1})
    assert not server.entered.acquire(blocking=False), "the work was done"


def settled(server: Speaking, wanted: dict[str, float]) -> None:
    """Wait until these outcomes are counted, and no others."""
    value = server.desk.metrics.registry.get_sample_value
    end = time.monotonic() + WAIT_S
    while True:
        found = {name: value("retort_requests_total", {"outcome": name}) for name in ("ok", "dropped", "expired")}
        if {name: count for name, count in found.items() if count} == wanted:
            return
        assert time.monotonic() < end, found
        time.sleep(0.005)


def test_a_stop_lets_calls_under_way_end_and_takes_no_more(tmp_path: Path) -> None:
    with speaking(tiny_live(tmp_path)) as server:
        serving: Serving = server.run(start_grpc(server.desk, host="127.0.0.1", port=0))
        address = f"127.0.0.1:{serving.port}"
        server.hold()
        answers: list[Any] = []
        first = threading.Thread(target=lambda: answers.append(call(address, asking(text("good")))[0]))
        first.start()
        server.until_held()
        stopping = threading.Thread(target=lambda: server.run(serving.stop(10.0)))
        stopping.start()
        time.sleep(0.1)
        assert refusal(address, asking(text("good"))).code() == grpc.StatusCode.UNAVAILABLE
        server.gate.set()
        first.join()
        stopping.join()
    assert answers[0].outputs[1].contents.bytes_contents[0] == b"positive"


def test_while_draining_it_is_not_ready_and_answers_still(tmp_path: Path) -> None:
    with speaking(tiny_live(tmp_path)) as server, calling(server) as address:
        server.desk.draining = True
        assert not call(address, message("ServerReadyRequest")(), method="ServerReady")[0].ready
        assert not call(address, message("ModelReadyRequest")(name="m"), method="ModelReady")[0].ready
        assert call(address, message("ServerLiveRequest")(), method="ServerLive")[0].live
        assert call(address, asking(text("good")))[0].model_version == "7"


def test_a_port_that_is_taken_is_told(server: Speaking, address: str) -> None:
    port = int(address.split(":")[1])
    told = (
        f"port {port} on 127.0.0.1 cannot be had for gRPC; "
        "stop what holds it, or choose another with --grpc-port, or 0 for any that is free"
    )
    with pytest.raises(Transient) as refused:
        server.run(start_grpc(server.desk, host="127.0.0.1", port=port))
    assert str(refused.value) == told


# -- the guard ---------------------------------------------------------------------------------------------------------


class Spans:
    """Keeps what it is told of calls that ended."""

    def __init__(self) -> None:
        self.told: list[tuple[int, bool]] = []

    def end(self, _: Any, *, attributes: dict[str, Any], failed: bool, **__: Any) -> None:
        self.told.append((attributes["rpc.grpc.status_code"], failed))


def test_a_call_that_came_too_late_is_so_in_count_log_and_trace(tmp_path: Path) -> None:
    guard, spans = Doorkeeper(), Spans()
    with (
        speaking(tiny_live(tmp_path)) as server,
        calling(server, guard=guard, tracer=spans) as address,
        grpc.insecure_channel(address) as channel,
    ):
        server.hold()
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        request = asking(text("good")).SerializeToString()
        for _ in range(5):
            with pytest.raises(grpc.RpcError):
                infer(request, timeout=0.1, metadata=(("authorization", "friend"),))
        settled(server, {"expired": 5})
        server.gate.set()
    assert [(one["status"], one["outcome"]) for one in guard.written] == [(504, "expired")] * 5
    assert spans.told == [(4, True)] * 5


def test_a_guard_names_lets_in_and_writes_down(tmp_path: Path) -> None:
    guard = Doorkeeper()
    with speaking(tiny_live(tmp_path)) as server, calling(server, guard=guard) as address:
        refused = refusal(address, asking(text("good")))
        friend = (("authorization", "friend"), ("x-request-id", "mine"))
        _, trailing = call(address, asking(text("good")), metadata=friend)
        assert call(address, message("ServerReadyRequest")(), method="ServerReady")[0].ready
        counts = server.counts()
    assert (refused.code(), refused.details()) == (grpc.StatusCode.UNAUTHENTICATED, "say friend")
    assert dict(refused.trailing_metadata())["x-request-id"] == "made"
    assert trailing["x-request-id"] == "mine"
    assert counts == {"ok": 1, "client_error": 1}
    told = [(one["id"], one["path"].split("/")[-1], one["status"], one["outcome"]) for one in guard.written]
    assert told == [
        ("made", "ModelInfer", 401, "client_error"),
        ("mine", "ModelInfer", 200, "ok"),
        ("made", "ServerReady", 200, ""),
    ]
