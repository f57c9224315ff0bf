"""What no client sends on purpose: bodies and messages that are changed at random, always the same way. None is a
fault of the server's, and it answers afterwards. test_openapi.py has schemathesis ask in JSON."""

import json
import random
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from fakes import VOCABULARY
from speaking import WAIT_S, Speaking, speaking, tiny_live

from serving.protocols.grpc_messages import SERVICE, message
from serving.protocols.grpc_server import start_grpc

SEED, COUNT = 8, 400
ROW = [2, VOCABULARY.index("good"), 3]
FITTING = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Speaking]:
    with speaking(tiny_live(tmp_path_factory.mktemp("bundle"))) as server:
        yield server


def mutated(body: bytes, chance: random.Random) -> bytes:
    """One to four changes: a byte changed, a piece left out, doubled, or put elsewhere."""
    changed = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        begin = chance.randrange(len(changed) + 1)
        end = min(len(changed), begin + chance.randint(0, 12))
        piece = changed[begin:end]
        match chance.randrange(4):
            case 0:
                changed[begin : begin + 1] = bytes([chance.randrange(256)])
            case 1:
                del changed[begin:end]
            case 2:
                changed[begin:begin] = piece
            case _:
                place = chance.randrange(len(changed) + 1)
                changed[place:place] = piece
    return bytes(changed)


def binary_request() -> tuple[bytes, int]:
    """Texts and ids as tritonclient sends them, and how many bytes of it are JSON."""
    text = b"\x04\0\0\0good\x05\0\0\0\xf0\x9f\x98\x80!"
    head: dict[str, Any] = {"name": "text", "shape": [2, 1], "datatype": "BYTES"}
    told = json.dumps({"id": "1", "inputs": [{**head, "parameters": {"binary_data_size": len(text)}}]}).encode()
    return told + text, len(told)


def test_mutated_binary_requests_are_the_client_s_fault(server: Speaking) -> None:
    chance = random.Random(SEED)
    body, length = binary_request()
    statuses = set()
    with httpx.Client(base_url=server.url) as client:
        for _ in range(COUNT):
            shift = chance.choice((0, 0, 0, 1, -1, 5))
            headers = {"Inference-Header-Content-Length": str(length + shift)}
            response = client.post("/v2/models/m/infer", content=mutated(body, chance), headers=headers)
            assert response.status_code in (200, 404, 422), response.text
            statuses.add(response.status_code)
        assert statuses >= {200, 422}
        headers = {"Inference-Header-Content-Length": str(length)}
        assert client.post("/v2/models/m/infer", content=body, headers=headers).status_code == 200


def test_mutated_csv_is_the_client_s_fault(server: Speaking) -> None:
    chance = random.Random(SEED)
    body = 'id,text\r\n1,"good, ""fine"""\r\n2,bad 😀 day\r\n'.encode()
    with httpx.Client(base_url=server.url, headers={"content-type": "text/csv"}) as client:
        statuses = {client.post("/invocations", content=mutated(body, chance)).status_code for _ in range(COUNT)}
    assert statuses == {200, 400}


def test_mutated_messages_are_the_client_s_fault(server: Speaking) -> None:
    chance = random.Random(SEED)
    ids = {"name": "input_ids", "datatype": "INT64", "shape": [1, 3]}
    text = {"name": "text", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [b"good"]}}
    raw = b"".join(one.to_bytes(8, "little") for one in ROW)
    kinds = (
        message("ModelInferRequest")(model_name="m", id="1", inputs=[text], outputs=[{"name": "label"}]),
        message("ModelInferRequest")(model_name="m", inputs=[{**ids, "contents": {"int64_contents": ROW}}]),
        message("ModelInferRequest")(model_name="m", inputs=[ids], raw_input_contents=[raw]),
    )
    serving = server.run(start_grpc(server.desk, host="127.0.0.1", port=0))
    codes = set()
    with grpc.insecure_channel(f"127.0.0.1:{serving.port}") as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        for index in range(COUNT):
            body = mutated(kinds[index % len(kinds)].SerializeToString(), chance)
            codes.add(code_of(infer, body))
        assert {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT} <= codes <= FITTING
        for kind in kinds:
            assert infer(kind.SerializeToString(), timeout=WAIT_S)
    server.run(serving.stop(1.0))


def code_of(infer: Any, body: bytes) -> grpc.StatusCode:
    try:
        infer(body, timeout=WAIT_S)
    except grpc.RpcError as error:
        return error.code()  # type: ignore[attr-defined, no-any-return]
    return grpc.StatusCode.OK


def test_the_accounts_add_up(server: Speaking) -> None:
    assert set(server.counts()) == {"ok", "client_error"}
