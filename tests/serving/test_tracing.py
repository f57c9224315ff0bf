"""Traces, as a collector receives them: a real one, that decodes OTLP over HTTP."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from fakes import tiny_bundle
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from served import running
from speaking import Speaking, speaking, tiny_live

from serving.errors import BadRequest
from serving.protocols.grpc_messages import SERVICE, message
from serving.protocols.grpc_server import start_grpc
from serving.tracing import FLUSH_S, Tracer, is_configured

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"
SERVER, ERROR = 2, 2  # OTLP's numbers


class Collector(ThreadingHTTPServer):
    """Keeps every span that is posted to /v1/traces."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        super().__init__(("127.0.0.1", 0), Receiver)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
        body = self.rfile.read(int(self.headers["content-length"]))
        for told in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.server.services |= {
                one.value.string_value for one in told.resource.attributes if one.key == "service.name"
            }
            self.server.spans += [span for scope in told.scope_spans for span in scope.spans]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """A test's output is no access log."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


@pytest.fixture
def tracer(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Tracer:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    return Tracer()


@pytest.fixture
def server(tmp_path: Path, tracer: Tracer) -> Iterator[Speaking]:
    with speaking(tiny_live(tmp_path, work=300), around=tracer.traced) as server:
        yield server
    tracer.close()


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def span_and_phases(spans: list[Any]) -> tuple[Any, list[Any]]:
    """The server's span, and its children in time."""
    (span,) = (one for one in spans if one.kind == SERVER)
    inside = [one for one in spans if one.parent_span_id == span.span_id]
    return span, sorted(inside, key=lambda one: one.start_time_unix_nano)


def test_a_request_is_a_span_of_its_client_s_trace_with_its_phases(
    server: Speaking, tracer: Tracer, collector: Collector
) -> None:
    before_ns = time.time_ns()
    answered = httpx.post(f"{server.url}/classify", json={"texts": ["good", "bad"]}, headers={"traceparent": PARENT})
    after_ns = time.time_ns()
    tracer.close()
    span, phases = span_and_phases(collector.spans)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    assert span.name == "POST /classify"
    assert attributes(span) == {
        "http.request.method": "POST",
        "url.path": "/classify",
        "http.route": "/classify",
        "http.response.status_code": 200,
        "retort.model.name": "m",
        "retort.model.version": "7",
        "retort.model.digest": server.live.digest,
        "retort.items": 2,
    }
    told_ms = dict(phase.split(";dur=") for phase in answered.headers["server-timing"].split(", "))
    assert [one.name for one in phases] == ["queue", "tokenize", "infer"]
    for one in phases:
        lasted_ms = (one.end_time_unix_nano - one.start_time_unix_nano) / 1e6
        assert lasted_ms == pytest.approx(float(told_ms[one.name]), abs=0.002)
        assert one.trace_id == span.trace_id
    assert before_ns <= span.start_time_unix_nano <= phases[0].start_time_unix_nano
    assert phases[0].end_time_unix_nano == phases[1].start_time_unix_nano
    assert phases[1].end_time_unix_nano == phases[2].start_time_unix_nano
    assert phases[2].end_time_unix_nano <= span.end_time_unix_nano <= after_ns
    assert collector.services == {"retort"}


def test_a_request_without_a_parent_begins_a_trace(server: Speaking, tracer: Tracer, collector: Collector) -> None:
    body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}]}
    for path in ("/v2/models/m/infer", "/v2/models/m/versions/7/infer"):
        assert httpx.post(f"{server.url}{path}", json=body, headers={"traceparent": "none"}).status_code == 200
    httpx.post(f"{server.url}/invocations", json={"inputs": ["good"]})
    tracer.close()
    spans = [one for one in collector.spans if one.kind == SERVER]
    assert [one.name for one in spans] == [
        "POST /v2/models/{model}/infer",
        "POST /v2/models/{model}/versions/{version}/infer",
        "POST /invocations",
    ]
    assert {one.parent_span_id for one in spans} == {b""}
    assert len({one.trace_id for one in spans}) == 3
    assert [attributes(one)["retort.items"] for one in spans] == [1, 1, 1]


def test_what_is_refused_or_fails_is_told_without_phases(
    server: Speaking, tracer: Tracer, collector: Collector
) -> None:
    httpx.post(f"{server.url}/classify", json={"texts": []})
    httpx.post(f"{server.url}/made/up/name", json={})
    httpx.post(f"{server.url}/classify", json={"texts": ["poison"]})
    httpx.get(f"{server.url}/v2/health/ready")
    tracer.close()
    told = [(one.name, attributes(one)["http.response.status_code"], one.status.code) for one in collector.spans]
    assert told == [("POST /classify", 422, 0), ("POST", 404, 0), ("POST /classify", 500, ERROR)]


