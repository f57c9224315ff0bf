import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import pytest
from fakes import Clock
from queued import asked, probed

from serving.batcher import Batcher
from serving.costs import Costs
from serving.engine import Given
from serving.errors import BadRequest
from serving.tickets import ExecutorLost, Expired, Overloaded

WAIT_S = 10


class Gate:
    """A model that answers when told to, and notes what it was asked; the text "break" makes it raise."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.asked: list[str] = []
        self.lanes: list[str] = []

    def __call__(self, lane: str, jobs: Sequence[Sequence[Given]]) -> list[str | Exception]:
        self.asked.append("+".join(str(items[0][0]) for items in jobs))
        self.lanes.append(lane)
        self.entered.release()
        assert self.open.wait(WAIT_S)
        if len(jobs) > 1 and any(items[0][0] == "break" for items in jobs):
            raise ZeroDivisionError("a bug that takes all of them")
        return [self._answer(str(items[0][0])) for items in jobs]

    def _answer(self, text: str) -> str | Exception:
        if text == "refuse":
            return BadRequest("no such text")
        if text == "break":
            raise ZeroDivisionError("a bug")
        return text.upper()

    def wait_until_busy(self) -> None:
        assert self.entered.acquire(timeout=WAIT_S)


Make = Callable[..., Batcher[str]]


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(gate: Gate, clock: Clock) -> Iterator[Make]:
    made: list[Batcher[str]] = []

    def make(*, executors: int = 1, limit: int = 2, max_wait_s: float = 1e6, **how: Any) -> Batcher[str]:
        made.append(Batcher(gate, executors=executors, limit=limit, max_wait_s=max_wait_s, clock=clock, **how))
        return made[-1]

    yield make
    gate.open.set()
    for batcher in made:
        batcher.close(timeout_s=WAIT_S)


def occupy(batcher: Batcher[str], gate: Gate) -> "Future[Any]":
    """Give the only executor something to do."""
    future = asked(batcher, [("first",)])
    gate.wait_until_busy()
    return future


def test_a_job_is_answered_with_the_time_it_waited(make: Make, gate: Gate, clock: Clock) -> None:
    batcher = make()
    occupy(batcher, gate)
    second = asked(batcher, [("second",)])
    clock.advance(0.25)
    gate.open.set()
    done = second.result(WAIT_S)
    assert (done.result, done.queue_ms) == ("SECOND", 250.0)


def test_no_job_waits_while_an_executor_is_idle(make: Make, gate: Gate) -> None:
    batcher = make(executors=2, limit=1)
    for text in ("a", "b"):
        asked(batcher, [(text,)])
        gate.wait_until_busy()
    assert batcher.waiting == 0


CALL = Costs(call_s=0.01, token_s=0.0)
CHEAPER_TOGETHER = Costs(call_s=0.01, token_s=1e-4, most=4)


def test_a_full_queue_refuses_and_says_when_to_come_back(make: Make, gate: Gate) -> None:
    batcher = make(limit=2, costs=CALL)
    occupy(batcher, gate)
    asked(batcher, [("a",)] * 399)
    asked(batcher, [("b",)])
    with pytest.raises(Overloaded) as refused:
        asked(batcher, [("c",)])
    assert str(refused.value) == "the server is full: 2 requests wait, 4010 ms; retry after 5 s"
    assert refused.value.retry_after_s == 5


def test_a_job_that_would_wait_too_long_is_refused_although_there_is_room(make: Make, gate: Gate) -> None:
    batcher = make(limit=100, costs=CALL, max_wait_s=0.055)
    occupy(batcher, gate)
    for _ in range(5):
        asked(batcher, [("a",)])
    with pytest.raises(Overloaded, match="the server is full: 5 requests wait, 60 ms; retry after 1 s"):
        asked(batcher, [("b",)])
    with pytest.raises(Overloaded):
        batcher.queue.require_room()


def test_a_job_whose_client_has_not_the_time_to_wait_is_refused_at_once(make: Make, gate: Gate, clock: Clock) -> None:
    batcher = make(limit=100, costs=CALL)
    occupy(batcher, gate)
    asked(batcher, [("in time",)], expires_s=clock() + 0.021)
    with pytest.raises(Overloaded, match="this request would wait 20 ms, more than it has time for; retry after 1 s"):
        asked(batcher, [("late",)], expires_s=clock() + 0.029)
    with pytest.raises(Expired):
        asked(batcher, [("over",)], expires_s=clock())


def test_what_a_call_has_done_already_is_not_waited_for(make: Make, gate: Gate, clock: Clock) -> None:
    batcher = make(costs=CALL)
    occupy(batcher, gate)
    clock.advance(0.004)
    assert batcher.queue.predicted_wait_s == pytest.approx(0.006)
    clock.advance(0.1)
    assert batcher.queue.predicted_wait_s == 0.0


def test_with_several_executors_the_first_one_that_is_free_counts(make: Make, gate: Gate, clock: Clock) -> None:
    batcher = make(executors=2, limit=9, costs=CALL)
    occupy(batcher, gate)
    clock.advance(0.008)
    occupy(batcher, gate)
    assert batcher.queue.predicted_wait_s == pytest.approx(0.002)
    asked(batcher, [("a",)])
    assert batcher.queue.predicted_wait_s == pytest.approx(0.002 + 0.01 / 2)


def answered(batcher: Batcher[str], gate: Gate, clock: Clock, *, took_s: float) -> None:
    """One call that takes so long."""
    gate.entered = threading.Semaphore(0)
    gate.open.clear()
    future = occupy(batcher, gate)
    clock.advance(took_s)
    gate.open.set()
    future.result(WAIT_S)
    while len(batcher.queue._calls):
        pass


def test_the_queue_learns_how_long_calls_really_take(make: Make, gate: Gate, clock: Clock) -> None:
    batcher = make(costs=CALL)
    for _ in range(60):
        answered(batcher, gate, clock, took_s=0.03)
    assert batcher.queue.door.pace.slowness == pytest.approx(3.0, rel=0.02)


def test_one_absurd_call_does_not_shut_the_door(make: Make, gate: Gate, clock: Clock) -> None:
    """A process that was stopped, or a page that was fetched."""
    batcher = make(costs=CALL)
    answered(batcher, gate, clock, took_s=60.0)
    assert batcher.queue.door.pace.slowness < 4.0
    for _ in range(60):
        answered(batcher, gate, clock, took_s=0.01)
    assert batcher.queue.door.pace.slowness == pytest.approx(1.0, rel=0.02)


def test_whoever_comes_where_somebody_is_free_is_begun_whatever_was_learned(
    make: Make, gate: Gate, clock: Clock
) -> None:
    """Refused, nothing would ever be learned again."""
    batcher = make(executors=2, limit=2, costs=Costs(call_s=10.0, token_s=0.0), max_wait_s=0.001)
    occupy(batcher, gate)
    assert asked(batcher, [("second",)], expires_s=clock() + 0.01) is not None


def test_jobs_are_left_to_executors_that_are_idle(make: Make, gate: Gate) -> None:
    batcher = make(executors=3, limit=9, costs=CHEAPER_TOGETHER)
    with batcher.queue._changed:  # all come before anybody is awake
        for text in ("a", "b", "c"):
            asked(batcher, [(text,)])
    for _ in range(3):
        gate.wait_until_busy()
    assert sorted(gate.asked) == ["a", "b", "c"]


def test_a_job_whose_time_is_up_is_dropped_unread(make: Make, gate: Gate, clock: Clock) -> None:
    batcher = make()
    occupy(batcher, gate)
    late = asked(batcher, [("late",)], expires_s=clock() + 1.0)
    in_time = asked(batcher, [("in time",)], expires_s=clock() + 1.1)
    clock.advance(1.0)
    gate.open.set()
    with pytest.raises(Expired) as expired:
        late.result(WAIT_S)
    assert str(expired.value) == "the request's time was up before its work began; allow more or retry"
    assert in_time.result(WAIT_S).result == "IN TIME"
    assert gate.asked == ["first", "in time"]


def test_work_nobody_waits_for_is_not_done(make: Make, gate: Gate) -> None:
    batcher = make()
    occupy(batcher, gate)
    left = asked(batcher, [("left",)])
    stays = asked(batcher, [("stays",)])
    left.ticket.cancel()  # type: ignore[attr-defined]
    gate.open.set()
    assert stays.result(WAIT_S).result == "STAYS"
    assert not left.done()
    assert gate.asked == ["first", "stays"]


def test_a_cancelled_job_gives_its_place_to_the_next(make: Make, gate: Gate) -> None:
    batcher = make(limit=1)
    occupy(batcher, gate)
    asked(batcher, [("left",)]).ticket.cancel()  # type: ignore[attr-defined]
    assert asked(batcher, [("next",)]) is not None
    assert batcher.waiting == 1


@pytest.mark.parametrize(("text", "error"), [("refuse", BadRequest), ("break", ZeroDivisionError)])
def test_a_job_that_raises_fails_alone_and_its_thread_goes_on(
    make: Make, gate: Gate, text: str, error: type[Exception]
) -> None:
    batcher = make()
    gate.open.set()
    with pytest.raises(error):
        asked(batcher, [(text,)]).result(WAIT_S)
    assert asked(batcher, [("next",)]).result(WAIT_S).result == "NEXT"


def test_a_probe_is_let_into_a_full_queue_and_goes_first(make: Make, gate: Gate) -> None:
    batcher = make(limit=1)
    occupy(batcher, gate)
    waiting = asked(batcher, [("waiting",)])
    probe = probed(batcher, [("probe",)])
    gate.open.set()
    assert (probe.result(WAIT_S).result, waiting.result(WAIT_S).result) == ("PROBE", "WAITING")
    assert gate.asked == ["first", "probe", "waiting"]


def test_closing_finishes_the_queue_and_refuses_what_comes_later(make: Make, gate: Gate) -> None:
    batcher = make()
    occupy(batcher, gate)
    queued = asked(batcher, [("queued",)])
    gate.open.set()
    batcher.close(timeout_s=WAIT_S)
    assert queued.result(0).result == "QUEUED"
    for ask in (asked, probed):
        with pytest.raises(Overloaded) as refused:
            ask(batcher, [("late",)])
        assert str(refused.value) == "the server is stopping; retry after 1 s"


def test_every_job_of_many_clients_is_answered_once(make: Make, gate: Gate) -> None:
    batcher = make(executors=3, limit=10_000)
    gate.open.set()
    futures: list[tuple[str, Future[Any]]] = []

    def ask(client: int) -> None:
        futures.extend((f"{client}-{n}", asked(batcher, [(f"{client}-{n}",)])) for n in range(50))

    clients = [threading.Thread(target=ask, args=(client,)) for client in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(WAIT_S)
    assert [future.result(WAIT_S).result for _, future in futures] == [text for text, _ in futures]
    assert sorted(gate.asked) == sorted(text for text, _ in futures)


def test_jobs_that_wait_are_computed_in_one_call_where_that_pays(make: Make, gate: Gate) -> None:
    batcher = make(limit=10, costs=CHEAPER_TOGETHER)
    occupy(batcher, gate)
    futures = [asked(batcher, [(text,)]) for text in ("a", "b", "c", "d", "e")]
    gate.open.set()
    assert [future.result(WAIT_S).result for future in futures] == ["A", "B", "C", "D", "E"]
    assert gate.asked == ["first", "a+b+c+d", "e"]


def test_a_call_never_holds_two_lanes(make: Make, gate: Gate) -> None:
    batcher = make(limit=10, costs=CHEAPER_TOGETHER)
    occupy(batcher, gate)
    lanes = ("", "canary", "", "canary")
    futures = [asked(batcher, [(text,)], lane=lane) for text, lane in zip("abcd", lanes, strict=True)]
    gate.open.set()
    assert [future.result(WAIT_S).result for future in futures] == ["A", "B", "C", "D"]
    assert (gate.asked, gate.lanes) == (["first", "a+c", "b+d"], ["", "", "canary"])


def test_of_a_call_that_fails_only_the_culprit_does(make: Make, gate: Gate) -> None:
    batcher = make(limit=10, costs=CHEAPER_TOGETHER)
    occupy(batcher, gate)
    futures = [asked(batcher, [(text,)]) for text in ("a", "break", "c", "refuse")]
    gate.open.set()
    assert (futures[0].result(WAIT_S).result, futures[2].result(WAIT_S).result) == ("A", "C")
    assert isinstance(futures[1].exception(WAIT_S), ZeroDivisionError)
    assert isinstance(futures[3].exception(WAIT_S), BadRequest)


def test_an_executor_that_is_lost_is_replaced_and_says_so(
    make: Make, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    batcher = make()
    lost = occupy(batcher, gate)
    (thread,) = batcher._threads
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
    gate.open.set()
    assert isinstance(lost.exception(WAIT_S), ExecutorLost)
    assert asked(batcher, [("next",)]).result(WAIT_S).result == "NEXT"
    assert "executor-0 was lost (SystemExit()); another takes its place" in caplog.text


def test_a_call_that_does_not_end_is_told_of_although_others_do(make: Make, gate: Gate, clock: Clock) -> None:
    batcher = make(executors=2, costs=CALL)
    clock.advance(50.0)  # nothing to do is no stall
    assert not batcher.queue.stalled()
    occupy(batcher, gate)
    clock.advance(9.9)
    assert not batcher.queue.stalled()
    with batcher.queue._changed:
        batcher.queue._moved_s = clock()  # the other executor has just ended a call
    clock.advance(0.2)
    assert batcher.queue.stalled()


def test_a_long_call_that_was_predicted_to_be_is_no_stall(make: Make, gate: Gate, clock: Clock) -> None:
    batcher = make(costs=Costs(call_s=1.0, token_s=0.0))
    occupy(batcher, gate)
    clock.advance(19.0)
    assert not batcher.queue.stalled()
    clock.advance(1.1)
    assert batcher.queue.stalled()


def test_an_executor_that_is_lost_between_an_answer_and_its_telling_tells_it(
    make: Make, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    batcher = make(limit=10, costs=CHEAPER_TOGETHER)
    occupy(batcher, gate)
    futures = [asked(batcher, [(text,)]) for text in ("a", "b")]
    told = futures[0].ticket.done  # type: ignore[attr-defined]

    def killed(ticket: Any) -> None:
        futures[0].ticket.done = told  # type: ignore[attr-defined]
        raise SystemExit

    futures[0].ticket.done = killed  # type: ignore[attr-defined]
    gate.open.set()
    assert futures[0].result(WAIT_S).result == "A"
    assert isinstance(futures[1].exception(WAIT_S), ExecutorLost)
    assert "was lost (SystemExit())" in caplog.text


def test_an_answer_that_cannot_be_handed_over_costs_nobody_else_anything(
    make: Make, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    batcher = make(limit=10, costs=CHEAPER_TOGETHER)
    occupy(batcher, gate)
    futures = [asked(batcher, [(text,)]) for text in ("a", "b")]

    def fails(ticket: Any) -> None:
        raise KeyError("labels")

    futures[0].ticket.done = fails  # type: ignore[attr-defined]
    (before,) = batcher._threads
    gate.open.set()
    assert futures[1].result(WAIT_S).result == "B"
    assert asked(batcher, [("next",)]).result(WAIT_S).result == "NEXT"
    assert batcher._threads == {before}
    assert caplog.messages == ["a request's answer could not be handed over"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # that is how it ends
def test_a_thread_that_is_lost_twice_while_it_tells_is_replaced(make: Make, gate: Gate) -> None:
    batcher = make()
    lost = occupy(batcher, gate)

    def killed(ticket: Any) -> None:
        raise SystemExit

    lost.ticket.done = killed  # type: ignore[attr-defined]
    (thread,) = batcher._threads
    gate.open.set()
    assert asked(batcher, [("next",)]).result(WAIT_S).result == "NEXT"
    thread.join(WAIT_S)
