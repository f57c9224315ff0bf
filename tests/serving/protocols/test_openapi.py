"""/openapi.json tells of every route and of nothing else, and what it tells is so: schemathesis asks a real server."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import LABELS
from jsonschema.validators import Draft202012Validator
from speaking import Speaking, speaking, tiny_live

from serving.http import Asked, Reply, Route, Routes
from serving.lanes import CANARY
from serving.protocols import every_route
from serving.protocols.openapi import document

TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}
ASKED: dict[str, str] = {"token-classification": "/tag", "embedding": "/embed"}


def spoken(server: Speaking) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.url}/openapi.json").json()
    return found


def test_every_route_is_told_and_nothing_else(tmp_path: Path) -> None:
    with speaking(tiny_live(tmp_path)) as server:
        told, every = spoken(server), every_route(server.desk)
    named = {"model": "m", "version": "7"}
    paths = [
        (method.upper(), re.sub(r"\{(\w+)\}", lambda name: named[name[1]], path))
        for path, operations in told["paths"].items()
        for method in operations
    ]
    found = {(route.method, route.path) for route in (Routes(every).find(*each) for each in paths)}
    assert found == {(route.method, route.path) for route in every}
    assert ("POST", "/v2/models/m/versions/7/infer") in paths


def test_what_needs_no_key_says_so(tmp_path: Path) -> None:
    live = tiny_live(tmp_path)
    with speaking(live) as server:
        every = every_route(server.desk)
        told = document(live, every)["paths"]
    for route in every:
        if route.path in told:
            assert (told[route.path][route.method.lower()].get("security") == []) == route.open, route.path


def test_readiness_of_a_model_needs_no_key_and_its_metadata_does(tmp_path: Path) -> None:
    with speaking(tiny_live(tmp_path)) as server:
        told = spoken(server)["paths"]
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        assert told[f"{path}/ready"]["get"]["security"] == []
        assert "security" not in told[path]["get"]


def test_every_version_that_answers_may_be_named(tmp_path: Path) -> None:
    with speaking(tiny_live(tmp_path / "main")) as server:
        server.desk.models.put(CANARY, tiny_live(tmp_path / "canary", version="8"))
        told = spoken(server)["paths"]["/v2/models/{model}/versions/{version}/infer"]["post"]["parameters"]
    named = {one["name"]: one["schema"].get("enum") for one in told if one["in"] == "path"}
    assert named == {"model": ["m"], "version": ["7", "8"]}


def test_limits_are_those_of_the_model(tmp_path: Path) -> None:
    with speaking(tiny_live(tmp_path, max_items=3, max_characters=77, texts_per_item=2)) as server:
        told = spoken(server)
    texts = told["components"]["schemas"]["Texts"]["properties"]["texts"]
    text = {"type": "string", "maxLength": 77}
    pair = {"type": "array", "items": text, "minItems": 2, "maxItems": 2}
    assert texts == {"type": "array", "items": pair, "minItems": 1, "maxItems": 3}
    assert told["info"]["description"] == (
        "A request has at most 3 items of 77 characters a text, and 4194304 bytes, which arrive within 10 s. The model "
        "does classification and reads 16 tokens; of longer texts: truncate."
    )


def test_a_route_without_an_entry_is_told_by_its_docstring(tmp_path: Path) -> None:
    async def page(_: Asked) -> Reply:
        """A page for people.

        More."""
        return Reply(200, b"")

    live = tiny_live(tmp_path)
    told = document(live, [Route("/page/", page, below=True)])["paths"]
    assert told["/page/{path}"]["get"]["summary"] == "A page for people."


@pytest.mark.parametrize("task", LABELS)
def test_answers_of_every_task_are_as_told(tmp_path: Path, task: Any) -> None:
    with speaking(tiny_live(tmp_path, task=task)) as server:
        told = spoken(server)
        for path, body, name in (
            (ASKED.get(task, "/classify"), {"texts": ["good awful", "the"]}, "Results"),
            ("/invocations", {"inputs": ["good awful", "the"]}, "Predictions"),
            (
                "/v2/models/m/infer",
                {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}]},
                "Answer",
            ),
        ):
            answer = httpx.post(f"{server.url}{path}", json=body)
            assert answer.status_code == 200
            schema = {"$ref": f"#/components/schemas/{name}", "components": told["components"]}
            Draft202012Validator(schema).validate(answer.json())


CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_headers_conformance", "response_schema_conformance"),
)
# It tries timeouts of a millisecond, too: those two are about time, and are counted as what they are.
EXPECTED = '[checks.not_a_server_error]\nexpected-statuses = ["2xx", "3xx", "4xx", "503", "504"]\n'


def test_schemathesis_finds_no_server_error_and_nothing_that_is_not_told(tmp_path: Path) -> None:
    """Status, media type, headers and schema of every answer are as the document has them."""
    (tmp_path / "schemathesis.toml").write_text(EXPECTED)
    with speaking(tiny_live(tmp_path / "bundle")) as server:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
                *("--checks", ",".join(CHECKS), "--max-examples", "20", "--seed", "1", "--no-color"),
                *("--phases", "examples,coverage,fuzzing", "--continue-on-failure"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert httpx.post(f"{server.url}/classify", json={"texts": ["good"]}).status_code == 200
        counts = server.counts()
    assert set(counts) <= {"ok", "client_error", "rejected", "expired"}
    assert counts["ok"] > 5
    assert counts["client_error"] > 5
