"""The Open Inference Protocol v2 over gRPC: the desk, faults and counts of HTTP.

A client's deadline is the request's, and a cancelled call drops its work. Tensors that came raw are answered raw, and
those that came typed, typed. Trailing metadata says what HTTP's headers do: x-model-version, x-model-digest,
server-timing, x-request-id, and where load is refused retry-after, with grpc-retry-pushback-ms for clients that retry.

To gRPC each method is one of several messages, so that it is called at a call's head: then key and place are asked for,
and the message is read, with a limit of time. Clients cannot tell the difference.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import grpc
from google.protobuf.message import DecodeError

from serving.desk import Desk
from serving.errors import BadRequest
from serving.faults import Fault, NotThere
from serving.protocols.accounts import Refused, account
from serving.protocols.grpc_calls import Called, Guard
from serving.protocols.grpc_fields import require_few_fields
from serving.protocols.grpc_messages import SERVICE, message, methods
from serving.protocols.grpc_places import Places
from serving.protocols.grpc_tensors import parameters, told, wanted
from serving.protocols.health import why_not_ready
from serving.protocols.model_tensors import givens, output_names, outputs, require_plain
from serving.protocols.naming import SERVER, find_model, metadata, require_same, versions_of
from serving.protocols.telling import headers
from serving.room import Room

if TYPE_CHECKING:
    from serving.tracing import Tracer

CODES: Final = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.RESOURCE_EXHAUSTED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    499: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""What is not among them is INTERNAL."""
SPARE_CALLS: Final = 256  # those being computed, and those whose messages are on their way
OTHER_CALLS: Final = 256  # that ask for no work, and so take no place of those that do
OTHER_SLOW: Final = 4
_FIELDS: Final = 4096


class _Method(NamedTuple):
    """One of the protocol. Without `places` it is answered at the call's head: its message says nothing."""

    name: str
    answer: Callable[[Any, Called], Awaitable[Any]]
    places: Places | None = None
    keyed: bool = False
    infers: bool = False


class Service:
    """The six methods of the protocol. `calls`: how many are under way, until their answers are sent."""

    def __init__(self, desk: Desk, guard: Guard, tracer: "Tracer | None", room: Room) -> None:
        self._desk, self._guard, self._tracer, self._room = desk, guard, tracer, room
        slow = max(1, room.most_bytes // room.body_bytes)
        self._work = Places(desk.batcher.queue.limit + SPARE_CALLS, slow=slow)
        self._questions = Places(OTHER_CALLS, slow=OTHER_SLOW)
        self.calls = 0

    def handlers(self) -> Any:
        """What a gRPC server calls. Messages come as bytes, so that one that cannot be read is the client's fault."""
        found = (
            _Method("ServerLive", self._server_live),
            _Method("ServerReady", self._server_ready),
            _Method("ModelReady", self._model_ready, self._questions),
            _Method("ServerMetadata", self._server_metadata, keyed=True),
            _Method("ModelMetadata", self._model_metadata, self._questions, keyed=True),
            _Method("ModelInfer", self._model_infer, self._work, keyed=True, infers=True),
        )
        made = {one.name: grpc.stream_unary_rpc_method_handler(partial(self._answer, one)) for one in found}
        return grpc.method_handlers_generic_handler(SERVICE, made)

    async def _answer(self, method: _Method, _: Any, context: Any) -> bytes:
        """The answer, or an end with the code of whatever the call failed with."""
        called, fault = Called(f"/{SERVICE}/{method.name}", context, self._guard), None
        infers = method.infers
        self.calls += 1
        context.add_done_callback(self._over)
        if infers and self._tracer is not None:
            called.begin()
        status, outcome = 499, "dropped"
        try:
            with account(self._desk, infers=infers, late=called.late):
                answer = await self._answered(method, called)
            status, outcome = 200, "ok"
        except Refused as refused:
            fault = refused.fault
            status, outcome = fault.status, fault.outcome
        except asyncio.CancelledError:
            if called.late():
                status, outcome = 504, "expired"
            raise
        finally:
            called.note(self._guard, status=status, outcome=outcome if infers else "")
            if self._tracer is not None:
                called.end(self._tracer, code=CODES.get(status, grpc.StatusCode.INTERNAL) if status != 200 else None)
        if fault is not None:
            await context.abort(
                CODES.get(fault.status, grpc.StatusCode.INTERNAL), fault.message, _trailing(called, fault)
            )
        context.set_trailing_metadata(tuple(called.trailing))
        return answer

    def _over(self, _: Any) -> None:
        self.calls -= 1

    async def _answered(self, method: _Method, called: Called) -> bytes:
        if method.keyed:
            self._guard.require(called.header)
        if method.places is None:
            return _bytes_of(await method.answer(None, called))
        with method.places.place():
            within_s = self._expires_s(called) - self._desk.clock() if method.infers else math.inf
            body = await method.places.read(called.context, within_s=within_s)
            with self._room.holding(len(body)):
                require_few_fields(body, most=_FIELDS + 2 * self._desk.models.current.spec.max_items)
                return _bytes_of(await method.answer(_read(method.name, body), called))

    def _expires_s(self, called: Called) -> float:
        """When the client stops waiting, by its own word or as its call says."""
        left_s = called.context.time_remaining()
        told_s = self._desk.deadline(called.header(b"x-request-timeout-ms"), passed_s=called.passed_s)
        return told_s if left_s is None else min(told_s, self._desk.clock() + left_s)

    async def _server_live(self, _: Any, __: Called) -> Any:
        return message("ServerLiveResponse")(live=not self._desk.stalled())

    async def _server_ready(self, _: Any, __: Called) -> Any:
        return message("ServerReadyResponse")(ready=await why_not_ready(self._desk) is None)

    async def _model_ready(self, request: Any, _: Called) -> Any:
        try:
            found = find_model(self._desk.models, name=request.name, version=request.version)
        except NotThere:
            return message("ModelReadyResponse")(ready=False)
        return message("ModelReadyResponse")(ready=await why_not_ready(self._desk, found.lane or "") is None)

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
        live, lane = find_model(desk.models, name=request.model_name, version=request.model_version)
        spec = live.spec
        require_plain(parameters(request))
        items = givens(wanted(request, spec=spec), spec=spec)
        names = output_names(items, [one.name for one in request.outputs], spec=spec)
        check = partial(require_same, version=request.model_version, spec=spec)
        done = await desk.ask(items, expires_s=self._expires_s(called), check=check, lane=lane)
        answer = told(request, outputs(done.result, names), live=done.result.live)
        given = headers(desk.metrics, called.started_s, done, scope=called.scope)
        called.trailing += [(name.decode(), value.decode()) for name, value in given]
        return answer


def _read(name: str, body: bytes) -> Any:
    request = methods()[name][0]
    try:
        return request.FromString(body)
    except DecodeError as error:
        raise BadRequest(f"the message cannot be read: {error}; send a {request.DESCRIPTOR.full_name}") from error


def _bytes_of(answer: Any) -> bytes:
    found: bytes = answer.SerializeToString()
    return found


def _trailing(called: Called, fault: Fault) -> tuple[tuple[str, str], ...]:
    if fault.retry_after_s is None:
        return tuple(called.trailing)
    pushback = ("grpc-retry-pushback-ms", str(fault.retry_after_s * 1000))
    return (*called.trailing, ("retry-after", str(fault.retry_after_s)), pushback)
