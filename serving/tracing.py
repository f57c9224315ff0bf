"""OpenTelemetry traces, where an OTLP endpoint is configured: a server span for each request that asks for work, as a
child of its client's by W3C traceparent, with the spans queue, tokenize and infer in it.

Nothing here is imported by a server without an endpoint, so that it pays nothing; spans are made when a request has
been answered, and sent in batches by a thread of the SDK's. Sampling, headers and the like are the SDK's own settings:
OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from serving.desk import Done
from serving.errors import BadRequest
from serving.exchange import App, Receive, Send
from serving.protocols.naming import VERSION
from serving.protocols.open_inference import MODELS
from serving.protocols.telling import TRACE

FLUSH_S: Final = 2.0
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")  # the first holds
_PROTOCOL: Final = "http/protobuf"
_CARRIED: Final = ("traceparent", "tracestate")
_LEFT: Final = 499


def is_configured(environment: Mapping[str, str]) -> bool:
    """Whether traces have somewhere to go.

    Raises:
        BadRequest: they are to go by a protocol that this server does not speak.
    """
    if not any(environment.get(name) for name in _ENDPOINTS):
        return False
    name = next((name for name in _PROTOCOLS if environment.get(name)), None)  # empty is unset
    if name is not None and environment[name] != _PROTOCOL:
        raise BadRequest(f"{name} is {environment[name]!r}; traces are sent by {_PROTOCOL}, mostly to port 4318")
    return True


class Trace:
    """One request under way; `told` once it has an answer."""

    __slots__ = ("done", "started_ns", "told_ns")

    def __init__(self) -> None:
        self.started_ns, self.told_ns = time.time_ns(), 0
        self.done: Done | None = None

    def told(self, done: Done) -> None:
        """The request is answered with this."""
        self.done, self.told_ns = done, time.time_ns()


class Tracer:
    """Makes spans of requests that ended, and has them sent."""

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create()
        if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "retort", "service.version": VERSION}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("serving", VERSION)
        self._propagator = TraceContextTextMapPropagator()

    def traced(self, app: App) -> App:
        """The application, with a span for each POST."""

        async def call(scope: Any, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["method"] != "POST":
                await app(scope, receive, send)
                return
            trace = scope[TRACE] = Trace()
            status = _LEFT

            async def sent(message: Any) -> None:
                nonlocal status
                status = message.get("status", status)
                await send(message)

            try:
                await app(scope, receive, sent)
            finally:
                self._end_http(trace, scope, status=status)

        return call

    def end(
        self, trace: Trace, *, name: str, carrier: Mapping[str, str], attributes: Mapping[str, Any], failed: bool
    ) -> None:
        """The request is over: its span, and those of its phases. `carrier` has the client's traceparent."""
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

        ended_ns = time.time_ns()
        parent = self._propagator.extract(dict(carrier))
        span = self._tracer.start_span(
            name,
            context=parent,
            kind=SpanKind.SERVER,
            attributes={**attributes, **_facts(trace)},
            start_time=trace.started_ns,
        )
        if failed:
            span.set_status(StatusCode.ERROR)
        inside = set_span_in_context(span)
        for phase, begin_ns, end_ns in _phases(trace):
            self._tracer.start_span(phase, context=inside, start_time=begin_ns).end(end_ns)
        span.end(ended_ns)

    def close(self) -> None:
        """Send what waits, if it can be sent soon: a collector that is away must not hold up the end."""
        thread = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        thread.start()
        thread.join(FLUSH_S)

    def _end_http(self, trace: Trace, scope: Any, *, status: int) -> None:
        carried = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        known = status not in (404, 405)  # what others make up must not become names
        attributes: dict[str, Any] = {
            "http.request.method": "POST",
            "url.path": scope["path"],
            "http.response.status_code": status,
        }
        if known:
            attributes["http.route"] = _route(scope["path"])
        self.end(
            trace,
            name=f"POST {_route(scope['path'])}" if known else "POST",
            carrier={name: carried[name] for name in _CARRIED if name in carried},
            attributes=attributes,
            failed=status >= 500,
        )


def _facts(trace: Trace) -> dict[str, Any]:
    if trace.done is None:
        return {}
    live = trace.done.result.live
    return {
        "retort.model.name": live.name,
        "retort.model.version": live.version,
        "retort.model.digest": live.digest,
        "retort.items": len(trace.done.result.results),
    }


def _phases(trace: Trace) -> Iterator[tuple[str, int, int]]:
    """Name, begin and end. They are laid back from when the answer was told: what lies between, the wording and the way
    between threads, is some ten microseconds."""
    if trace.done is None:
        return
    answer = trace.done.result.answer
    lasted = (("queue", trace.done.queue_ms), ("tokenize", answer.tokenize_ms), ("infer", answer.infer_ms))
    begin_ns = max(trace.started_ns, trace.told_ns - round(sum(ms for _, ms in lasted) * 1e6))
    for name, ms in lasted:
        end_ns = begin_ns + round(ms * 1e6)
        yield name, begin_ns, end_ns
        begin_ns = end_ns


def _route(path: str) -> str:
    if not path.startswith(MODELS):
        return path
    versions = "/versions/{version}" if "/versions/" in path else ""
    return f"{MODELS}{{model}}{versions}/infer"
