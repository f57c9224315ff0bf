"""One label of each task, followed from the sealed bundle to the answer an HTTP client reads."""

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import LABELS, WEIGHT, tiny_bundle

from serving.app import build
from serving.batcher import Batcher
from serving.bundle import TaskKind, read_bundle
from serving.desk import Desk
from serving.metrics import Metrics
from serving.models import Live, Models, load
from serving.registry import Resolved
from serving.schema import ROUTES

WAIT_S = 10
SIGMOID_OF_SIXTEEN_FIFTHS = 1 / (1 + math.exp(-3.2))
Post = Callable[[str, list[Any]], httpx.Response]


def live(path: Path, **options: Any) -> Live:
    bundle = tiny_bundle(path, **options)
    return load(Resolved(path=path, name="m", version="7", digest=bundle.digest), threads=1)


def post_to(desk: Desk) -> Post:
    async def post(route: str, texts: list[Any]) -> httpx.Response:
        transport = httpx.ASGITransport(build(desk), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await asyncio.wait_for(client.post(route, json={"texts": texts}), WAIT_S)

    return lambda route, texts: asyncio.run(post(route, texts))


@contextmanager
def serving(path: Path, **options: Any) -> Iterator[tuple[Post, Desk]]:
    models = Models(live(path, **options))
    desk = Desk(models, Batcher(models.answer_jobs, executors=1, limit=4), Metrics())
    yield post_to(desk), desk
    desk.batcher.close()


def results(path: Path, route: str, texts: list[Any], **options: Any) -> list[Any]:
    """What a client is told by a server of a bundle sealed with these options."""
    with serving(path, **options) as (post, _):
        response = post(route, texts)
    assert response.status_code == 200, response.text
    return list(response.json()["results"])


def test_a_label_of_classification_arrives_with_its_probability(tmp_path: Path) -> None:
    (told,) = results(tmp_path, "/classify", ["dull day"], labels=("mild", "wet", "dry"))
    assert read_bundle(tmp_path).spec.labels == ("mild", "wet", "dry")
    rest = 1 / (math.exp(WEIGHT / 4) + 2)
    assert told["label"] == "wet"
    assert told["score"] == told["scores"]["wet"] == pytest.approx(1 - 2 * rest, abs=1e-6)
    assert told["scores"] == pytest.approx({"mild": rest, "wet": 1 - 2 * rest, "dry": rest}, abs=1e-6)
    assert list(told["scores"]) == ["mild", "wet", "dry"]


def test_a_label_of_a_pair_arrives_too(tmp_path: Path) -> None:
    (told,) = results(tmp_path, "/classify", [["fine", "dull good"]], labels=("no", "yes"), texts_per_item=2)
    assert told["label"] == "yes"


def test_an_answer_below_the_bundle_s_bound_is_refused_over_http(tmp_path: Path) -> None:
    sure, unsure = results(tmp_path, "/classify", ["good", "day"], refuse_below=0.75)
    assert (sure["label"], "refused" in sure) == ("positive", False)
    assert unsure == {"label": None, "refused": True, "score": 0.5, "scores": {"negative": 0.5, "positive": 0.5}}


def test_an_answer_at_the_bundle_s_bound_is_given(tmp_path: Path) -> None:
    (told,) = results(tmp_path, "/classify", ["day"], refuse_below=0.5)
    assert told == {"label": "negative", "score": 0.5, "scores": {"negative": 0.5, "positive": 0.5}}


def test_labels_of_multi_label_arrive_by_the_bundle_s_thresholds(tmp_path: Path) -> None:
    options = {"labels": ("calm", "glad", "odd"), "thresholds": (0.5, 0.6, math.nextafter(0.5, 1))}
    (told,) = results(tmp_path, "/classify", ["good dull day"], task="multi-label", **options)
    assert told["labels"] == ["glad", "calm"]  # calm is at its threshold exactly, odd the least bit below its own
    assert told["scores"] == {"calm": 0.5, "glad": pytest.approx(SIGMOID_OF_SIXTEEN_FIFTHS, abs=1e-6), "odd": 0.5}


def test_multi_label_may_give_no_label(tmp_path: Path) -> None:
    (told,) = results(tmp_path, "/classify", ["day"], task="multi-label")
    assert told == {"labels": [], "scores": {"negative": 0.5, "positive": 0.5}}


def test_the_number_of_regression_arrives(tmp_path: Path) -> None:
    assert results(tmp_path, "/classify", ["good bad"], task="regression") == [{"score": 4.0}]


def test_the_vector_of_embedding_arrives(tmp_path: Path) -> None:
    assert results(tmp_path, "/embed", ["good bright", "day"], task="embedding") == [
        {"embedding": [0.0, 2.0, 2.0]},
        {"embedding": [0.0, 0.0, 0.0]},
    ]


SURE = pytest.approx(math.exp(WEIGHT) / (math.exp(WEIGHT) + 2), abs=1e-6)


@pytest.mark.parametrize(
    ("text", "entities"),
    [
        ("good awful day", [("mood", 0, 10)]),
        ("The (good bright), dull!", [("mood", 5, 16), ("mood", 19, 23)]),
        ("good good", [("mood", 0, 4), ("mood", 5, 9)]),
        ("bright it is", [("mood", 0, 6)]),
        ("😀 good 👩‍👩‍👧 dull bright", [("mood", 2, 6), ("mood", 13, 24)]),
        ("cafe\u0301 e\u0301 good", [("mood", 9, 13)]),
        ("café é good", [("mood", 7, 11)]),
        ("北京 “good” 好", [("mood", 4, 8)]),
        ("\u3000\tgood\r\n awful", [("mood", 2, 14)]),
        ("a day", []),
        ("", []),
        ("day " * 13 + "good dull", [("mood", 52, 56)]),  # the last word is beyond max_length
    ],
)
def test_a_label_of_tagging_arrives_with_its_exact_characters(
    tagger: tuple[Post, Desk], text: str, entities: list[tuple[str, int, int]]
) -> None:
    (told,) = tagger[0]("/tag", [text]).json()["results"]
    assert told == {
        "entities": [
            {"label": label, "start": start, "end": end, "text": text[start:end], "score": SURE}
            for label, start, end in entities
        ]
    }


def test_texts_of_one_request_are_tagged_each_by_itself(tagger: tuple[Post, Desk]) -> None:
    told = tagger[0]("/tag", ["good", "day", "a dull one"]).json()["results"]
    assert [[entity["text"] for entity in one["entities"]] for one in told] == [["good"], [], ["dull"]]


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Post, Desk]]:
    with serving(tmp_path_factory.mktemp("tagger"), task="token-classification") as served:
        yield served


