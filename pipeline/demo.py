"""`make demo`: the main job from end to end. Run a config, serve the champion of what it registered, ask it real
questions over HTTP, sum up."""

import argparse
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from pipeline.artifact import Artifact
from pipeline.champion import Champion
from pipeline.config import RunConfig, load_config
from pipeline.errors import BadArtifact, Transient
from pipeline.exits import end_by_verdict, exit_code_of
from pipeline.progress import Console
from pipeline.runner import run
from pipeline.summary import show_run
from pipeline.workspace import Workspace
from serving.bundle import TaskKind
from serving.schema import ROUTES

if TYPE_CHECKING:
    import httpx

REQUESTS = 12
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 10.0


class _Model(msgspec.Struct, frozen=True):
    digest: str


class _Answer(msgspec.Struct, frozen=True):
    """What is read of an answer; `results` are one a text."""

    model: _Model
    results: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]


def demo(path: Path, *, workspace: Path, settings: Sequence[str] = ()) -> tuple[dict[str, Any], dict[str, Artifact]]:
    """Run the config at `path`, serve the champion and ask it; return the last line and the artifacts.

    Raises Transient when the server does not come up or does not answer.
    """
    started = time.monotonic()
    config = load_config(path, settings)
    place = Workspace.open(workspace)
    reporter = Console(place.run_folder(config.name) / "events.jsonl")
    artifacts = run(config, place, reporter=reporter)
    registered = artifacts["register"].manifest.facts["registered"]
    answered = 0 if registered is None else _serve_champion(config, place, reporter, registered)
    result = show_run(config, place, artifacts)
    told = {
        "verdict": result["verdict"],
        "model_uri": result["model_uri"],
        "requests_answered": answered,
        "variants": result["variants"],
        "against_fp32": result.get("against_fp32", []),
        "seconds": round(time.monotonic() - started, 1),
    }
    return told, artifacts


def _serve_champion(config: RunConfig, place: Workspace, reporter: Console, registered: Mapping[str, Any]) -> int:
    """Ask what is in service now, which a version that only became challenger is not; how many requests were answered.

    Raises BadArtifact where the server answers with another model than the registry names.
    """
    uri, texts = registered["tracking_uri"], _real_texts(config, place)
    champion = Champion(registered["name"], config.register.alias, uri)
    digest = champion.identity(place.cache)
    if digest != registered["digest"]:
        reporter.line(
            f"{registered['model_uri']} is challenger; what is served is the champion, {champion.source} "
            f"(digest {digest[:12]})"
        )
    with serving(champion.source, workspace=place.root, tracking_uri=uri) as url:
        reporter.line(f"serving {champion.source} on {url}")
        log = _log_in(place.root)
        answered = _ask(url, texts, reporter, digest=digest, task=config.task.kind, log=log)
    reporter.line("server stopped")
    return answered


@contextmanager
def serving(source: str, *, workspace: Path, tracking_uri: str) -> Iterator[str]:
    """`python -m serving` in a process of its own on a free port: yields its URL once it is ready, stops it by SIGTERM.

    Raises Transient when it is not ready in time, does not stop in time, or does not end with 0.
    """
    command = [sys.executable, "-m", "serving", source, "--port", "0", "--tracking-uri", tracking_uri]
    log = _log_in(workspace)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as errors:
        server = subprocess.Popen(
            [*command, "--cache", str(workspace / "cache" / "served")], stdout=subprocess.PIPE, stderr=errors, text=True
        )
        giving_up = threading.Timer(START_TIMEOUT_S, server.kill)
        giving_up.start()
        try:
            url = _address(server, log)
            giving_up.cancel()
            yield url
            _stop(server, log)
        finally:
            giving_up.cancel()
            server.kill()
            server.wait()


def _log_in(workspace: Path) -> Path:
    return workspace / "cache" / "server.log"


