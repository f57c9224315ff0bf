"""HTTP: the routes, and what each failure is answered with.

POST /classify           {"texts": [...]} -> {"model": {name, version, digest}, "results": [...]}
GET  /v2/health/live     the process turns
GET  /v2/health/ready    a real inference came back just now; 503 from the moment draining begins
GET  /metrics            Prometheus text

413 body too large   422 unreadable or over a limit   408 body too slow   504 the client's time was up
503 queue full, with Retry-After   500 the model failed; the reason in one line, never a stack trace
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, cast

import orjson
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from serving.batcher import Batcher, Done, Expired, Overloaded
from serving.errors import BadRequest, Failure
from serving.metrics import Metrics, Outcome
from serving.models import Models, Served
from serving.schema import TooLarge, check_size, parse_items, parse_timeout_s, results

_BODY_TIMEOUT_S = 10.0
_PROBE_TIMEOUT_S = 2.0
_log = logging.getLogger(__name__)


class SlowBody(BadRequest):
    """The body did not arrive in time."""


# The first class that fits decides.
_ANSWERS: tuple[tuple[type[Exception], int, Outcome], ...] = (
    (TooLarge, 413, "client_error"),
    (SlowBody, 408, "client_error"),
    (BadRequest, 422, "client_error"),
    (Overloaded, 503, "rejected"),
    (Expired, 504, "expired"),
    (ClientDisconnect, 499, "dropped"),
    (Exception, 500, "server_error"),
)


@dataclass
class Service:
    """What the routes share. `draining` is set once, by the process that stops."""

    models: Models
    batcher: Batcher[Served]
    metrics: Metrics
    draining: bool = False


def build(service: Service, *, on_start: Callable[[], None] = lambda: None) -> Starlette:
    """The ASGI application; `on_start` is called when it is about to take requests."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        on_start()
        yield

    app = Starlette(
        routes=[
            Route("/classify", classify, methods=["POST"]),
            Route("/v2/health/live", live),
            Route("/v2/health/ready", ready),
            Route("/metrics", metrics),
        ],
        exception_handlers={HTTPException: _refused, Exception: _broken},
        lifespan=lifespan,
    )
    app.state.service = service
    return app


async def classify(request: Request) -> Response:
    service = _service(request)
    outcome: Outcome = "dropped"
    with service.metrics.in_flight.track_inprogress():
        try:
            response, outcome = await _classified(request, service=service), "ok"
        except Exception as error:  # noqa: BLE001 - the edge: whatever went wrong becomes one answer and one count
            response, outcome = _answer_to(error)
        finally:
            service.metrics.count(outcome)
    if service.draining:
        response.headers["Connection"] = "close"
    return response


async def live(_: Request) -> Response:
    return _json({"live": True})


async def ready(request: Request) -> Response:
    service = _service(request)
    if service.draining:
        return _error("the server is draining; send requests elsewhere", status=503)
    current = service.models.current
    golden = tuple(current.engine.bundle.golden.items[0])
    try:
        await asyncio.wait_for(asyncio.wrap_future(service.batcher.probe([golden])), _PROBE_TIMEOUT_S)
    except TimeoutError:
        return _error(f"no inference came back within {_PROBE_TIMEOUT_S:g} s", status=503)
    except Failure as failure:
        return _error(str(failure), status=503)
    return _json({"ready": True, "model": current.identity()})


async def metrics(request: Request) -> Response:
    return Response(_service(request).metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def _classified(request: Request, *, service: Service) -> Response:
    spec = service.models.current.engine.bundle.spec
    expires_s = service.batcher.clock() + parse_timeout_s(request.headers.get("x-request-timeout-ms"))
    items = parse_items(await _body(request), spec=spec)
    done = await _unless_gone(request, service.batcher.submit(items, expires_s=expires_s))
    served, answer = done.result, done.result.answer
    phases = {"queue_ms": done.queue_ms, "tokenize_ms": answer.tokenize_ms, "infer_ms": answer.infer_ms}
    service.metrics.observe(**phases)
    labels = served.live.engine.bundle.spec.labels
    response = _json({"model": served.live.identity(), "results": results(answer.scores, labels=labels)})
    timing = (f"{name.removesuffix('_ms')};dur={value:.3f}" for name, value in phases.items())
    response.headers["Server-Timing"] = ", ".join(timing)
    return response


async def _body(request: Request) -> bytes:
    """Read the body, but never more of it, nor for longer, than is allowed."""
    declared = request.headers.get("content-length", "0")
    check_size(int(declared) if declared.isdigit() else 0)
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                check_size(len(body))
    except TimeoutError as error:
        raise SlowBody(f"the body did not arrive within {_BODY_TIMEOUT_S:g} s") from error
    return bytes(body)


async def _unless_gone(request: Request, future: Future[Done[Served]]) -> Done[Served]:
    """Wait for the answer; cancel the work when the client leaves first."""
    answer = asyncio.wrap_future(future)
    gone = asyncio.ensure_future(_disconnected(request))
    first: set[asyncio.Future[Any]] = {answer, gone}
    try:
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        return answer.result()
    finally:
        gone.cancel()
        future.cancel()  # at once: the wrapper's own reaches it only at the loop's next turn, when it may have begun
        answer.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer_to(error: Exception) -> tuple[Response, Outcome]:
    status, outcome = next((status, outcome) for kind, status, outcome in _ANSWERS if isinstance(error, kind))
    if isinstance(error, Failure):
        message = str(error)
    elif status == 500:
        _log.error("a request failed in an unexpected way", exc_info=error)
        message = "the server failed on this request; its log says why"
    else:
        message = "the client has left"
    response = _error(message, status=status)
    if isinstance(error, Overloaded):
        response.headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, TooLarge | SlowBody):
        response.headers["Connection"] = "close"  # the rest of the body is not read
    return response, outcome


def _refused(_: Request, error: Exception) -> Response:
    """A path or method there is none of."""
    refusal = cast("HTTPException", error)
    response = _error(refusal.detail, status=refusal.status_code)
    response.headers.update(refusal.headers or {})
    return response


def _broken(_: Request, error: Exception) -> Response:
    return _answer_to(error)[0]


def _service(request: Request) -> Service:
    return cast("Service", request.app.state.service)


def _error(message: str, *, status: int) -> Response:
    return _json({"error": message}, status=status)


def _json(value: object, *, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status_code=status, media_type="application/json")
