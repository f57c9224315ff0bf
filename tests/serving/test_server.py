"""The real process: `python -m serving`, a real port, a real HTTP client, real signals."""

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fakes import tiny_bundle, tuning_of

from serving.bundle import Bundle
from serving.errors import BadRequest, Transient
from serving.machine import machine_identity
from serving.server import bind
from serving.tuning import Setting, write_tuning

GOOD = {"texts": ["good"]}
WAIT_S = 30


@dataclass
class Running:
    """A server that has said it is ready."""

    process: "subprocess.Popen[str]"
    line: str
    url: str
    errors: Path

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)

    def raw(self, data: bytes) -> bytes:
        """Send bytes as they are, and read until the server closes or has answered once."""
        host, port = self.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=WAIT_S) as connection:
            connection.sendall(data)
            return connection.recv(65536)


@contextlib.contextmanager
def running(
    source: Path, *options: str, before: tuple[str, ...] = (), threads: tuple[str, ...] = ("--threads", "1")
) -> Iterator[Running]:
    errors = source.parent / f"{source.name}.err"
    command = [*before, sys.executable, "-m", "serving", str(source), "--port", "0", *threads, *options]
    with errors.open("w") as err, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, errors.read_text()
            yield Running(process=process, line=line, url=line.split(" on ")[1].strip(), errors=errors)
        finally:
            if process.poll() is None:
                process.kill()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("server") / "bundle", max_items=4)


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Running]:
    with running(bundle.path) as server:
        yield server


def test_one_line_says_what_is_served_and_where(server: Running, bundle: Bundle) -> None:
    told = rf"serving tiny version local \(digest {bundle.digest[:12]}\) on http://127\.0\.0\.1:\d+\n"
    assert re.fullmatch(told, server.line)


def test_a_request_is_answered_over_http(server: Running) -> None:
    response = httpx.post(f"{server.url}/classify", json={"texts": ["good", "bad"]})
    assert [result["label"] for result in response.json()["results"]] == ["positive", "negative"]
    assert "server" not in response.headers


def test_a_server_that_is_told_no_threads_runs_as_its_tuning_says(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    setting = Setting(sessions=1, threads=1, executors=2)
    write_tuning(tuning_of(bundle, setting), bundle.path)
    write_tuning(tuning_of(bundle, setting, target="far", machine="Other CPU"), bundle.path)
    with running(bundle.path, threads=()) as server:
        assert httpx.post(f"{server.url}/classify", json=GOOD).status_code == 200
    log = server.errors.read_text().splitlines()
    assert [line.split(" serving.choosing ")[1] for line in log if " serving.choosing " in line] == [
        f"tiny: tuning@far.json is ignored: it was earned on another machine (Other CPU; this is {machine_identity()})",
        "tiny runs as 1 session of 1 thread, 2 executors, each item alone (tuning@here.json: 812 requests/s within "
        "p99 <= 20 ms, 2026-11-21T10:00:00+00:00)",
    ]


def test_a_server_without_a_tuning_says_what_it_chose_and_why(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    (bundle.path / "tuning@here.json").write_text("{}")
    with running(bundle.path, threads=()) as server:
        assert httpx.post(f"{server.url}/classify", json=GOOD).status_code == 200
    log = server.errors.read_text()
    assert "tuning@here.json is ignored: it is no tuning of schema 1: " in log
    assert re.search(r"tiny runs as \d+ sessions? of .* \((calibrated at the start|cores and memory allow)", log)


def test_a_tagger_s_places_arrive_over_http_as_the_client_counts_them(tmp_path: Path) -> None:
    text = "😀 “good” e\u0301te\u0301 dull bright"
    with running(tiny_bundle(tmp_path / "tagger", task="token-classification").path) as server:
        answered = httpx.post(f"{server.url}/tag", json={"texts": [text]})
        refused = httpx.post(f"{server.url}/classify", json={"texts": [text]})
    (told,) = answered.json()["results"]
    assert [(one["label"], one["text"]) for one in told["entities"]] == [("mood", "good"), ("mood", "dull bright")]
    assert all(text[one["start"] : one["end"]] == one["text"] for one in told["entities"])
    assert (refused.status_code, refused.json()) == (404, {"error": "this model does token-classification: POST /tag"})


def test_health_and_metrics_are_there(server: Running) -> None:
    statuses = [
        httpx.get(f"{server.url}{path}").status_code for path in ("/v2/health/live", "/v2/health/ready", "/metrics")
    ]
    assert statuses == [200, 200, 200]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"null", 422),
        (b'{"texts": [NaN]}', 422),
        (b'{"texts": [1.5]}', 422),
        (b'{"texts": {"a": "b"}}', 422),
        (b'{"texts": ["\0"]}', 422),
        (rb'{"texts": ["\u0000"]}', 200),
        (rb'{"texts": ["\ud800"]}', 422),
        (b'{"texts": ["\xff\xfe"]}', 422),
        (b'{"texts": ["a", "b", "c", "d", "e"]}', 422),
        (b'{"texts": ["' + b"a" * 20_001 + b'"]}', 422),
        (b"[" * 1_000_000, 422),
        (b" " * (4 * 2**20 + 1), 413),
    ],
)
def test_malformed_bodies_get_one_json_error_and_never_a_trace(server: Running, body: bytes, status: int) -> None:
    response = httpx.post(f"{server.url}/classify", content=body)
    assert response.status_code == status
    assert status == 200 or list(response.json()) == ["error"]
    assert "Traceback" not in response.text