def test_an_unsampled_client_has_no_span_here(server: Speaking, tracer: Tracer, collector: Collector) -> None:
    headers = {"traceparent": f"{PARENT[:-2]}00"}
    assert httpx.post(f"{server.url}/classify", json={"texts": ["good"]}, headers=headers).status_code == 200
    tracer.close()
    assert collector.spans == []


def test_a_call_of_grpc_is_a_span_too(server: Speaking, tracer: Tracer, collector: Collector) -> None:
    serving = server.run(start_grpc(server.desk, host="127.0.0.1", port=0, tracer=tracer))
    given = {"name": "text", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [b"good"]}}
    with grpc.insecure_channel(f"127.0.0.1:{serving.port}") as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        infer(
            message("ModelInferRequest")(model_name="m", inputs=[given]).SerializeToString(),
            metadata=(("traceparent", PARENT),),
        )
        channel.unary_unary(f"/{SERVICE}/ServerLive")(b"")
        with pytest.raises(grpc.RpcError):
            infer(message("ModelInferRequest")(model_name="other").SerializeToString())
    server.run(serving.stop(1.0))
    tracer.close()
    answered, refused = (one for one in collector.spans if one.kind == SERVER)
    phases = [one.name for one in collector.spans if one.parent_span_id == answered.span_id]
    assert phases == ["queue", "tokenize", "infer"]
    assert (answered.name, answered.trace_id.hex(), answered.parent_span_id.hex()) == (
        f"{SERVICE}/ModelInfer",
        TRACE_ID,
        PARENT_ID,
    )
    assert attributes(answered)["retort.model.version"] == "7"
    assert [attributes(one)["rpc.grpc.status_code"] for one in (answered, refused)] == [0, 5]
    assert (answered.status.code, refused.status.code) == (0, 0)


def test_a_collector_that_is_away_holds_up_neither_answers_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    tracer = Tracer()
    with speaking(tiny_live(tmp_path), around=tracer.traced) as server:
        assert httpx.post(f"{server.url}/classify", json={"texts": ["good"]}).status_code == 200
    started_s = time.monotonic()
    tracer.close()
    assert time.monotonic() - started_s < FLUSH_S + 1


def test_the_process_sends_traces_where_its_environment_says(tmp_path: Path, collector: Collector) -> None:
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "mine"}
    with running(tiny_bundle(tmp_path / "bundle").path, env=environment) as server:
        httpx.post(f"{server.url}/classify", json={"texts": ["good"]}, headers={"traceparent": PARENT})
        assert server.stop() == 0
    span, phases = span_and_phases(collector.spans)
    assert (span.name, span.trace_id.hex(), len(phases)) == ("POST /classify", TRACE_ID, 3)
    assert collector.services == {"mine"}


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://here:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://here:4318/v1/traces"}, True),
    ],
)
def test_traces_are_made_where_they_have_somewhere_to_go(environment: dict[str, str], wanted: bool) -> None:
    assert is_configured(environment) is wanted


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://here:4317"}
GENERAL, SPECIAL = "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"


@pytest.mark.parametrize(
    ("protocols", "name"),
    [({GENERAL: "grpc"}, GENERAL), ({SPECIAL: "grpc", GENERAL: "http/protobuf"}, SPECIAL)],
)
def test_another_protocol_is_refused(protocols: dict[str, str], name: str) -> None:
    with pytest.raises(BadRequest) as refused:
        is_configured(ENDPOINT | protocols)
    assert str(refused.value) == f"{name} is 'grpc'; traces are sent by http/protobuf, mostly to port 4318"


@pytest.mark.parametrize(
    "protocols",
    [
        {GENERAL: ""},
        {SPECIAL: "", GENERAL: ""},
        {SPECIAL: "http/protobuf", GENERAL: "grpc"},
        {SPECIAL: "http/protobuf"},
    ],
)
def test_an_empty_protocol_is_unset_and_that_of_traces_holds(protocols: dict[str, str]) -> None:
    assert is_configured(ENDPOINT | protocols)


def test_a_server_that_is_not_traced_loads_nothing_of_it() -> None:
    asking = "import sys, serving.server; print([name for name in sys.modules if 'opentelemetry' in name])"
    done = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
