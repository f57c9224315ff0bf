"""What the demo serves: the champion, whether this run made it or not."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline import demo
from pipeline.champion import Champion
from pipeline.config import load_config
from pipeline.errors import BadArtifact, Transient
from pipeline.progress import Silent
from pipeline.workspace import Workspace
from serving.schema import ROUTES

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

    def ask(url: str, texts: Any, reporter: Any, *, digest: str, task: str, log: Path) -> int:
        found.update(digest=digest, task=task, log=log)
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
        "log": tmp_path / "cache" / "server.log",
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


def ask_one(answer: Callable[[httpx.Request], httpx.Response], monkeypatch: pytest.MonkeyPatch) -> int:
    """Of a server that answers so."""
    real = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **options: real(**options, transport=httpx.MockTransport(answer)))
    texts, digest, log = [("text",)], CHAMPION, Path("a/server.log")
    return demo._ask("http://127.0.0.1:1", texts, Lines(), digest=digest, task="classification", log=log)  # type: ignore[arg-type]


def test_a_server_that_answers_with_another_model_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"model": {"digest": "d" * 64}, "results": [{}]}
    with pytest.raises(BadArtifact) as refused:
        ask_one(lambda request: httpx.Response(200, json=other), monkeypatch)
    assert str(refused.value) == "the server answers with dddddddddddd, not with the champion cccccccccccc"


def no_answer(error: type[httpx.HTTPError], text: str) -> Callable[[httpx.Request], httpx.Response]:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error(text)

    return answer


def answers(status: int, text: str) -> Callable[[httpx.Request], httpx.Response]:
    return lambda request: httpx.Response(status, text=text)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (no_answer(httpx.ConnectError, "refused"), "got no answer (ConnectError: refused)"),
        (no_answer(httpx.ReadTimeout, "timed out"), "got no answer (ReadTimeout: timed out)"),
        (answers(503, "not ready"), "answered 503: not ready"),
        (
            answers(200, "<html>"),
            "answered what cannot be read, '<html>' (JSON is malformed: invalid character (byte 0))",
        ),
        (
            answers(200, '{"model": {"digest": "c"}, "results": []}'),
            """answered what cannot be read, '{"model": {"digest": "c"}, "results": []}' (Expected `array` of length """
            ">= 1 - at `$.results`)",
        ),
    ],
)
def test_a_server_without_a_fit_answer_is_one_message_that_names_its_log(
    answer: Callable[[httpx.Request], httpx.Response], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Transient) as failed:
        ask_one(answer, monkeypatch)
    asked = f"POST http://127.0.0.1:1{ROUTES['classification']}"
    assert str(failed.value) == f"{asked} {told}; the server's log is a/server.log"


IGNORES_SIGTERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
FAILS_AT_SIGTERM = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))"


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (IGNORES_SIGTERM, "the server did not stop within 0.5 s of SIGTERM; its log is {log}"),
        (FAILS_AT_SIGTERM, "the server ended with 7 after SIGTERM; its log is {log}"),
    ],
)
def test_a_server_that_does_not_stop_well_is_one_message_and_is_ended(
    how: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[str]] = []
    text, real = f"{how}; import time; print('it on http://127.0.0.1:1', flush=True); time.sleep(60)", subprocess.Popen

    def start(command: list[str], **options: Any) -> subprocess.Popen[str]:
        started.append(real([sys.executable, "-c", text], **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(demo, "STOP_TIMEOUT_S", 0.5)
    with pytest.raises(Transient) as failed, demo.serving("a", workspace=tmp_path, tracking_uri="b") as url:
        assert url == "http://127.0.0.1:1"
    assert str(failed.value) == told.format(log=tmp_path / "cache" / "server.log")
    assert started[0].poll() is not None
    assert started[0].stdout is not None
    started[0].stdout.close()