@pytest.mark.parametrize("task", LABELS)
def test_the_wrong_routes_name_the_right_one_and_are_counted(tmp_path: Path, task: TaskKind) -> None:
    with serving(tmp_path, task=task) as (post, desk):
        answered = {route: post(route, ["good"]) for route in ("/classify", "/tag", "/embed")}
    right = ROUTES[task]
    for route, response in answered.items():
        if route == right:
            assert response.status_code == 200
        else:
            assert (response.status_code, response.json()) == (404, {"error": f"this model does {task}: POST {right}"})
    counted = desk.metrics.registry.get_sample_value
    assert counted("retort_requests_total", {"outcome": "client_error"}) == 2
    assert counted("retort_requests_total", {"outcome": "ok"}) == 1


def test_the_wrong_route_is_told_before_the_wrong_body(tmp_path: Path) -> None:
    with serving(tmp_path, task="embedding") as (post, _):
        response = post("/tag", [])
    assert (response.status_code, response.json()) == (404, {"error": "this model does embedding: POST /embed"})


def test_a_model_of_another_task_that_comes_meanwhile_does_not_answer_on_this_route(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = live(tmp_path / "2", task="embedding")
    with serving(tmp_path / "1") as (post, desk):
        queue = desk.batcher.submit

        def swap_then_queue(*job: Any, **options: Any) -> Any:
            desk.models.current = other
            return queue(*job, **options)

        monkeypatch.setattr(desk.batcher, "submit", swap_then_queue)
        response = post("/classify", ["good"])
    assert (response.status_code, response.json()) == (404, {"error": "this model does embedding: POST /embed"})


def test_what_is_refused_on_one_route_is_refused_on_all_alike(tmp_path: Path) -> None:
    told = []
    for task, route in ROUTES.items():
        with serving(tmp_path / task, task=task, max_items=1) as (post, _):
            told.append((post(route, ["a", "b"]).json(), post(route, ["poison"]).status_code))
    limit = {"error": "texts holds 2 items, more than the 1 allowed; split the request"}
    assert told == [(limit, 500)] * len(ROUTES)
