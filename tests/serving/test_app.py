"""The routes in process, over httpx's ASGI transport; tests/serving/test_server.py talks to the real server."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import tiny_bundle

from serving.app import build
from serving.batcher import Batcher
from serving.desk import Desk
from serving.engine import Given
from serving.errors import BadArtifact
from serving.metrics import OUTCOMES, Metrics
from serving.models import Live, Models, Served, load
from serving.registry import Resolved

WAIT_S = 10
GOOD = {"texts": ["good"]}


def live(path: Path, *, version: str = "7", **options: Any) -> Live:
    bundle = tiny_bundle(path, max_items=4, **options)
    return load(Resolved(path=path, name="m", version=version, digest=bundle.digest), threads=1)


class Held:
    """The application around a model whose executor the test can hold up."""

    def __init__(self, model: Live) -> None:
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)
        models = Models(model)

        def answer(lane: str, jobs: Sequence[Sequence[Given]]) -> Sequence[Served | Exception]:
            self.entered.release()
            assert self.open.wait(WAIT_S)
            if jobs == [[("bug",)]]:
                raise ZeroDivisionError("secret of the trace")
            return models.answer_jobs(lane, jobs)

        self.desk = Desk(models, Batcher(answer, executors=1, limit=1, max_wait_s=60.0), Metrics())
        self.app = build(self.desk)

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        return self.together(lambda client: client.request(method, path, **request))

    def together(self, script: Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]) -> Any:
        async def run() -> Any:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                return await asyncio.wait_for(script(client), WAIT_S)

        return asyncio.run(run())

    async def hold(self) -> None:
        """Close the gate and wait until the executor stands before it."""
        while self.entered.acquire(blocking=False):
            pass
        self.open.clear()

    async def until_held(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=WAIT_S)

    def counts(self) -> dict[str, float]:
        """The outcomes that happened; checks that they add up."""
        value = self.desk.metrics.registry.get_sample_value
        found = {outcome: value("retort_requests_total", {"outcome": outcome}) or 0 for outcome in OUTCOMES}
        assert value("retort_requests_accepted_total") == sum(found.values())
        assert value("retort_requests_in_flight") == 0
        found["rejected"] = value("retort_requests_rejected_total") or 0
        return {outcome: count for outcome, count in found.items() if count}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return live(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def desk(model: Live) -> Iterator[Held]:
    desk = Held(model)
    yield desk
    desk.open.set()
    desk.desk.batcher.close()


def test_classify_answers_with_the_model_and_every_score(desk: Held, model: Live) -> None:
    response = desk.ask("POST", "/classify", json={"texts": ["good", "bad day"]})
    body = response.json()
    assert response.status_code == 200
    assert body["model"] == {"name": "m", "version": "7", "digest": model.engine.bundle.digest}
    assert [result["label"] for result in body["results"]] == ["positive", "negative"]
    assert body["results"][0]["score"] == body["results"][0]["scores"]["positive"] == pytest.approx(0.93503, abs=1e-5)
    assert desk.counts() == {"ok": 1}


def test_phases_are_told_in_server_timing_and_counted(desk: Held) -> None:
    header = desk.ask("POST", "/classify", json=GOOD).headers["server-timing"]
    assert [phase.split(";dur=")[0] for phase in header.split(", ")] == ["queue", "tokenize", "infer", "total"]
    assert all(float(phase.split(";dur=")[1]) >= 0 for phase in header.split(", "))
    sample = desk.desk.metrics.registry.get_sample_value
    assert sample("retort_phase_seconds_count", {"phase": "infer"}) == 1


def test_regression_answers_with_plain_numbers(tmp_path: Path) -> None:
    desk = Held(live(tmp_path, labels=()))
    assert desk.ask("POST", "/classify", json={"texts": ["good bad"]}).json()["results"] == [{"score": 4.0}]
    desk.desk.batcher.close()


def test_a_model_of_pairs_takes_pairs(tmp_path: Path) -> None:
    desk = Held(live(tmp_path, texts_per_item=2))
    assert desk.ask("POST", "/classify", json={"texts": [["good", "fine"]]}).status_code == 200
    assert desk.ask("POST", "/classify", json=GOOD).status_code == 422
    desk.desk.batcher.close()


@pytest.mark.parametrize(
    ("request_", "status", "error"),
    [
        ({"json": {"texts": []}}, 422, "texts is empty; send at least one"),
        ({"json": {"texts": ["a"] * 5}}, 422, "texts holds 5 items, more than the 4 allowed; split the request"),
        ({"content": b" " * (4 * 2**20 + 1)}, 413, "the body exceeds the 4194304 bytes allowed; split the request"),
        (
            {"json": GOOD, "headers": {"X-Request-Timeout-Ms": "soon"}},
            422,
            "X-Request-Timeout-Ms is 'soon'; send whole numbers from 1 to 3600000",
        ),
        (
            {"content": b'{"texts": [1]}'},
            422,
            "the body cannot be read: Expected `str`, got `int` - at `$.texts[0]`; "
            'send {"texts": ["a", ...]} as UTF-8 JSON',
        ),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(desk: Held, request_: dict[str, Any], status: int, error: str) -> None:
    response = desk.ask("POST", "/classify", **request_)
    assert (response.status_code, response.json()) == (status, {"error": error})
    assert desk.counts() == {"client_error": 1}


def test_a_huge_body_of_unknown_length_is_cut_off(desk: Held) -> None:
    async def flood() -> Any:
        while True:
            yield b" " * 2**20

    response = desk.ask("POST", "/classify", content=flood())
    assert response.status_code == 413
    assert response.headers["connection"] == "close"


def test_a_body_that_never_comes_is_given_up(desk: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.http.BODY_TIMEOUT_S", 0.05)

    async def trickle() -> Any:
        yield b"{"
        await asyncio.sleep(WAIT_S)

    response = desk.ask("POST", "/classify", content=trickle())
    assert (response.status_code, response.json()) == (408, {"error": "the body did not arrive within 0.05 s"})
    assert desk.counts() == {"client_error": 1}


def test_nan_from_the_model_is_a_server_error_with_its_reason(desk: Held) -> None:
    response = desk.ask("POST", "/classify", json={"texts": ["good", "poison"]})
    error = "model tiny gave NaN or infinity for this input; its weights are unfit"
    assert (response.status_code, response.json()) == (500, {"error": error})
    assert desk.ask("POST", "/classify", json=GOOD).status_code == 200
    assert desk.counts() == {"ok": 1, "server_error": 1}


def test_a_bug_is_logged_and_not_shown(desk: Held, caplog: pytest.LogCaptureFixture) -> None:
    response = desk.ask("POST", "/classify", json={"texts": ["bug"]})
    assert response.status_code == 500
    assert response.json() == {"error": "the server failed on this request; its log says why"}
    assert "secret of the trace" in caplog.text
    assert desk.counts() == {"server_error": 1}


def test_a_full_queue_is_503_with_retry_after_and_not_accepted(desk: Held) -> None:
    async def script(client: httpx.AsyncClient) -> list[httpx.Response]:
        await desk.hold()
        first = asyncio.create_task(client.post("/classify", json=GOOD))
        await desk.until_held()
        second = asyncio.create_task(client.post("/classify", json=GOOD))
        while not desk.desk.batcher.waiting:
            await asyncio.sleep(0.001)
        third = await client.post("/classify", json=GOOD)
        desk.open.set()
        return [await first, await second, third]

    first, second, third = desk.together(script)
    assert [first.status_code, second.status_code, third.status_code] == [200, 200, 503]
    assert third.json() == {"error": "the server is full: 1 requests wait, 0 ms; retry after 1 s"}
    assert third.headers["retry-after"] == "1"
    assert desk.counts() == {"ok": 2, "rejected": 1}


def test_work_whose_deadline_passed_in_the_queue_is_504(desk: Held) -> None:
    async def script(client: httpx.AsyncClient) -> httpx.Response:
        await desk.hold()
        first = asyncio.create_task(client.post("/classify", json=GOOD))
        await desk.until_held()
        late = asyncio.create_task(client.post("/classify", json=GOOD, headers={"X-Request-Timeout-Ms": "20"}))
        await asyncio.sleep(0.1)
        desk.open.set()
        await first
        return await late

    response = desk.together(script)
    told = "the request's time was up before its answer was there; allow more or retry"
    assert (response.status_code, response.json()) == (504, {"error": told})
    assert desk.counts() == {"ok": 1, "expired": 1}


def test_work_of_a_client_that_left_is_dropped(desk: Held) -> None:
    async def post_and_leave() -> list[int]:
        messages = iter([{"type": "http.request", "body": b'{"texts": ["good"]}', "more_body": False}])
        statuses: list[int] = []

        async def receive() -> dict[str, Any]:
            return next(messages, {"type": "http.disconnect"})

        async def send(message: Any) -> None:
            statuses.extend([message["status"]] if "status" in message else [])

        scope = {"type": "http", "method": "POST", "path": "/classify", "headers": [], "query_string": b""}
        await desk.app(scope, receive, send)
        return statuses

    async def script(client: httpx.AsyncClient) -> list[int]:
        await desk.hold()
        first = asyncio.create_task(client.post("/classify", json=GOOD))
        await desk.until_held()
        statuses = await post_and_leave()
        desk.open.set()
        assert (await first).status_code == 200
        return statuses

    assert desk.together(script) == [], "nobody is there to be answered"
    assert desk.together(lambda client: client.post("/classify", json=GOOD)).status_code == 200
    assert desk.entered.acquire(blocking=False)
    assert not desk.entered.acquire(blocking=False), "the dropped work was done"
    assert desk.counts() == {"ok": 2, "dropped": 1}


def test_ready_answers_after_a_real_inference(desk: Held, model: Live) -> None:
    response = desk.ask("GET", "/v2/health/ready")
    assert (response.status_code, response.json()) == (200, {"ready": True, "model": model.identity()})
    assert desk.entered.acquire(blocking=False)
    assert desk.counts() == {}


def test_ready_is_503_when_no_inference_comes_back(desk: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.protocols.health.PROBE_TIMEOUT_S", 0.05)
    desk.open.clear()
    response = desk.ask("GET", "/v2/health/ready")
    assert (response.status_code, response.json()) == (503, {"error": "no inference came back within 0.05 s"})


def test_ready_is_503_with_the_reason_when_the_model_fails(desk: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(lane: str, jobs: object) -> None:
        raise BadArtifact("model m is broken")

    monkeypatch.setattr(desk.desk.models, "answer_jobs", broken)
    response = desk.ask("GET", "/v2/health/ready")
    assert (response.status_code, response.json()) == (503, {"error": "model m is broken"})


def test_while_draining_ready_is_503_and_requests_are_still_answered(desk: Held) -> None:
    desk.desk.draining = True
    ready, answered = desk.ask("GET", "/v2/health/ready"), desk.ask("POST", "/classify", json=GOOD)
    assert (ready.status_code, ready.json()) == (503, {"error": "the server is draining; send requests elsewhere"})
    assert (answered.status_code, answered.headers["connection"]) == (200, "close")


def test_live_says_so(desk: Held) -> None:
    assert desk.ask("GET", "/v2/health/live").json() == {"live": True}


def test_metrics_are_prometheus_text(desk: Held) -> None:
    response = desk.ask("GET", "/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert "retort_requests_accepted_total 0.0" in response.text


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/nowhere", 404, "there is no /nowhere here; /openapi.json lists what there is"),
        ("GET", "/classify", 405, "/classify takes POST, not GET"),
    ],
)
def test_other_paths_and_methods_are_refused_as_json(
    desk: Held, method: str, path: str, status: int, error: str
) -> None:
    response = desk.ask(method, path)
    assert (response.status_code, response.json()) == (status, {"error": error})


def test_each_answer_names_the_model_that_gave_it_across_a_swap(desk: Held, tmp_path: Path) -> None:
    before = desk.ask("POST", "/classify", json=GOOD).json()
    desk.desk.models.current = live(tmp_path, version="8", bias=20.0)
    after = desk.ask("POST", "/classify", json=GOOD).json()
    assert [(body["model"]["version"], body["results"][0]["label"]) for body in (before, after)] == [
        ("7", "positive"),
        ("8", "negative"),
    ]
