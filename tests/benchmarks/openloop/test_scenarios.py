"""Both scenarios from start to result, with the real server and real child processes, on a tiny bundle."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE

import msgspec
import pytest
from fakes import tiny_bundle

from benchmarks.children import CHECKOUT
from benchmarks.machine import affinity
from benchmarks.openloop import held as held_module
from benchmarks.openloop.client import ClientJob
from benchmarks.openloop.plan import Plan
from benchmarks.openloop.results import Rate, ServerResult
from benchmarks.openloop.running import real_server, running
from benchmarks.openloop.scenarios import (
    connections_for,
    load_bundle,
    load_engine,
    load_url,
    offer_http,
    split_cores,
)
from serving.errors import BadArtifact, BadRequest, Failure, Transient

ITEMS = [("good",), ("bad bad good",)]
QUICK = Plan(bound_ms=500.0, percent=50, start_rps=40.0, steps=2, seconds=0.5, warm_s=0.1)
# Nobody keeps this bound, and half the rate would take too long: one rate is asked about.
ONE_RATE = msgspec.structs.replace(QUICK, bound_ms=0.001, most_s=1.0)
two_cores = pytest.mark.skipif(len(affinity()) < 2, reason="the generator needs a core of its own")


@two_cores
@pytest.mark.parametrize("task", ["classification", "token-classification"])
def test_a_bundle_is_served_and_loaded_over_http(tmp_path: Path, task: str) -> None:
    bundle = tiny_bundle(tmp_path, task=task)  # type: ignore[arg-type]
    found, told = until_on_time(
        lambda tell: load_bundle(bundle.path, ITEMS, variant="tiny", plan=ONE_RATE, cores=affinity()[:2], tell=tell)
    )
    assert (found.scenario, found.percent, found.points[0].offered_rps) == ("http", 50, 40)
    assert found.points[0].answered == found.points[0].sent > 0
    assert (found.best_rps, found.broken_rps, told) == (None, 40, [1])
    assert msgspec.json.decode(msgspec.json.encode(found), type=ServerResult) == found


def until_on_time(measure: Callable[[Callable[[int], None]], ServerResult]) -> tuple[ServerResult, list[int]]:
    """What is found, and told meanwhile, by a generator that kept its times: beside other processes it lags now and
    then, which voids the first point, and then what is known of a rate is nothing. Measured again ten times at most."""
    for _ in range(10):
        told: list[int] = []
        found = measure(told.append)
        if not found.points[0].void:
            break
    return found, told


def test_a_bundle_is_loaded_in_process(tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    told: list[int] = []
    plan, cores = msgspec.structs.replace(QUICK, bound_ms=50.0, start_rps=500.0), affinity()[:1]
    found = load_engine(tmp_path, ITEMS, variant="tiny", plan=plan, cores=cores, threads=1, tell=told.append)
    assert (found.scenario, found.points[0].offered_rps) == ("engine", 500)
    assert found.points[0].sent > 0
    assert told == [*range(1, len(told) + 1)] != []


def test_over_http_the_generator_has_the_last_core() -> None:
    assert split_cores((2, 3, 7)) == ((7,), (2, 3))


def test_one_core_is_too_few_for_load_over_http(tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as caught:
        load_bundle(tmp_path / "never read", ITEMS, variant="tiny", plan=QUICK, cores=(0,))
    assert str(caught.value) == (
        "load over HTTP needs a core for the generator beside the server's; here is 1: use another machine, or load "
        "the engine in process"
    )


@pytest.mark.parametrize(("rps", "bound_ms", "wanted"), [(10, 50, 64), (2000, 50, 200), (333, 100.1, 67)])
def test_connections_suffice_for_a_server_that_keeps_the_bound(rps: float, bound_ms: float, wanted: int) -> None:
    assert connections_for(rps, bound_ms=bound_ms) == wanted


def test_a_url_that_nobody_listens_at_ends_the_scenario() -> None:
    with pytest.raises(Transient, match=r"took 0 of 64 connections; start the server"):
        load_url("http://127.0.0.1:9/", ["{}"], variant="tiny", plan=QUICK)


def test_a_server_of_ours_that_has_ended_is_the_failure_that_is_told(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    with real_server(bundle.path, threads=1, queue=4, cores=()) as server:
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        job = ClientJob("tiny", f"{server.url}/classify", ("{}",), rps=10.0, seconds=1.0)
        with pytest.raises(Failure) as caught:
            offer_http(job, server=server)
    assert str(caught.value).startswith("the server ended with exit code -9 while it was measured; its last lines:\n  ")


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    (bundle.path / "model.onnx").write_bytes(b"")
    with (
        pytest.raises(BadArtifact) as caught,
        real_server(bundle.path, threads=1, queue=4, cores=()),
    ):
        pass
    told = f"error: {bundle.path}: model.onnx was altered after it was sealed; fetch or export the bundle again"
    assert str(caught.value) == f"the server ended with exit code 65 before it served; its last lines:\n  {told}"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """A module of this source, as `running` is asked for it."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def write(source: str) -> list[str]:
        (tmp_path / "a_server.py").write_text(source)
        return ["a_server"]

    return write


def test_a_server_that_says_nothing_at_all_is_told(module: Callable[[str], list[str]]) -> None:
    with pytest.raises(Failure) as caught, running(module("raise SystemExit(9)"), cores=()):
        pass
    assert str(caught.value) == (
        "the server ended with exit code 9 before it served; its last lines:\n  (it wrote nothing to stderr)"
    )


def test_a_server_runs_on_its_cores_and_the_parent_on_those_it_had(module: Callable[[str], list[str]]) -> None:
    before = affinity()
    asking = "import os; print('http://' + ','.join(map(str, os.sched_getaffinity(0)))); input()"
    with running(module(asking), cores=before[-1:]) as server:
        assert server.url == f"http://{before[-1]}"
    assert affinity() == before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_a_server_ends_with_the_one_who_started_it_however_that_ends() -> None:
    started = """
from benchmarks.openloop.running import running
with running(["benchmarks.openloop.answerer"], cores=()) as server:
    print(server.process.pid, flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, "-c", started], cwd=CHECKOUT, stdin=PIPE, stdout=PIPE) as parent:
        assert parent.stdout is not None
        server = Path("/proc") / parent.stdout.readline().decode().strip()
        assert "answerer" in (server / "cmdline").read_text()
        parent.kill()
    until = time.monotonic() + 20
    while server.exists() and "\nState:\tZ" not in (server / "status").read_text():
        assert time.monotonic() < until, "it listens on for nobody"
        time.sleep(0.02)


@two_cores
def test_whether_the_generator_holds_a_rate_here_is_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    held_module.main(["--rps", "100", "--seconds", "0.4", "--runs", "2", "--out", str(tmp_path / "held.json")])
    *lines, last = capsys.readouterr().out.splitlines()
    found = msgspec.json.decode(last, type=held_module.Held)
    assert [line.split(":")[0] for line in lines] == ["100 requests/s for 0.4 s"] * 2
    assert all(run.answered == run.sent > 0 for run in found.runs)
    assert (tmp_path / "held.json").read_text() == f"{last}\n"


def test_a_run_is_told_in_a_line() -> None:
    rate = Rate(
        2000.0, 30.0, 60_000, 59_999, 0, 1, 0.05, 0.1, None, late_p50_ms=0.01, late_p99_ms=2.5, void="it lagged"
    )
    assert held_module.told(rate) == (
        "2000 requests/s for 30 s: 59999 of 60000 answered; lateness p50, p99 0.010, 2.500 ms; latency p50, p90, p99 "
        "0.050, 0.100, - ms; void: it lagged"
    )