def test_a_lie_about_the_length_is_cut_off_before_the_body(server: Running) -> None:
    head = b"POST /classify HTTP/1.1\r\nHost: here\r\nContent-Length: 99999999999\r\n\r\n"
    assert server.raw(head).startswith(b"HTTP/1.1 413 ")


def test_what_is_no_http_is_refused(server: Running) -> None:
    assert server.raw(b"\x16\x03\x01 not http\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_nothing_that_was_sent_made_the_server_fail(server: Running) -> None:
    text = httpx.get(f"{server.url}/metrics").text
    assert 'retort_requests_total{outcome="server_error"} 0.0' in text
    assert "Traceback" not in server.errors.read_text()


def test_a_port_that_is_taken_ends_with_75_before_the_model_is_read(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        command = [sys.executable, "-m", "serving", str(tmp_path / "no-such-bundle"), "--port", port]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    way_out = "stop what holds it, or choose another with --port, or 0 for any that is free"
    assert ended.returncode == 75
    assert ended.stderr == f"error: port {port} on 127.0.0.1 is taken; {way_out}\n"
    assert ended.stdout == ""


def test_binding_names_a_host_that_is_not_here() -> None:
    with pytest.raises(BadRequest, match=r"^port 0 on no\.such\.host\.invalid cannot be used: "):
        bind("no.such.host.invalid", 0)


def test_binding_a_taken_port_is_transient() -> None:
    with bind("127.0.0.1", 0) as first:
        first.listen()
        with pytest.raises(Transient, match=r"is taken; stop what holds it"):
            bind("127.0.0.1", first.getsockname()[1])


def test_sigterm_when_idle_ends_with_0(bundle: Bundle) -> None:
    with running(bundle.path) as server:
        assert server.stop() == 0
        assert "Traceback" not in server.errors.read_text()


def test_sigterm_under_load_answers_everything_that_was_asked_before(tmp_path: Path) -> None:
    slow = tiny_bundle(tmp_path / "slow", work=500)
    signalled = threading.Event()
    ready: list[int] = []

    def ask(server: Running) -> list[int]:
        """The statuses of requests begun before the signal; a request that fails raises here."""
        statuses = []
        while not signalled.is_set():
            statuses.append(httpx.post(f"{server.url}/classify", json=GOOD, timeout=WAIT_S).status_code)
        return statuses

    with running(slow.path, "--drain-s", "1") as server, ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(ask, server) for _ in range(4)]
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        ready.append(httpx.get(f"{server.url}/v2/health/ready").status_code)
        late = httpx.post(f"{server.url}/classify", json=GOOD, timeout=WAIT_S)
        signalled.set()
        statuses = [status for client in clients for status in client.result(WAIT_S)]
        assert server.process.wait(WAIT_S) == 0
    assert ready == [503]
    assert (late.status_code, late.headers["connection"]) == (200, "close")
    assert len(statuses) >= 4
    assert set(statuses) == {200}


def test_a_request_in_flight_at_the_end_is_finished(tmp_path: Path) -> None:
    slow = tiny_bundle(tmp_path / "slow", work=1000)
    with running(slow.path) as server, ThreadPoolExecutor(1) as pool:
        texts = {"texts": ["good"] * 30}
        answer = pool.submit(httpx.post, f"{server.url}/classify", json=texts, timeout=WAIT_S)
        while "retort_requests_in_flight 1.0" not in httpx.get(f"{server.url}/metrics").text:
            time.sleep(0.01)
        assert server.stop() == 0
        assert len(answer.result(WAIT_S).json()["results"]) == 30


def test_a_client_that_leaves_is_counted_as_dropped_and_the_server_goes_on(tmp_path: Path) -> None:
    slow = tiny_bundle(tmp_path / "slow", work=1000)
    with running(slow.path) as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/classify", json={"texts": ["good"] * 30}, timeout=0.2)
        assert httpx.post(f"{server.url}/classify", json=GOOD, timeout=WAIT_S).status_code == 200
        text = httpx.get(f"{server.url}/metrics").text
        assert 'retort_requests_total{outcome="dropped"} 1.0' in text
        assert "retort_requests_accepted_total 2.0" in text


UNSHARE = ("unshare", "--fork", "--pid", "--kill-child")


def can_unshare() -> bool:
    return bool(shutil.which("unshare")) and subprocess.run([*UNSHARE, "true"], check=False).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="may not make a PID namespace here")
