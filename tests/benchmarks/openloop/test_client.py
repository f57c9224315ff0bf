"""The generator's process against the constant-answer server, both real: what is counted, not how fast."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from benchmarks.children import run_child
from benchmarks.openloop import client
from benchmarks.openloop.answerer import answer_of, one_at_a_time
from benchmarks.openloop.client import ClientJob, Stretch
from benchmarks.openloop.running import Running, running
from benchmarks.openloop.schedule import poisson_ns
from benchmarks.openloop.trace import Trace
from serving.errors import BadRequest, Transient

ANSWERER = ("benchmarks.openloop.answerer",)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(ANSWERER, cores=()) as server:
        yield server


def job(url: str, **changes: object) -> ClientJob:
    asked = ClientJob("tiny", url, ('{"texts": ["good"]}',), rps=300.0, seconds=0.5, warm_s=0.1, connections=8)
    return msgspec.structs.replace(asked, **changes)


def test_a_client_process_offers_the_schedule_and_writes_every_time(server: Running) -> None:
    asked = job(f"{server.url}/")
    trace = run_child(asked, result_type=Trace, threads=1, tell=lambda _: None, module="benchmarks.openloop.client")
    assert trace.due_ns == poisson_ns(300, seconds=0.6, seed=0).tolist()
    assert all(sent >= due for sent, due in zip(trace.sent_ns, trace.due_ns, strict=True))
    assert all(done > sent for done, sent in zip(trace.done_ns, trace.sent_ns, strict=True))
    rate = trace.rate()
    assert (rate.offered_rps, rate.seconds, rate.answered, rate.refused, rate.failed) == (300, 0.5, rate.sent, 0, 0)
    assert rate.p90_ms is not None
    assert rate.p99_ms is None


@pytest.mark.parametrize(("status", "counts"), [(503, "refused"), (500, "failed"), (404, "failed")])
def test_a_server_that_does_not_answer_well_is_told_before_it_is_loaded(status: int, counts: str) -> None:
    kind = Transient if counts == "refused" else BadRequest
    told = rf"the first request with {status}: "
    with running([*ANSWERER, "--status", str(status)], cores=()) as server, pytest.raises(kind, match=told):
        client.run(job(f"{server.url}/"))


def test_connections_of_one_answer_each_carry_the_load_too() -> None:
    with running([*ANSWERER, "--one-shot"], cores=()) as server:
        trace = client.run(job(f"{server.url}/", rps=100.0, connections=32))
    assert set(trace.status) == {200}


def test_a_server_slower_than_the_load_is_loaded_all_the_same() -> None:
    """50 requests/s at 40 ms each: the queue, and with it the latency, grows to the end."""
    with running([*ANSWERER, "--service-ms", "40"], cores=()) as server:
        trace = client.run(job(f"{server.url}/", rps=50.0, seconds=2.0, connections=64))
    latencies_ms = trace.latencies_ms()
    assert latencies_ms[-10:].mean() > 500
    assert latencies_ms[-10:].mean() > 2 * latencies_ms[:10].mean()
    assert trace.rate().answered == len(latencies_ms)


def test_with_too_few_connections_the_rest_has_failed() -> None:
    with running([*ANSWERER, "--service-ms", "40"], cores=()) as server:
        rate = client.run(job(f"{server.url}/", rps=200.0, seconds=0.5, connections=2)).rate()
    assert rate.failed > rate.answered > 0
    assert rate.p50_ms is None


def test_a_server_that_dies_meanwhile_leaves_failures() -> None:
    killer = "import os, sys, time; time.sleep(0.4); os.kill(int(sys.argv[1]), 9)"
    with (
        running(ANSWERER, cores=()) as mortal,
        subprocess.Popen([sys.executable, "-c", killer, str(mortal.process.pid)]),
    ):
        rate = client.run(job(f"{mortal.url}/", seconds=1.5)).rate()
    assert rate.answered > 0
    assert rate.failed > 0
    assert rate.answered + rate.failed == rate.sent


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"bodies": ()}, "load needs bodies and connections: got 0 and 8"),
        ({"connections": 0}, "load needs bodies and connections: got 1 and 0"),
        ({"rps": 0.0}, "0 requests/s for 0.6 s cannot be offered: give numbers above 0"),
        ({"url": "here"}, "url is 'here': load goes over plain HTTP; write http://HOST:PORT/PATH"),
    ],
)
def test_a_job_that_cannot_be_done_is_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(BadRequest) as caught:
        client.run(job(**{"url": "http://127.0.0.1:1/", **changes}))
    assert str(caught.value) == told


def test_the_process_ends_with_the_code_and_the_message_of_its_failure(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_bytes(msgspec.json.encode(job("ftp://here")))
    command = [sys.executable, "-m", "benchmarks.openloop.client", "job.json", "result.json"]
    root = Path(client.__file__).parents[2]
    ended = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 64
    assert ended.stderr == "url is 'ftp://here': load goes over plain HTTP; write http://HOST:PORT/PATH\n"
    assert not (tmp_path / "result.json").exists()


def test_one_at_a_time_each_request_waits_for_those_before_it() -> None:
    times = iter([10.0, 10.0, 10.5, 20.0])
    delay_s = one_at_a_time(1.0, clock=lambda: next(times))
    assert [delay_s() for _ in range(4)] == [1.0, 2.0, 2.5, 1.0]


def test_the_constant_answer_is_a_whole_message() -> None:
    assert answer_of(200, one_shot=True) == (
        b"HTTP/1.1 200 Constant\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: 15\r\n\r\n"
        b'{"results": []}'
    )


def test_a_second_rate_follows_the_first_without_a_pause(server: Running) -> None:
    then = (Stretch(rps=1000.0, seconds=0.3), Stretch(rps=50.0, seconds=0.4))
    trace = client.run(job(f"{server.url}/", rps=100.0, seconds=0.4, then=then, connections=32))
    parts = [
        [ns / 1e9 for ns in trace.due_ns if begin <= ns / 1e9 < end]
        for begin, end in ((0, 0.5), (0.5, 0.8), (0.8, 1.2))
    ]
    assert sum(map(len, parts)) == len(trace.due_ns) == len(trace.status)
    assert trace.due_ns == sorted(trace.due_ns)
    assert len(parts[1]) > 2 * len(parts[0]) > 2 * len(parts[2]) > 0
    assert trace.timing == []


def test_what_answers_say_of_their_times_stands_beside_each_request(server: Running) -> None:
    trace = client.run(job(f"{server.url}/", timed=True))
    assert trace.timing == [""] * len(trace.due_ns), "this server says nothing"


def test_one_request_tells_whether_a_load_makes_sense(server: Running) -> None:
    client.require_answer(job(f"{server.url}/"))
    with pytest.raises(Transient, match=r"took 0 of 1 connections"):
        client.require_answer(job("http://127.0.0.1:9/"))
    with pytest.raises(BadRequest, match=r"^0 requests/s for 0.6 s cannot be offered"):
        client.require_answer(job(f"{server.url}/", rps=0.0))