def _stop(server: "subprocess.Popen[str]", log: Path) -> None:
    server.send_signal(signal.SIGTERM)
    try:
        code = server.wait(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise Transient(f"the server did not stop within {STOP_TIMEOUT_S:g} s of SIGTERM; its log is {log}") from None
    if code != 0:
        raise Transient(f"the server ended with {code} after SIGTERM; its log is {log}")


def _address(server: "subprocess.Popen[str]", log: Path) -> str:
    """The URL in the line the server prints when it is ready."""
    assert server.stdout is not None
    for line in server.stdout:
        if " on http://" in line:
            return "http://" + line.rpartition(" on http://")[2].strip()
    last = (log.read_text().strip().splitlines() or ["it said nothing"])[-1]
    raise Transient(f"the server was not ready within {START_TIMEOUT_S:g} s: {last}; its log is {log}")


def _real_texts(config: RunConfig, place: Workspace) -> list[tuple[str, ...]]:
    """Dev texts of the task: real, and not the reported split."""
    from pipeline.data.progress import silent

    data = config.task.load(place.cache, silent, ("train", "dev"))
    step = max(1, len(data.dev.items) // REQUESTS)
    return list(data.dev.items[::step][:REQUESTS])


def _ask(
    url: str, texts: Sequence[tuple[str, ...]], reporter: Console, *, digest: str, task: TaskKind, log: Path
) -> int:
    """Ask each text over HTTP, check that the champion answers, print what came back, and count."""
    import httpx

    answered, route = 0, ROUTES[task]
    with httpx.Client(base_url=url, timeout=ANSWER_TIMEOUT_S) as client:
        for item in texts:
            answer, timing = _answer(client, route, item, log=log)
            if (other := answer.model.digest) != digest:
                raise BadArtifact(f"the server answers with {other[:12]}, not with the champion {digest[:12]}")
            answered += 1
            reporter.line(f"  {item[0][:90]!r} -> {told(answer.results[0])}   [{timing}]")
    return answered


def _answer(client: "httpx.Client", route: str, item: tuple[str, ...], *, log: Path) -> tuple[_Answer, str]:
    """The answer to one text, and what the server says of its time.

    Raises Transient, which names the server's log, where there is none or it cannot be read.
    """
    import httpx

    asked = f"POST {str(client.base_url).rstrip('/')}{route}"
    try:
        response = client.post(route, json={"texts": [item[0] if len(item) == 1 else list(item)]})
    except httpx.HTTPError as error:
        raise Transient(
            f"{asked} got no answer ({type(error).__name__}: {error}); the server's log is {log}"
        ) from error
    if response.status_code != httpx.codes.OK:
        said = f"{response.status_code}: {response.text[:200]}"
        raise Transient(f"{asked} answered {said}; the server's log is {log}")
    try:
        answer = msgspec.json.decode(response.content, type=_Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        said = f"{response.text[:200]!r} ({error})"
        raise Transient(f"{asked} answered what cannot be read, {said}; the server's log is {log}") from error
    return answer, response.headers.get("server-timing", "")


def told(result: dict[str, Any]) -> str:
    """An answer of any task in a few words."""
    if "entities" in result:
        found = (f"{each['text']} ({each['label']} {each['score']:.2f})" for each in result["entities"])
        return ", ".join(found) or "none"
    if "embedding" in result:
        return f"[{', '.join(f'{x:.3f}' for x in result['embedding'][:4])}, ...] of {len(result['embedding'])}"
    if "labels" in result:
        return ", ".join(f"{name} ({result['scores'][name]:.2f})" for name in result["labels"]) or "none"
    if result.get("refused"):
        return f"refused ({result['score']:.2f})"
    return f"{result['label']} ({result['score']:.2f})" if "label" in result else f"{result['score']:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: ends with one JSON line, and with the gate's exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.demo", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--workspace", type=Path, default=Path(".retort"))
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="A.B=VALUE")
    asked = parser.parse_args(arguments)

    def call() -> None:
        result, artifacts = demo(asked.config, workspace=asked.workspace, settings=asked.settings)
        print(msgspec.json.encode(result).decode(), flush=True)
        end_by_verdict(artifacts)

    sys.exit(exit_code_of(call))


if __name__ == "__main__":
    main()