def test_as_pid_1_sigterm_is_heard_and_drained(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    with running(bundle.path, before=UNSHARE) as server:
        parent = server.process.pid
        child = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0]
        assert Path(f"/proc/{child}/status").read_text().split("NSpid:")[1].splitlines()[0].split()[-1] == "1"
        assert httpx.post(f"{server.url}/classify", json=GOOD).status_code == 200
        subprocess.run(["kill", "-TERM", child], check=True)
        assert server.process.wait(WAIT_S) == 0


def test_the_alias_is_followed_by_the_running_server(tmp_path: Path) -> None:
    """The parts are tested in test_models.py and test_registry.py; this shows that the process joins them."""
    script = tmp_path / "serve_followed.py"
    first, second = tiny_bundle(tmp_path / "1"), tiny_bundle(tmp_path / "2", bias=20.0)
    alias = tmp_path / "alias"
    alias.write_text("1")
    script.write_text(
        "import sys, json\n"
        "from pathlib import Path\n"
        "import serving.server as server\n"
        "from serving.registry import Resolved\n"
        "from serving.bundle import read_bundle\n"
        "root = Path(sys.argv[1])\n"
        "find = lambda source, **_: (root / 'alias').read_text()\n"
        "def resolve(source, **_):\n"
        "    version = find(source) if '@' in source else source.split('/')[-1]\n"
        "    return Resolved(root / version, 'm', version, read_bundle(root / version).digest)\n"
        "server.find_version, server.resolve, server.POLL_S = find, resolve, 0.05\n"
        "server.run('models:/m@champion', host='127.0.0.1', port=0, tracking_uri='x', cache=root, threads=1, queue=4)\n"
    )
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        url = process.stdout.readline().split(" on ")[1].strip()
        alias.write_text("2")
        deadline = time.monotonic() + WAIT_S
        while (body := httpx.post(f"{url}/classify", json=GOOD).json())["model"]["version"] != "2":
            assert time.monotonic() < deadline, json.dumps(body)
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
    assert body["model"]["digest"] == second.digest != first.digest
    assert body["results"][0]["label"] == "negative"
