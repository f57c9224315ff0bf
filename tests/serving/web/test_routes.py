"""The page's files and what it is told, over HTTP and without a browser."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import Clock, tiny_bundle

from serving.desk import Desk
from serving.faults import Unauthorized
from serving.http import Asked
from serving.models import Live, load
from serving.registry import Resolved
from serving.web.assets import FOLDER, assets

LARGEST_BYTES = 60_000
RunSite = Callable[..., AbstractContextManager[Any]]


def live(path: Path, **options: Any) -> Live:
    bundle = tiny_bundle(path, **options)
    return load(Resolved(path=path, name="m", version="7", digest=bundle.digest), threads=1)


def version(folder: Path, *, card: str = "# m\n", **options: Any) -> Live:
    """A model in the folder of a version, with its card and one target's receipts."""
    model = live(folder / "bundle", name="student", **options)
    (folder / "files.sha256").write_text("")
    (folder / "README.md").write_text(card)
    receipts = folder / "bundle" / "receipts"
    receipts.mkdir()
    figures = {
        "student": {"accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95, "p95_ms": 1.5, "p95_ms/teacher": 0.2},
        "teacher": {"accuracy": 0.99},
    }
    (receipts / "quality@here.json").write_text(json.dumps(figures))
    session = {
        "started": "2026-11-22T08:12:39+00:00",
        "machine": {"cpu_model": "A CPU", "cores": 2, "kernel": "unread"},
        "how": {"threads": 1},
        "findings": [],
        "variants": [{"unread": True}],
    }
    (receipts / "latency@here.json").write_text(json.dumps(session))
    (receipts / "verdict@here.json").write_text('{"verdict": "PASS", "reason": "all is well", "chosen": "student"}')
    return model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return live(tmp_path_factory.mktemp("page") / "bundle")


@pytest.fixture(scope="module")
def site(run_site: RunSite, model: Live) -> Iterator[Any]:
    with run_site(model) as site:
        yield site


def get(site: Any, path: str, **headers: str) -> httpx.Response:
    return httpx.get(site.url + path, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize("path", ["/", *(f"/ui/{name}" for name in assets() if name != "index.html")])
def test_each_file_is_served_with_its_type_and_lets_nothing_else_in(site: Any, path: str) -> None:
    answer = get(site, path)
    file = FOLDER / (path.rpartition("/")[2] or "index.html")
    assert (answer.status_code, answer.content) == (200, file.read_bytes())
    kinds = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    assert answer.headers["content-type"].startswith(kinds[file.suffix])
    policy = answer.headers["content-security-policy"].split("; ")
    assert policy[0] == "default-src 'self'"
    assert {"frame-ancestors 'none'", "base-uri 'none'", "require-trusted-types-for 'script'"} <= set(policy)
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-cache"


def test_a_file_the_browser_has_is_not_sent_again(site: Any) -> None:
    tag = get(site, "/ui/style.css").headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        again = get(site, "/ui/style.css", if_none_match=known)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert get(site, "/ui/style.css", if_none_match='"other"').status_code == 200


def test_the_whole_page_is_small_and_names_no_other_place() -> None:
    assert sum(len(asset.body) for asset in assets().values()) < LARGEST_BYTES
    assert set(assets()) == {path.name for path in FOLDER.iterdir()}
    told = {name: asset.body.decode() for name, asset in assets().items()}
    found = {word for text in told.values() for word in re.findall(r"https?://[\w.]+", text)}
    assert found <= {"http://www.w3.org"}  # the name of SVG
    used = {"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"}
    assert [(name, word) for name, text in told.items() for word in used if word in text] == []


def test_the_state_counts_what_was_answered(run_site: RunSite, model: Live) -> None:
    with run_site(model) as site:
        before = get(site, "/ui/state").json()
        for texts in (["good"], ["bad", "good"]):
            assert httpx.post(f"{site.url}/classify", json={"texts": texts}).status_code == 200
        assert httpx.post(f"{site.url}/classify", json={"texts": []}).status_code == 422
        answer = get(site, "/ui/state")
    state = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert state["model"] == model.identity()
    assert sum(before["counts"].values()) == 0
    assert {name: count for name, count in state["counts"].items() if count} == {"ok": 2, "client_error": 1}
    assert state["phases"]["counts"]["infer"][-1] == 2
    assert len(state["phases"]["counts"]["infer"]) == len(state["phases"]["bounds_s"]) + 1
    assert state["phases"]["sum_s"]["infer"] > before["phases"]["sum_s"]["infer"] == 0
    assert state["queue"] == {"length": 0, "limit": 16, "saturation": 0.0, "wait_ms": 0.0}
    assert (state["in_flight"], state["draining"], state["stalled"]) == (0, False, False)
    assert state["memory_bytes"] > 2**20
    assert state["uptime_s"] > before["uptime_s"] - 1


def test_without_anything_followed_the_state_tells_of_the_one_version(run_site: RunSite, tmp_path: Path) -> None:
    model = live(tmp_path / "bundle")
    with run_site(model) as site:
        assert httpx.post(f"{site.url}/classify", json={"texts": ["poison"]}).status_code == 500
        assert httpx.post(f"{site.url}/classify", json={"texts": ["good"]}).status_code == 200
        state = get(site, "/ui/state").json()
    (told,) = state["following"]["versions"]
    assert {**told, "p50_ms": 0, "p99_ms": 0} == {
        **model.identity(),
        "lane": "",
        "role": "serving",
        "since": None,
        "requests": 2,
        "errors": 1,
        "p50_ms": 0,
        "p99_ms": 0,
    }
    assert state["recent"] == {"seconds": 60.0, "requests": 2, "errors": 1}


def test_the_state_tells_what_is_followed_as_it_is_now(run_site: RunSite, model: Live) -> None:
    clock = Clock()
    with run_site(model, following=lambda: {"polled_s_ago": clock()}) as site:
        clock.advance(3)
        assert get(site, "/ui/state").json()["following"] == {"polled_s_ago": 3.0}


def test_a_registered_version_is_shown_with_its_card_and_its_own_figures(run_site: RunSite, tmp_path: Path) -> None:
    model = version(tmp_path / "version", card="# A card\n")
    with run_site(model) as site:
        told = get(site, "/ui/model").json()
    assert told["model"] == model.identity()
    assert (told["card"], told["evidence"]) == ("# A card\n", None)
    assert told["verdict"] == {"verdict": "PASS", "reason": "all is well"}
    assert told["receipts"] == [
        {
            "target": "here",
            "figures": [
                {"name": "accuracy", "value": 0.9, "low": 0.8, "high": 0.95},
                {"name": "p95_ms", "value": 1.5, "low": None, "high": None},
            ],
            "started": "2026-11-22T08:12:39+00:00",
            "machine": "A CPU, 2 cores",
            "threads": 1,
            "noisy": False,
        }
    ]
    assert told["spec"]["route"] == "/classify"
    assert told["spec"]["long_texts"] == "texts are cut at 16 tokens"
    assert told["size_bytes"] == (tmp_path / "version" / "bundle" / "model.onnx").stat().st_size


def test_a_bundle_from_a_folder_has_no_card_whatever_lies_beside_it(run_site: RunSite, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("no card of this model")
    with run_site(live(tmp_path / "bundle")) as site:
        told = get(site, "/ui/model").json()
    assert (told["card"], told["receipts"], told["verdict"]) == (None, [], None)
    assert told["evidence"] == (
        "A bundle from a folder is served: a card and receipts come with a version that is registered."
    )


def test_a_version_whose_folder_is_gone_is_described_without_it(run_site: RunSite, tmp_path: Path) -> None:
    """Removed to make room, or with /tmp."""
    models = [version(tmp_path / name, card=name, bias=bias) for name, bias in (("read", 0.0), ("unread", 1.0))]
    with run_site(models[0]) as site:
        before = get(site, "/ui/model").json()
        for name in ("read", "unread"):
            (tmp_path / name).rename(tmp_path / f"{name}.gone")
        assert get(site, "/ui/model").json() == before
        site.desk.models.put("", models[1])
        gone = get(site, "/ui/model")
        (tmp_path / "unread.gone").rename(tmp_path / "unread")
        back = get(site, "/ui/model").json()
    assert gone.status_code == 200
    assert gone.json() | back == back, "the rest is as it is told with the folder there"
    told = {name: gone.json()[name] for name in ("size_bytes", "card", "receipts", "verdict", "evidence")}
    assert told == {
        **dict.fromkeys(("size_bytes", "card", "verdict")),
        "receipts": [],
        "evidence": "Its folder is gone from the disk: what is in memory answers on, its card and receipts cannot be "
        "read.",
    }
    assert (back["card"], back["evidence"]) == ("unread", None)


@pytest.mark.parametrize("text", ["", "[", "[" * 9999, '{"student": {"accuracy": "much"}}', '{"other": {}}', "\udce9"])
def test_a_receipt_that_cannot_be_read_is_left_out(run_site: RunSite, tmp_path: Path, text: str) -> None:
    model = version(tmp_path / "version")
    (tmp_path / "version" / "bundle" / "receipts" / "quality@here.json").write_text(text, errors="surrogateescape")
    with run_site(model) as site:
        told = get(site, "/ui/model").json()
    assert (told["receipts"], told["card"]) == ([], "# m\n")


def test_figures_are_shown_where_the_session_cannot_be_read(run_site: RunSite, tmp_path: Path) -> None:
    model = version(tmp_path / "version")
    (tmp_path / "version" / "bundle" / "receipts" / "latency@here.json").write_text("{}")
    with run_site(model) as site:
        (receipt,) = get(site, "/ui/model").json()["receipts"]
    assert (len(receipt["figures"]), receipt["machine"], receipt["started"]) == (2, None, None)


def test_another_model_in_service_is_described_at_once(run_site: RunSite, tmp_path: Path) -> None:
    first, second = version(tmp_path / "a", card="first"), version(tmp_path / "b", card="second", bias=1.0)
    with run_site(first) as site:
        cards = [get(site, "/ui/model").json()["card"]]
        desk: Desk = site.desk
        desk.models.put("", second)
        cards.append(get(site, "/ui/model").json()["card"])
    assert cards == ["first", "second"]


class Locked:
    """Lets nobody in."""

    def name(self, _: Asked) -> str:
        return "r"

    def require_key(self, _: Asked) -> None:
        raise Unauthorized("send a key")

    def note(self, _: Asked, **told: Any) -> None:
        """Nothing."""


def test_the_files_are_for_everybody_and_what_they_show_is_for_those_with_a_key(run_site: RunSite, model: Live) -> None:
    with run_site(model, guard=Locked()) as site:
        found = {path: get(site, path).status_code for path in ("/", "/ui/script.js", "/ui/state", "/ui/model")}
    assert found == {"/": 200, "/ui/script.js": 200, "/ui/state": 401, "/ui/model": 401}


def test_asking_for_the_page_is_no_request_to_the_model(run_site: RunSite, model: Live) -> None:
    with run_site(model) as site:
        for path in ("/", "/ui/state", "/ui/model", "/ui/none"):
            get(site, path)
        assert sum(get(site, "/ui/state").json()["counts"].values()) == 0
