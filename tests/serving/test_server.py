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
from pathlib import Path

import httpx
import pytest
from fakes import tiny_bundle, tuning_of
from served import GOOD, WAIT_S, Running, running

from serving.bundle import Bundle
from serving.errors import BadRequest, Transient
from serving.listening import bind
from serving.machine import machine_identity
from serving.tuning import Setting, write_tuning


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

    with running(slow.path, "--drain-s", "3", "--max-wait-ms", "20000") as server, ThreadPoolExecutor(4) as pool:
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


def test_what_was_sent_before_the_signal_is_answered_though_it_was_not_read_yet(tmp_path: Path) -> None:
    slow = tiny_bundle(tmp_path / "slow", work=1500)
    body = json.dumps({"texts": ["good"] * 30}).encode()
    asked = b"POST /classify HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with running(slow.path, "--max-wait-ms", "20000") as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(10)]
        for client in clients:
            client.sendall(asked)
        server.process.send_signal(signal.SIGTERM)
        answers = [b"".join(iter(lambda client=client: client.recv(65536), b"")) for client in clients]  # type: ignore[misc]
        assert server.process.wait(WAIT_S) == 0
    assert [answer.split(b"\r\n")[0] for answer in answers] == [b"HTTP/1.1 200 OK"] * 10
    assert [answer.count(b'"label"') for answer in answers] == [30] * 10
    assert all(b"connection: close\r\n" in answer for answer in answers)


def test_a_client_that_leaves_is_counted_as_dropped_and_the_server_goes_on(tmp_path: Path) -> None:
    slow = tiny_bundle(tmp_path / "slow", work=1500)
    with running(slow.path, "--max-wait-ms", "20000") as server:
        body = b'{"texts": ["good"]}'
        head = b"POST /classify HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % len(body)
        with server.connect() as first, server.connect() as second:
            first.sendall(head + body)
            second.sendall(head + body)
            time.sleep(0.01)
        assert httpx.post(f"{server.url}/classify", json=GOOD, timeout=WAIT_S).status_code == 200
        assert server.metric('retort_requests_total{outcome="dropped"}') == 2.0
        assert server.metric("retort_requests_accepted_total") == 3.0


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
        "import serving.following as following\n"
        "from serving.options import Options\n"
        "from serving.server import run\n"
        "from serving.registry import Named, Resolved\n"
        "from serving.bundle import read_bundle\n"
        "root = Path(sys.argv[1])\n"
        "def find(*_, **__):\n"
        "    version = (root / 'alias').read_text()\n"
        "    return Named(version, read_bundle(root / version).digest)\n"
        "def resolve(source, **_):\n"
        "    version = find().version if '@' in source else source.split('/')[-1]\n"
        "    return Resolved(root / version, 'm', version, read_bundle(root / version).digest)\n"
        "following.find_version, following.resolve, following.POLL_S = find, resolve, 0.05\n"
        "run(Options(source='models:/m@champion', port=0, tracking_uri='x', cache=root, threads=1))\n"
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


LOADING_FOR_EVER = """
import sys
from pathlib import Path
import onnxruntime
import serving.following as following
from serving.__main__ import serve
from serving.bundle import read_bundle
from serving.registry import Named, Resolved
root = Path(sys.argv[1])

def resolve(source, **_):
    version = find().version if "@" in source else source.split("/")[-1]
    while version == "2":
        (root / "loading").touch()
        onnxruntime.InferenceSession(root / "2" / "model.onnx")
    return Resolved(root / version, "m", version, read_bundle(root / version).digest)

def find(*_, **__):
    version = (root / "alias").read_text()
    return Named(version, read_bundle(root / version).digest)

following.find_version, following.resolve, following.POLL_S = find, resolve, 0.05
serve("models:/m@champion", port=0, tracking_uri="x", cache=root, threads=1)
"""


