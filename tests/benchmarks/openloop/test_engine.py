"""The engine behind its queue, in process: what becomes of each request, and the search as a child process."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes import tiny_bundle

from benchmarks.openloop import engine
from benchmarks.openloop.engine import EngineJob, EngineWire, offer
from benchmarks.openloop.generator import Event
from benchmarks.openloop.plan import Plan
from benchmarks.openloop.trace import REFUSED
from serving import settling
from serving.batcher import Batcher
from serving.bundle import Item
from serving.errors import BadRequest
from serving.tickets import Overloaded, Ticket
from serving.tuning import Setting

REQUESTS = ((("good",),), (("bad bad good",),), (("a fine day",),))
QUICK = Plan(bound_ms=200.0, percent=50, start_rps=50.0, steps=2, seconds=0.4, warm_s=0.1)


def test_an_answer_a_failure_and_a_refusal_end_a_request() -> None:
    tickets: list[Ticket[str]] = []
    clock = iter(range(100, 200))

    def submit(items: Sequence[Item], *, done: Callable[[Ticket[Any]], None]) -> None:
        if len(tickets) == 3:
            raise Overloaded("the server is full", retry_after_s=1)
        tickets.append(Ticket(items, done=done, expires_s=1.0))

    wire = EngineWire(submit, REQUESTS, clock=lambda: next(clock))
    for number in range(4):
        wire.send(number)
    tickets[1].error = BadRequest("item 0 has no token")
    tickets[2].error = Overloaded("it waited too long", retry_after_s=1)
    tickets[0].result = "an answer"
    for number in (1, 2, 0):
        tickets[number].done(tickets[number])
    assert wire.poll() == [Event(3, REFUSED, 100), Event(1, 500, 101), Event(2, REFUSED, 102), Event(0, 200, 103)]
    assert wire.poll() == []


def test_resting_ends_before_the_next_request_is_due_and_lets_others_run() -> None:
    wire = EngineWire(lambda _, done: None, REQUESTS, clock=time.perf_counter_ns)
    beside = threading.Event()
    thread = threading.Thread(target=beside.set)
    thread.start()
    while not beside.is_set():
        wire.rest(0)
    thread.join()
    wire.rest(-5)
    wire.rest(10**15)  # no longer than a millisecond at a time


def test_requests_are_taken_in_turn_and_all_are_answered() -> None:
    seen: list[Sequence[Item]] = []

    def compute(lane: str, jobs: Sequence[Sequence[Item]]) -> list[str]:
        seen.extend(jobs)
        return ["an answer"] * len(jobs)

    batcher: Batcher[str] = Batcher(compute, executors=1, limit=1000)  # type: ignore[arg-type]  # of texts alone
    trace = offer(batcher.submit, REQUESTS, rps=200, seconds=0.4, warm_s=0.1, seed=4)
    batcher.close()
    assert [tuple(items) for items in seen[:4]] == [*REQUESTS, REQUESTS[0]]
    rate = trace.rate()
    assert rate.answered == rate.sent > 20
    assert len(seen) == len(trace.due_ns) > rate.sent
    assert all(sent >= due for sent, due in zip(trace.sent_ns, trace.due_ns, strict=True))


def test_a_queue_that_is_full_refuses_and_the_load_goes_on() -> None:
    def slow(lane: str, jobs: Sequence[Sequence[Item]]) -> list[str]:
        time.sleep(0.05 * len(jobs))
        return ["an answer"] * len(jobs)

    batcher: Batcher[str] = Batcher(slow, executors=1, limit=2)  # type: ignore[arg-type]  # of texts alone
    rate = offer(batcher.submit, REQUESTS, rps=200, seconds=0.5, warm_s=0.0).rate()
    batcher.close()
    assert rate.refused > rate.answered > 0
    assert rate.p50_ms is None


def job(path: Path, **changes: object) -> EngineJob:
    asked = {"variant": "tiny", "path": str(path), "requests": REQUESTS, "plan": QUICK, "setting": Setting()}
    return EngineJob(**{**asked, **changes})  # type: ignore[arg-type]


def test_a_job_searches_and_tells_how_far_it_is(tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    told: list[tuple[int, int]] = []
    two = Setting(sessions=2, executors=2)
    found = engine.run(job(tmp_path, setting=two), tell=lambda *counts: told.append(counts))
    assert (found.scenario, found.bound_ms, found.percent) == ("engine", 200.0, 50)
    assert found.points[0].offered_rps == 50
    assert found.points[0].answered == found.points[0].sent > 0
    assert told[:2] == [(1, 2), (2, 2)]


def test_the_process_settles_down_after_the_model_is_loaded_and_before_the_first_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_bundle(tmp_path)
    seen: list[str] = []

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def note(*arguments: Any, **named: Any) -> Any:
            seen.append(name)
            return call(*arguments, **named)

        return note

    monkeypatch.setattr(engine, "load", noted("loaded", engine.load))
    monkeypatch.setattr(engine, "offer", noted("offered", engine.offer))
    engine.run(job(tmp_path), tell=lambda *_: None, settle=lambda: seen.append("settled"))
    assert seen[:3] == ["loaded", "settled", "offered"]


def test_a_process_of_its_own_settles_down_as_the_server_does(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(engine, "child_main", lambda _, __, measure: given.update(measure.keywords) or 0)
    assert engine.main([]) == 0
    assert given == {"settle": settling.settle_down}


def test_a_plan_that_cannot_be_carried_out_is_refused_before_the_model_is_read(tmp_path: Path) -> None:
    slow = Plan(bound_ms=20.0, start_rps=1.0)
    with pytest.raises(BadRequest, match=r"^p99 at 1 requests/s takes 1126 s to measure"):
        engine.run(job(tmp_path / "nothing here", plan=slow))
