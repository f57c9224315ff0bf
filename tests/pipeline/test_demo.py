"""What the demo serves: the champion, whether this run made it or not."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline import demo
from pipeline.champion import Champion
from pipeline.config import load_config
from pipeline.errors import BadArtifact
from pipeline.progress import Silent
from pipeline.workspace import Workspace

SMOKE = Path(__file__).resolve().parents[2] / "configs" / "smoke.yaml"
CHAMPION = "c" * 64


class Lines(Silent):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def line(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What would be served and asked."""
    found: dict[str, Any] = {}

    @contextmanager
    def serving(source: str, *, workspace: Path, tracking_uri: str) -> Iterator[str]:
        found.update(source=source, tracking_uri=tracking_uri)
        yield "http://127.0.0.1:1"

    def ask(url: str, texts: Any, reporter: Any, *, digest: str, task: str) -> int:
        found.update(digest=digest, task=task)
        return len(texts)

    monkeypatch.setattr(demo, "serving", serving)
    monkeypatch.setattr(demo, "_ask", ask)
    monkeypatch.setattr(demo, "_real_texts", lambda *_: [("one",), ("two",)])
    monkeypatch.setattr(Champion, "identity", lambda *_: CHAMPION)
    return found


def served(digest: str, tmp_path: Path) -> tuple[int, list[str]]:
    reporter = Lines()
    registered = {
        "name": "retort-smoke",
        "digest": digest,
        "model_uri": "models:/retort-smoke/2",
        "tracking_uri": "sqlite:///r.db",
    }
    count = demo._serve_champion(load_config(SMOKE), Workspace.open(tmp_path), reporter, registered)  # type: ignore[arg-type]
    return count, reporter.told


def test_what_this_run_made_champion_is_served_by_its_alias(asked: dict[str, Any], tmp_path: Path) -> None:
    assert served(CHAMPION, tmp_path) == (
        2,
        ["serving models:/retort-smoke@champion on http://127.0.0.1:1", "server stopped"],
    )
    assert asked == {
        "source": "models:/retort-smoke@champion",
        "tracking_uri": "sqlite:///r.db",
        "digest": CHAMPION,
        "task": "classification",
    }


def test_where_it_only_became_challenger_the_champion_is_served_and_it_is_said(
    asked: dict[str, Any], tmp_path: Path
) -> None:
    count, told = served("d" * 64, tmp_path)
    assert told[0] == (
        "models:/retort-smoke/2 is challenger; what is served is the champion, models:/retort-smoke@champion (digest "
        "cccccccccccc)"
    )
    assert (count, asked["digest"]) == (2, CHAMPION)


def test_a_server_that_answers_with_another_model_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    def other(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"model": {"digest": "d" * 64}, "results": []})

    real = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **options: real(**options, transport=httpx.MockTransport(other)))
    with pytest.raises(BadArtifact) as refused:
        demo._ask("http://127.0.0.1:1", [("text",)], Lines(), digest=CHAMPION, task="classification")  # type: ignore[arg-type]
    assert str(refused.value) == "the server answers with dddddddddddd, not with the champion cccccccccccc"
