"""What the plain routes say beside their results, over a real connection; tests/serving/test_app.py has the rest."""

import math
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from speaking import Speaking, speaking, tiny_live

from serving.errors import BadRequest
from serving.protocols.naming import VERSION

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Speaking]:
    with speaking(tiny_live(tmp_path_factory.mktemp("bundle"))) as server:
        yield server


def test_an_answer_names_its_model_in_body_and_headers_and_tells_its_phases(server: Speaking) -> None:
    answered = httpx.post(f"{server.url}/classify", json={"texts": ["good"]})
    digest = server.live.digest
    assert answered.json()["model"] == {"name": "m", "version": "7", "digest": digest}
    assert (answered.headers["x-model-version"], answered.headers["x-model-digest"]) == ("7", digest)
    told = dict(phase.split(";dur=") for phase in answered.headers["server-timing"].split(", "))
    phases_ms = {name: float(value) for name, value in told.items()}
    assert list(phases_ms) == ["queue", "tokenize", "infer", "total"]
    assert phases_ms["total"] >= phases_ms["queue"] + phases_ms["tokenize"] + phases_ms["infer"] > 0


def test_phases_are_counted_and_add_up_to_the_total(server: Speaking) -> None:
    value = server.desk.metrics.registry.get_sample_value
    before = [value("retort_phase_seconds_sum", {"phase": name}) for name in ("queue", "tokenize", "infer", "other")]
    answered = httpx.post(f"{server.url}/classify", json={"texts": ["good"]})
    after = [value("retort_phase_seconds_sum", {"phase": name}) for name in ("queue", "tokenize", "infer", "other")]
    spent_ms = 1e3 * sum(late - early for late, early in zip(after, before, strict=True) if late and early is not None)
    total_ms = float(answered.headers["server-timing"].rpartition(";dur=")[2])
    assert spent_ms == pytest.approx(total_ms, abs=0.002)


def test_nothing_that_is_nested_too_deeply_is_the_server_s_fault(server: Speaking) -> None:
    deep = b'{"texts": ' + b"[" * 20_000 + b"]" * 20_000 + b"}"
    refused = httpx.post(f"{server.url}/classify", content=deep)
    assert refused.status_code == 422
    assert refused.json()["error"].startswith("the body cannot be read: ")


def test_a_deadline_is_read_in_milliseconds_and_none_is_for_ever(server: Speaking) -> None:
    assert 0.2 < server.desk.deadline("250") - server.desk.clock() <= 0.25
    assert server.desk.deadline(None) == math.inf


@pytest.mark.parametrize("header", ["", "0", "-5", "1.5", "nan", "inf", "²", "٣", "1e3", "9" * 5000, "3600001"])
def test_a_deadline_that_is_no_whole_number_in_range_is_refused(server: Speaking, header: str) -> None:
    with pytest.raises(BadRequest) as refused:
        server.desk.deadline(header)
    assert str(refused.value) == f"X-Request-Timeout-Ms is {header[:20]!r}; send whole numbers from 1 to 3600000"


BODIES = {
    "/classify": b'{"texts": ["good"]}',
    "/invocations": b'{"inputs": ["good"]}',
    "/v2/models/m/infer": b'{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}]}',
}


@pytest.mark.parametrize("path", BODIES)
def test_a_deadline_ends_the_reading_of_a_body(tmp_path: Path, path: str) -> None:
    body = BODIES[path]
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nX-Request-Timeout-Ms: 200\r\nContent-Length: {len(body)}\r\n\r\n"
    with speaking(tiny_live(tmp_path)) as server:
        host, port = server.host.split(":")
        with socket.create_connection((host, int(port)), timeout=5) as client:
            client.sendall(head.encode() + body[:-1])
            told = b"".join(iter(lambda: client.recv(65536), b""))
        answered = httpx.post(f"{server.url}{path}", content=body, headers={"X-Request-Timeout-Ms": "5000"})
        assert answered.status_code == 200
        assert server.counts() == {"expired": 1, "ok": 1}
    assert told.startswith(b"HTTP/1.1 504 ")
    assert b"connection: close" in told
    assert b"the request's time was up before its body was here; allow more or retry" in told


@pytest.mark.parametrize("texts_per_item", [1, 2])
def test_a_body_of_a_million_texts_is_refused_before_they_are_made(tmp_path: Path, texts_per_item: int) -> None:
    item = b'""' if texts_per_item == 1 else b'["",""]'
    with speaking(tiny_live(tmp_path, texts_per_item=texts_per_item)) as server:
        body = b'{"texts": [' + (item + b",") * 400_000 + item + b"]}"
        refused = httpx.post(f"{server.url}/classify", content=body)
    most = 32768 + 4 * (1 + texts_per_item)
    told = f"the body holds more than the {most} values that are read; split the request"
    assert (refused.status_code, refused.json()) == (422, {"error": told})


def test_the_version_is_that_of_the_project() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
