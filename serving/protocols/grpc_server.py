"""The Open Inference Protocol v2 over gRPC, on the event loop that serves HTTP: the same desk, faults and counts.

A client's deadline is the request's, and a cancelled call drops its work. Tensors that came raw are answered raw, and
those that came typed, typed. Trailing metadata says what HTTP's headers do: x-model-version, x-model-digest,
server-timing, x-request-id, and where load is refused retry-after, with grpc-retry-pushback-ms for clients that retry.
"""

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf.message import DecodeError

from serving.desk import Desk
from serving.errors import BadRequest, Transient
from serving.faults import Fault, NotThere
from serving.http import MAX_BODY_BYTES
from serving.protocols.accounts import Refused, account
from serving.protocols.grpc_calls import Called, Everybody, Guard
from serving.protocols.grpc_messages import SERVICE, message, methods
from serving.protocols.grpc_tensors import told, wanted
from serving.protocols.health import why_not_ready
from serving.protocols.model_tensors import givens, output_names, outputs
from serving.protocols.naming import SERVER, find_model, metadata, require_same, versions_of
from serving.protocols.telling import headers
from serving.room import Room

if TYPE_CHECKING:
    from serving.tracing import Tracer

CODES: Final = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    499: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""What is not among them is INTERNAL."""
SPARE_CALLS: Final = 256  # those being computed, signs of life, and those that are being refused
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_BODY_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", 1024),
    ("grpc.so_reuseport", 0),  # a port that somebody has is an error
)


class Service:
    """The six methods of the protocol."""

    def __init__(self, desk: Desk, guard: Guard, tracer: "Tracer | None", room: Room) -> None:
        self._desk, self._guard, self._tracer, self._room = desk, guard, tracer, room

    def handlers(self) -> Any:
        """What a gRPC server calls. Messages come as bytes, so that one that cannot be read is the client's fault."""
        kinds: dict[str, Callable[[Any, Called], Awaitable[Any]]] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
        }
        found = {name: partial(self._answer, name, method, methods()[name][0]) for name, method in kinds.items()}
        made = {name: grpc.unary_unary_rpc_method_handler(each) for name, each in found.items()}
        return grpc.method_handlers_generic_handler(SERVICE, made)

    async def _answer(self, name: str, method: Any, request: Any, body: bytes, context: Any) -> bytes:
        """The answer, or an end with the code of whatever the call failed with."""
        called, fault = Called(f"/{SERVICE}/{name}", context, self._guard), None
        infers = name == "ModelInfer"
        if infers and self._tracer is not None:
            called.begin()
        status, outcome = 499, "dropped" if infers else ""
        try:
            with account(self._desk, infers=infers, late=called.late), self._room.holding(len(body)):
                if "Metadata" in name or infers:
                    self._guard.require(called.header)
                answer: bytes = (await method(_read(request, body), called)).SerializeToString()
            status, outcome = 200, "ok" if infers else ""
        except Refused as refused:
            fault = refused.fault
            status, outcome = fault.status, fault.outcome if infers else ""
        finally:
            called.note(self._guard, status=status, outcome=outcome)
            if self._tracer is not None:
                called.end(self._tracer, code=CODES.get(status, grpc.StatusCode.INTERNAL) if status != 200 else None)
        if fault is not None:
            await context.abort(
                CODES.get(fault.status, grpc.StatusCode.INTERNAL), fault.message, _trailing(called, fault)
            )
        context.set_trailing_metadata(tuple(called.trailing))
        return answer

    async def _server_live(self, _: Any, __: Called) -> Any:
        return message("ServerLiveResponse")(live=not self._desk.stalled())

    async def _server_ready(self, _: Any, __: Called) -> Any:
        return message("ServerReadyResponse")(ready=await why_not_ready(self._desk) is None)

    async def _model_ready(self, request: Any, _: Called) -> Any:
        try:
            find_model(self._desk.models, name=request.name, version=request.version)
        except NotThere:
            return message("ModelReadyResponse")(ready=False)
        return message("ModelReadyResponse")(ready=await why_not_ready(self._desk) is None)

    async def _server_metadata(self, _: Any, __: Called) -> Any:
        return message("ServerMetadataResponse")(name=SERVER["name"], version=SERVER["version"])

    async def _model_metadata(self, request: Any, _: Called) -> Any:
        models = self._desk.models
        live = find_model(models, name=request.name, version=request.version).live
        shown = metadata(live, versions=versions_of(models))
        del shown["parameters"]  # the protocol has no place for them
        return message("ModelMetadataResponse")(**shown)

    async def _model_infer(self, request: Any, called: Called) -> Any:
        desk = self._desk
        left_s = called.context.time_remaining()
        expires_s = min(
            desk.deadline(called.header(b"x-request-timeout-ms")),
            math.inf if left_s is None else desk.clock() + left_s,
        )
        live, lane = find_model(desk.models, name=request.model_name, version=request.model_version)
        spec = live.spec
        items = givens(wanted(request, spec=spec), spec=spec)
        names = output_names(items, [one.name for one in request.outputs], spec=spec)
        check = partial(require_same, version=request.model_version, spec=spec)
        done = await desk.ask(items, expires_s=expires_s, check=check, lane=lane)
        answer = told(request, outputs(done.result, names), live=done.result.live)
        given = headers(desk.metrics, called.started_s, done, scope=called.scope)
        called.trailing += [(name.decode(), value.decode()) for name, value in given]
        return answer


class Serving:
    """A gRPC server that answers on `port`."""

    def __init__(self, server: Any, *, port: int) -> None:
        self._server, self.port = server, port

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and let those under way end; after `grace_s` they are cancelled."""
        await self._server.stop(grace_s)


async def start_grpc(
    desk: Desk,
    *,
    host: str,
    port: int,
    guard: Guard | None = None,
    tracer: "Tracer | None" = None,
    room: Room | None = None,
) -> Serving:
    """Serve the protocol on this event loop; port 0 is any that is free. `room` is shared with HTTP. More calls at a
    time than can wait are refused by gRPC itself, unread, so that their messages take no memory.

    Raises:
        Transient: somebody has the port, or it cannot be had.
    """
    server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=desk.batcher.queue.limit + SPARE_CALLS)
    server.add_generic_rpc_handlers((Service(desk, guard or Everybody(), tracer, room or Room()).handlers(),))
    try:
        bound = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except RuntimeError as error:
        way_out = "stop what holds it, or choose another with --grpc-port, or 0 for any that is free"
        raise Transient(f"port {port} on {host} cannot be had for gRPC; {way_out}") from error
    await server.start()
    return Serving(server, port=bound)


def _read(request: Any, body: bytes) -> Any:
    try:
        return request.FromString(body)
    except DecodeError as error:
        raise BadRequest(f"the message cannot be read: {error}; send a {request.DESCRIPTOR.full_name}") from error


def _trailing(called: Called, fault: Fault) -> tuple[tuple[str, str], ...]:
    if fault.retry_after_s is None:
        return tuple(called.trailing)
    pushback = ("grpc-retry-pushback-ms", str(fault.retry_after_s * 1000))
    return (*called.trailing, ("retry-after", str(fault.retry_after_s)), pushback)
