"""What the plain routes say beside their results, over a real connection; tests/serving/test_app.py has the rest."""

import math
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
    deep = b'{"texts": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
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


def test_the_version_is_that_of_the_project() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