def test_a_sigterm_while_another_version_is_loaded_ends_with_0(tmp_path: Path) -> None:
    for version in ("1", "2"):
        tiny_bundle(tmp_path / version)
    alias = tmp_path / "alias"
    alias.write_text("1")
    with subprocess.Popen(
        [sys.executable, "-c", LOADING_FOR_EVER, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("serving m version 1 ")
        alias.write_text("2")
        deadline = time.monotonic() + WAIT_S
        while not (tmp_path / "loading").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert errors.endswith(" INFO serving.server stopping: SIGTERM\n"), "the log is written to its end"


FAILING_WHILE_LOADING = """
import asyncio
import serving.server
from serving.errors import Transient
from pipeline.exits import exit_code_of

async def fails(*_, **__):
    while not (root / "loading").exists():
        (root / "alias").write_text("2")
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    raise Transient("the other port is taken")

serving.server._start_grpc = fails
told = {"exit_code_of": {"code_of": exit_code_of}, "": {}}[sys.argv[2]]
"""


@pytest.mark.parametrize(("code_of", "name"), [("", "error"), ("exit_code_of", "retort")])
def test_a_failure_while_another_version_is_loaded_ends_with_its_code(tmp_path: Path, code_of: str, name: str) -> None:
    for version in ("1", "2"):
        tiny_bundle(tmp_path / version)
    (tmp_path / "alias").write_text("1")
    *script, serve, _ = LOADING_FOR_EVER.split("\n")
    serve = serve.replace("threads=1)", "threads=1, grpc_port=0, **told)")
    command = [sys.executable, "-c", "\n".join((*script, FAILING_WHILE_LOADING, serve)), str(tmp_path), code_of]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert ended.returncode == 75
    assert ended.stderr.endswith(f"{name}: the other port is taken\n")


COMPUTING_FOR_EVER = """
import sys
from pathlib import Path
import onnxruntime
from serving.__main__ import serve
from serving.models import Models

def answer_jobs(self, lane, jobs):
    while True:
        onnxruntime.InferenceSession(Path(sys.argv[1], "model.onnx"))

Models.answer_jobs = answer_jobs
serve(sys.argv[1], cache=Path("none"), port=0, threads=1)
"""


def test_an_executor_that_never_ends_does_not_keep_it_from_ending_with_0(bundle: Bundle) -> None:
    command = [sys.executable, "-c", COMPUTING_FOR_EVER, str(bundle.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split(" on ")[1].strip()
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{url}/classify", json=GOOD, timeout=0.3)
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0
        finally:
            process.kill()


SIGNALLED_ELSEWHERE = """
import signal, sys, threading, time
from pathlib import Path
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # of this thread and those it starts
from serving.options import Options
from serving.server import run
run(Options(source=sys.argv[1], cache=Path("none"), port=0, threads=1))
"""


def test_a_signal_that_does_not_wake_the_main_thread_is_heard(bundle: Bundle) -> None:
    """As one that comes just before it waits."""
    command = [sys.executable, "-c", SIGNALLED_ELSEWHERE, str(bundle.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("serving tiny ")
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()


def test_what_was_loaded_is_kept_from_the_garbage_collector_and_threads_take_short_turns() -> None:
    asking = (
        "import gc, sys, serving.server; from serving.settling import settle_down\n"
        "settle_down(); print(gc.get_freeze_count() > 10_000, len(gc.get_objects()) < 1000, sys.getswitchinterval())"
    )
    told = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert told.stdout == "True True 0.0005\n"


def test_grpc_is_served_beside_and_ends_with_it(bundle: Bundle) -> None:
    with running(bundle.path, "--grpc-port", "0") as server:
        (port,) = re.findall(r"gRPC on port (\d+)", server.errors.read_text())
        with socket.create_connection(("127.0.0.1", int(port)), timeout=WAIT_S) as connection:
            assert connection.recv(9)[3:4] == b"\x04"  # the settings frame of HTTP/2
        assert server.stop() == 0


def test_a_port_for_grpc_that_is_taken_ends_with_75(bundle: Bundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        command = [sys.executable, "-m", "serving", str(bundle.path), "--port", "0", "--grpc-port", port]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    way_out = "stop what holds it, or choose another with --grpc-port, or 0 for any that is free"
    last = ended.stderr.splitlines()[-1]
    assert (ended.returncode, ended.stdout) == (75, "")
    assert last == f"error: port {port} on 127.0.0.1 cannot be had for gRPC; {way_out}"
