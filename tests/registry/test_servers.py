"""The servers and the proxies of these tests: a server ends with who started it, a proxy breaks what it is told to."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from faults import Answer, Cut, Line, proxy
from registries import (
    NotAllowed,
    NotHere,
    Registry,
    clean_environment,
    free_port,
    or_absent,
    postgres_binary,
    running,
)

STARTING = """
import signal, sys, time
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from registries import running
with running([sys.executable, "-c", sys.argv[4]], log=Path(sys.argv[3]), end=signal.SIGTERM):
    time.sleep(60)
"""
FAMILY = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(os.getpid(), inner.pid, flush=True)
time.sleep(60)
"""


def two_numbers(log: Path) -> list[int]:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if log.is_file() and len(log.read_text().split()) == 2:
            return [int(word) for word in log.read_text().split()]
        time.sleep(0.05)
    raise AssertionError(log.read_text() if log.is_file() else "nothing was written")


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def none_left(pids: list[int], within_s: float = 20.0) -> bool:
    end = time.monotonic() + within_s
    while any(alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(alive(pid) for pid in pids)


def test_a_server_and_its_children_end_with_the_block_that_started_it(tmp_path: Path) -> None:
    with running([sys.executable, "-c", FAMILY.replace("SIG_IGN", "SIG_DFL")], log=tmp_path / "log", end=9) as server:
        pids = two_numbers(tmp_path / "log")
        server.require_running()
    assert none_left(pids)


def test_a_server_that_will_not_end_is_killed_when_the_tests_are_killed(tmp_path: Path) -> None:
    """kill -9 of the tests: nothing of theirs runs any more, and SIGTERM is not heeded either."""
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", STARTING, str(tests), str(tests.parent), str(tmp_path / "log"), FAMILY]
    starter = subprocess.Popen(command, env=clean_environment())
    pids = two_numbers(tmp_path / "log")
    assert all(alive(pid) for pid in pids)

    starter.kill()
    starter.wait()

    assert none_left(pids)


def test_what_a_machine_has_not_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *arguments, **options: None)
    with pytest.raises(NotHere) as missing:
        postgres_binary("initdb")
    assert str(missing.value) == "PostgreSQL needs initdb; apt-get install postgresql"


def test_what_is_missing_skips_a_test_here_and_fails_it_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETORT_CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no such thing"), or_absent():
        raise NotHere("no such thing")
    monkeypatch.setenv("RETORT_CI", "1")
    with pytest.raises(pytest.fail.Exception, match="CI must have everything: no such thing"), or_absent():
        raise NotHere("no such thing")
    with pytest.raises(pytest.skip.Exception, match="not yours"), or_absent():
        raise NotAllowed("not yours")


# -- proxies -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Python's own file server, and its log of requests."""
    port = free_port()
    (tmp_path / "there").write_text("content")
    command = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "-d", str(tmp_path), str(port)]
    with running(command, log=tmp_path / "log", end=signal.SIGKILL) as server:
        end = time.monotonic() + 20
        while "Serving" not in (tmp_path / "log").read_text() and time.monotonic() < end:
            server.require_running()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}", tmp_path / "log"


def ask(uri: str, path: str = "/there", method: str = "GET") -> tuple[int, str] | str:
    """Status and body, or the name of what broke the connection."""
    connection = http.client.HTTPConnection(urlsplit(uri).netloc, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (http.client.HTTPException, ConnectionError) as broken:
        return type(broken).__name__
    finally:
        connection.close()


def test_a_proxy_passes_on_what_no_fault_befalls_and_counts_it(upstream: tuple[str, Path]) -> None:
    line = Line()
    with proxy(upstream[0], line) as uri:
        assert ask(uri) == (200, "content")
        assert ask(uri, method="HEAD") == (200, "")
        assert ask(uri, "/nowhere")[0] == 404
    assert line.seen == ["GET /there", "HEAD /there", "GET /nowhere"]
    assert line.struck == []


def test_a_cut_before_a_request_keeps_it_and_all_that_follow_from_the_server(upstream: tuple[str, Path]) -> None:
    line = Line(Cut(2, "before"))
    with proxy(upstream[0], line) as uri:
        assert [ask(uri) for _ in range(3)] == [(200, "content"), "RemoteDisconnected", "RemoteDisconnected"]
    assert upstream[1].read_text().count("GET /there") == 1
    assert line.struck == ["GET /there"] * 2


def test_a_cut_after_a_request_keeps_the_answer_from_the_client(upstream: tuple[str, Path]) -> None:
    line = Line(Cut(1, "after", once=True))
    with proxy(upstream[0], line) as uri:
        assert [ask(uri) for _ in range(2)] == ["RemoteDisconnected", (200, "content")]
    assert upstream[1].read_text().count("GET /there") == 2


def test_a_cut_can_call_at_that_moment(upstream: tuple[str, Path]) -> None:
    called: list[int] = []
    with proxy(upstream[0], Line(Cut(1, "before", then=lambda: called.append(os.getpid())))) as uri:
        ask(uri)
    assert called == [os.getpid()]


def test_an_answer_is_given_in_the_server_s_place_to_the_requests_named(upstream: tuple[str, Path]) -> None:
    with proxy(upstream[0], Line(Answer("GET /full", 507, "full"))) as uri:
        assert ask(uri, "/full/of/it") == (507, "full")
        assert ask(uri) == (200, "content")
    assert "/full" not in upstream[1].read_text()


def test_an_answer_may_be_given_a_few_times_only(upstream: tuple[str, Path]) -> None:
    with proxy(upstream[0], Line(Answer("GET /there", 507, "full", times=2))) as uri:
        assert [ask(uri) for _ in range(3)] == [(507, "full"), (507, "full"), (200, "content")]


def test_the_addresses_of_a_registry_are_those_of_its_proxies() -> None:
    there = Registry(
        "http://a:1", {"AWS_ACCESS_KEY_ID": "k", "MLFLOW_S3_ENDPOINT_URL": "http://s3:1"}, s3="http://s3:1"
    )
    seen = there.seen_at("http://b:2", "http://b:3")
    assert seen == Registry(
        "http://b:2", {"AWS_ACCESS_KEY_ID": "k", "MLFLOW_S3_ENDPOINT_URL": "http://b:3"}, s3="http://b:3"
    )
