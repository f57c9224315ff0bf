"""The real process from its first line to its exit code: keys, logs, signals, and what goes wrong around it."""

import contextlib
import hashlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from fakes import tiny_bundle
from served import GOOD, WAIT_S, running

from serving.bundle import Bundle

ROUNDS = 5  # the long form: terminate_under_load(bundle, rounds=100)
BODY = b'{"texts": ["good"]}'
PATIENT = ("--max-wait-ms", "20000", "--queue", "1000")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("lifecycle") / "bundle", max_items=4)


@pytest.fixture
def slow(tmp_path: Path) -> Bundle:
    """A model that takes about 0.2 s."""
    return tiny_bundle(tmp_path / "slow", work=1500)


def until(true: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < give_up_s
        time.sleep(0.01)


# -- keys and the log ------------------------------------------------------------------------------------------------


def test_inference_needs_a_key_and_signs_of_life_do_not_and_keys_change_while_it_runs(
    bundle: Bundle, tmp_path: Path
) -> None:
    def line(key: str) -> str:
        return f"alice:{hashlib.sha256(key.encode()).hexdigest()}\n"

    keys = tmp_path / "keys"
    keys.write_text(line("one"))
    with running(bundle.path, "--api-keys", str(keys), "--access-log") as server, httpx.Client() as client:
        url = f"{server.url}/classify"
        refused = client.post(url, json=GOOD)
        taken = client.post(url, json=GOOD, headers={"Authorization": "Bearer one", "X-Request-Id": "mine"})
        opened = [client.get(f"{server.url}{path}").status_code for path in ("/v2/health/ready", "/metrics")]
        keys.write_text(line("two") + line("three"))
        until(lambda: client.post(url, json=GOOD, headers={"X-API-Key": "two"}).status_code == 200)
        late = client.post(url, json=GOOD, headers={"X-API-Key": "one"})
        assert server.stop() == 0
    log = server.errors.read_text()
    assert (refused.status_code, refused.headers["www-authenticate"], late.status_code) == (401, "Bearer", 401)
    assert (taken.status_code, taken.headers["x-request-id"], opened) == (200, "mine", [200, 200])
    assert "id='mine' method='POST' path='/classify' status=200" in log
    assert "key='alice'" in log
    assert not {"Bearer", "three", "one'"} & set(log.replace("=", " ").split())


def test_keys_that_cannot_be_read_end_with_64_before_the_model_is_read(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "serving",
        str(tmp_path / "none"),
        "--port",
        "0",
        "--api-keys",
        str(tmp_path / "k"),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert ended.returncode == 64
    assert ended.stderr.startswith(f"error: the API keys in {tmp_path / 'k'} cannot be read: ")


@pytest.mark.parametrize(("options", "given"), [((), None), (("--log-texts",), '{"texts": ["' + "good " * 37 + "goo")])
def test_the_log_has_a_line_of_json_for_each_request_and_its_text_only_where_asked(
    bundle: Bundle, options: tuple[str, ...], given: str | None
) -> None:
    with running(bundle.path, "--access-log", "--log-format", "json", *options) as server:
        body = json.dumps({"texts": ["good " * 100]})
        assert httpx.post(f"{server.url}/classify?q=1", content=body).status_code == 200
        assert server.stop() == 0
    lines = [json.loads(line) for line in server.errors.read_text().splitlines()]
    (line,) = [line for line in lines if line["logger"] == "serving.requests"]
    assert (line["method"], line["path"], line["status"], line["outcome"]) == ("POST", "/classify", 200, "ok")
    assert line.get("given") == given
    assert (given is not None) == ("good" in server.errors.read_text())
    assert lines[-1]["message"] == "stopping: SIGTERM"


# -- signals ---------------------------------------------------------------------------------------------------------


@dataclass
class Client:
    """Asks again and again, on one connection or on a new one each time, until it is let in no more."""

    port: int
    keeps: bool
    answered: int = 0
    failures: list[str] = field(default_factory=list)

    def ask_until_kept_out(self) -> None:
        connection = self._connected()
        while connection is not None:
            try:
                connection.request("POST", "/classify", BODY)
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                return
            if answer.status != 200:
                self.failures.append(f"{answer.status}")
            self.answered += 1
            time.sleep(0.002)
            if answer.will_close or not self.keeps:
                connection.close()
                connection = self._connected()

    def _connected(self) -> http.client.HTTPConnection | None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        connection.timeout = 5.0
        try:
            connection.connect()
        except OSError:
            connection.close()
            return None
        return connection


def terminate_under_load(bundle: Bundle, *, rounds: int, clients: int = 6) -> list[str]:
    """Start, load and SIGTERM a server so many times; what failed that had been let in, and any exit code but 0."""
    failures: list[str] = []
    for number in range(rounds):
        with running(bundle.path, *PATIENT) as server:
            asking = [Client(server.port, keeps=index % 2 == 0) for index in range(clients)]
            threads = [threading.Thread(target=client.ask_until_kept_out) for client in asking]
            for thread in threads:
                thread.start()
            until(lambda asking=asking: all(client.answered > 5 for client in asking))  # type: ignore[misc]
            code = server.stop()
            for thread in threads:
                thread.join(WAIT_S)
        failures += [f"round {number}: {failure}" for client in asking for failure in client.failures]
        failures += [f"round {number}: exit code {code}"] * (code != 0)
    return failures


def test_no_request_that_was_let_in_fails_however_often_the_server_is_ended_under_load(bundle: Bundle) -> None:
    assert terminate_under_load(bundle, rounds=ROUNDS) == []


def test_while_it_drains_it_is_not_ready_and_answers_and_closes(bundle: Bundle) -> None:
    with running(bundle.path, "--drain-s", "1.5") as server, httpx.Client() as kept:
        assert kept.post(f"{server.url}/classify", json=GOOD).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        answers = [kept.get(f"{server.url}/v2/health/ready"), kept.post(f"{server.url}/classify", json=GOOD)]
        ended = server.process.wait(WAIT_S)
    assert [(answer.status_code, answer.headers["connection"]) for answer in answers] == [
        (503, "close"),
        (200, "close"),
    ]
    assert ended == 0


@pytest.mark.parametrize(("second", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_it_at_once(bundle: Bundle, second: signal.Signals, code: int) -> None:
    with running(bundle.path, "--drain-s", "60") as server:
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        server.process.send_signal(second)
        assert server.process.wait(5) == code
    assert server.errors.read_text().endswith(f"ended at once by a second signal ({second.name})\n")


HEARING = """
import os, signal, sys, time
from serving.server import _hear
_hear(lambda _: None)
os.kill(os.getpid(), signal.SIGTERM)
if sys.argv[1] == "full":
    os.set_blocking(2, False)
    try:
        while os.write(2, b"x" * 4096): pass
    except BlockingIOError:
        os.set_blocking(2, True)
try:
    print("heard", flush=True)
    time.sleep(30)
finally:
    print("unwound", flush=True)
"""


@pytest.mark.parametrize("reader", ["full", "gone"])
def test_a_second_signal_ends_it_at_once_although_nobody_reads_stderr(reader: str) -> None:
    command = [sys.executable, "-c", HEARING, reader]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == "heard\n"
            if reader == "gone":
                process.stderr.close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 143
            assert process.stdout.read() == ""
        finally:
            process.kill()


def test_a_server_whose_stdout_nobody_reads_serves(bundle: Bundle, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    log = tmp_path / "log"
    command = [sys.executable, "-m", "serving", str(bundle.path), "--port", "0", "--threads", "1"]
    with log.open("w") as errors, subprocess.Popen(command, stdout=writing, stderr=errors) as process:
        os.close(writing)
        try:
            until(lambda: "stdout cannot be written to" in log.read_text() or process.poll() is not None)
            told = r" stdout cannot be written to \(\[Errno 32\] Broken pipe\): serving tiny .* on (.*)\n"
            url = re.findall(told, log.read_text())[0]
            assert httpx.post(f"{url}/classify", json=GOOD).status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0
        finally:
            process.kill()


def test_a_body_may_be_as_large_as_the_server_is_told(bundle: Bundle) -> None:
    body = BODY + b" " * 80
    with running(bundle.path, "--max-body-bytes", str(len(body) - 1)) as server:
        refused, taken = (httpx.post(f"{server.url}/classify", content=sent) for sent in (body, body[:-1]))
    told = {"error": f"the body exceeds the {len(body) - 1} bytes allowed; split the request"}
    assert (refused.status_code, refused.json(), taken.status_code) == (413, told, 200)


def test_a_signal_while_the_model_loads_ends_it_with_143(tmp_path: Path) -> None:
    slow = tiny_bundle(tmp_path / "slow", work=3000)
    command = [sys.executable, "-X", "importtime", "-m", "serving", str(slow.path), "--port", "0", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "serving.server" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (143, "")


# -- what goes wrong around it ---------------------------------------------------------------------------------------


def test_stopped_and_continued_it_answers_within_two_seconds_and_was_never_dead(bundle: Bundle) -> None:
    with running(bundle.path) as server, httpx.Client(timeout=WAIT_S) as client:
        os.kill(server.process.pid, signal.SIGSTOP)
        with server.connect() as waiting:
            waiting.sendall(b"POST /classify HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY))
            time.sleep(5)
            os.kill(server.process.pid, signal.SIGCONT)
            continued_s = time.monotonic()
            live = client.get(f"{server.url}/v2/health/live")
            answered = client.post(f"{server.url}/classify", json=GOOD)
            took_s = time.monotonic() - continued_s
            assert waiting.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert (live.status_code, answered.status_code) == (200, 200)
        assert took_s < 2


def test_of_clients_killed_in_flight_nothing_stays_and_every_other_one_is_answered(slow: Bundle) -> None:
    head = b"POST /classify HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    with running(slow.path, *PATIENT) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(40)]
        for client in clients:
            client.sendall(head % len(BODY) + BODY)
        killed, others = clients[1::3], [client for index, client in enumerate(clients) if index % 3 != 1]
        for client in killed:
            client.close()
        answers = [client.recv(65536) for client in others]
        assert [answer.split(b"\r\n")[0] for answer in answers] == [b"HTTP/1.1 200 OK"] * len(answers)
        until(lambda: server.metric("retort_requests_in_flight") == 0)
        assert server.metric("retort_queue_length") == 0
        outcomes = {name: server.metric(f'retort_requests_total{{outcome="{name}"}}') for name in ("ok", "dropped")}
        assert outcomes["ok"] + outcomes["dropped"] == len(clients) == server.metric("retort_requests_accepted_total")
        assert outcomes["ok"] >= len(answers)
        assert outcomes["dropped"] > 0
        for client in others:
            client.close()
        until(lambda: server.metric("retort_connections") == 1)


LOSING_AN_EXECUTOR = """
import ctypes, sys, threading, time
from pathlib import Path
from serving.options import Options
from serving.server import run

def lose():
    Path(sys.argv[2]).touch()
    while Path(sys.argv[2]).exists():
        time.sleep(0.01)
    for thread in threading.enumerate():
        if thread.name.startswith("executor-"):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
    Path(sys.argv[2]).touch()

threading.Thread(target=lose, daemon=True).start()
run(Options(source=sys.argv[1], cache=Path("none"), port=0, threads=1))
"""


@contextlib.contextmanager
def scripted(script: str, *arguments: str) -> Iterator[str]:
    """A server started by a script of its own; its address."""
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split(" on ")[1].strip()
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0
        finally:
            process.kill()


def test_an_executor_that_is_killed_is_replaced(bundle: Bundle, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    with scripted(LOSING_AN_EXECUTOR, str(bundle.path), str(sign)) as url, httpx.Client(timeout=WAIT_S) as client:
        sign.unlink()
        until(sign.exists)
        lost_s = time.monotonic()
        statuses = [client.post(f"{url}/classify", json=GOOD).status_code for _ in range(20)]
        until(lambda: client.post(f"{url}/classify", json=GOOD).status_code == 200)
        assert time.monotonic() - lost_s < 2
        assert set(statuses) <= {200, 503}
        assert statuses.count(503) <= 1
        assert client.get(f"{url}/v2/health/ready").status_code == 200


def test_it_writes_nothing_beside_its_cache(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "home" / "bundle")
    (tmp_path / "tmp").mkdir()
    before = sorted(tmp_path.rglob("*"))
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    checkout = str(Path(__file__).resolve().parents[2])
    env = kept | {"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": checkout}
    (tmp_path / "home").chmod(0o555)
    with running(bundle.path, env=env, cwd=tmp_path / "home", errors=tmp_path.with_suffix(".err")) as server:
        assert httpx.post(f"{server.url}/classify", json=GOOD).status_code == 200
        assert server.stop() == 0
    (tmp_path / "home").chmod(0o755)
    assert sorted(tmp_path.rglob("*")) == before


READ_ONLY = (*("unshare", "--mount", "sh", "-c", 'mount --bind / / && mount -o remount,ro,bind / && exec "$@"', "sh"),)
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs")


def can(before: tuple[str, ...], *command: str) -> bool:
    """Whether this machine lets us."""
    try:
        return subprocess.run([*before, *command], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.parametrize(
    ("before", "check"),
    [(READ_ONLY, ("sh", "-c", "! touch /here")), (AS_NOBODY, (sys.executable, "-c", "import onnxruntime"))],
    ids=["read-only root", "as nobody"],
)
def test_it_serves_on_a_read_only_root_file_system_and_as_nobody(
    bundle: Bundle, tmp_path: Path, before: tuple[str, ...], check: tuple[str, ...]
) -> None:
    if not can(before, *check):
        pytest.skip(f"this machine does not let us run as {' '.join(before[:2])}")
    for folder in (bundle.path, *bundle.path.parents):
        if folder.stat().st_uid == os.getuid() and folder.is_relative_to("/tmp"):
            folder.chmod(0o755)
    with running(bundle.path, before=before, errors=tmp_path / "log") as server:
        assert httpx.post(f"{server.url}/classify", json=GOOD).status_code == 200
        assert server.stop() == 0
