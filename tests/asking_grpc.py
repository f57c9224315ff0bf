"""gRPC beside a server that speaks HTTP, and plain calls of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from speaking import WAIT_S, Speaking

from serving.faults import Unauthorized
from serving.protocols.grpc_calls import Header
from serving.protocols.grpc_messages import SERVICE, message, methods
from serving.protocols.grpc_server import Serving, start_grpc


@contextmanager
def calling(server: Speaking, **options: Any) -> Iterator[str]:
    """gRPC beside HTTP; where it is."""
    serving: Serving = server.run(start_grpc(server.desk, host="127.0.0.1", port=0, **options))
    try:
        yield f"127.0.0.1:{serving.port}"
    finally:
        server.run(serving.stop(1.0))


def text(*texts: str, name: str = "text", **changes: Any) -> dict[str, Any]:
    contents = {"bytes_contents": [each.encode() for each in texts]}
    return {"name": name, "datatype": "BYTES", "shape": [len(texts)], "contents": contents, **changes}


def asking(*inputs: dict[str, Any], **more: Any) -> Any:
    return message("ModelInferRequest")(model_name="m", inputs=inputs, **more)


def call(address: str, request: Any, *, method: str = "ModelInfer", **options: Any) -> tuple[Any, dict[str, str]]:
    """The answer and the trailing metadata."""
    with grpc.insecure_channel(address) as channel:
        answer, ended = channel.unary_unary(f"/{SERVICE}/{method}").with_call(
            request if isinstance(request, bytes) else request.SerializeToString(), timeout=WAIT_S, **options
        )
    return methods()[method][1].FromString(answer), dict(ended.trailing_metadata())


def refusal(address: str, request: Any, **options: Any) -> grpc.Call:
    with pytest.raises(grpc.RpcError) as refused:
        call(address, request, **options)
    found: Any = refused.value
    return found


class Doorkeeper:
    """Lets in who says friend."""

    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []

    def named(self, header: Header) -> str:
        return header(b"x-request-id") or "made"

    def require(self, header: Header) -> None:
        if header(b"authorization") != "friend":
            raise Unauthorized("say friend")

    def write(self, _: Header, **told: Any) -> None:
        self.written.append(told)
