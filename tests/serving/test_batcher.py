import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future

import pytest
from fakes import Clock

from serving.batcher import Batcher, Expired, Overloaded
from serving.bundle import Item
from serving.errors import BadRequest

WAIT_S = 10


class Gate:
    """A model that answers when told to, and notes what it was asked; the text "break" makes it raise."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.asked: list[str] = []

    def __call__(self, items: Sequence[Item]) -> str:
        self.asked.append(items[0][0])
        self.entered.release()
        assert self.open.wait(WAIT_S)
        if items[0][0] == "refuse":
            raise BadRequest("no such text")
        if items[0][0] == "break":
            raise ZeroDivisionError("a bug")
        return items[0][0].upper()

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

    def make(*, executors: int = 1, limit: int = 2) -> Batcher[str]:
        made.append(Batcher(gate, executors=executors, limit=limit, clock=clock))
        return made[-1]

    yield make
    gate.open.set()
    for batcher in made:
        batcher.close(timeout_s=WAIT_S)


def occupy(batcher: Batcher[str], gate: Gate) -> "Future[object]":
    """Give the only executor something to do."""
    future = batcher.submit([("first",)])
    gate.wait_until_busy()
    return future


def test_a_job_is_answered_with_the_time_it_waited(make: Make, gate: Gate, clock: Clock) -> None:
    batcher = make()
    occupy(batcher, gate)
    second = batcher.submit([("second",)])
    clock.advance(0.25)
    gate.open.set()
    done = second.result(WAIT_S)
    assert (done.result, done.queue_ms) == ("SECOND", 250.0)


def test_no_job_waits_while_an_executor_is_idle(make: Make, gate: Gate) -> None:
    batcher = make(executors=2, limit=1)
    for text in ("a", "b"):
        batcher.submit([(text,)])
        gate.wait_until_busy()
    assert batcher.waiting == 0


def test_a_full_queue_refuses_and_says_when_to_come_back(make: Make, gate: Gate) -> None:
    batcher = make(limit=2)
    occupy(batcher, gate)
    batcher.submit([("a",)] * 399)
    batcher.submit([("b",)])
    with pytest.raises(Overloaded) as refused:
        batcher.submit([("c",)])
    # 401 items are ahead, at first taken to need 10 ms each.
    assert str(refused.value) == "the server is full: 2 requests wait; retry after 5 s"
    assert refused.value.retry_after_s == 5


def test_retry_after_learns_how_long_items_take(make: Make, gate: Gate, clock: Clock) -> None:
    batcher = make(limit=1)
    slow = occupy(batcher, gate)
    clock.advance(100.0)
    gate.open.set()
    slow.result(WAIT_S)
    gate.open.clear()
    gate.entered = threading.Semaphore(0)
    occupy(batcher, gate)
    batcher.submit([("a",)])
    with pytest.raises(Overloaded) as refused:
        batcher.submit([("b",)])
    assert refused.value.retry_after_s == 21  # two items at 0.9 * 10 ms + 0.1 * 100 s


def test_a_job_whose_time_is_up_is_dropped_unread(make: Make, gate: Gate, clock: Clock) -> None:
    batcher = make()
    occupy(batcher, gate)
    late = batcher.submit([("late",)], expires_s=clock() + 1.0)
    in_time = batcher.submit([("in time",)], expires_s=clock() + 1.1)
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
    left = batcher.submit([("left",)])
    stays = batcher.submit([("stays",)])
    assert left.cancel()
    gate.open.set()
    assert stays.result(WAIT_S).result == "STAYS"
    with pytest.raises(CancelledError):
        left.result(WAIT_S)
    assert gate.asked == ["first", "stays"]


def test_a_cancelled_job_gives_its_place_to_the_next(make: Make, gate: Gate) -> None:
    batcher = make(limit=1)
    occupy(batcher, gate)
    assert batcher.submit([("left",)]).cancel()
    assert batcher.submit([("next",)]) is not None
    assert batcher.waiting == 1


@pytest.mark.parametrize(("text", "error"), [("refuse", BadRequest), ("break", ZeroDivisionError)])
def test_a_job_that_raises_fails_alone_and_its_thread_goes_on(
    make: Make, gate: Gate, text: str, error: type[Exception]
) -> None:
    batcher = make()
    gate.open.set()
    with pytest.raises(error):
        batcher.submit([(text,)]).result(WAIT_S)
    assert batcher.submit([("next",)]).result(WAIT_S).result == "NEXT"


def test_a_probe_is_let_into_a_full_queue_and_goes_first(make: Make, gate: Gate) -> None:
    batcher = make(limit=1)
    occupy(batcher, gate)
    waiting = batcher.submit([("waiting",)])
    probe = batcher.probe([("probe",)])
    gate.open.set()
    assert (probe.result(WAIT_S).result, waiting.result(WAIT_S).result) == ("PROBE", "WAITING")
    assert gate.asked == ["first", "probe", "waiting"]


def test_closing_finishes_the_queue_and_refuses_what_comes_later(make: Make, gate: Gate) -> None:
    batcher = make()
    occupy(batcher, gate)
    queued = batcher.submit([("queued",)])
    gate.open.set()
    batcher.close(timeout_s=WAIT_S)
    assert queued.result(0).result == "QUEUED"
    for ask in (batcher.submit, batcher.probe):
        with pytest.raises(Overloaded) as refused:
            ask([("late",)])
        assert str(refused.value) == "the server is shutting down; retry after 1 s"


def test_every_job_of_many_clients_is_answered_once(make: Make, gate: Gate) -> None:
    batcher = make(executors=3, limit=10_000)
    gate.open.set()
    futures: list[tuple[str, Future[object]]] = []

    def ask(client: int) -> None:
        futures.extend((f"{client}-{n}", batcher.submit([(f"{client}-{n}",)])) for n in range(50))

    clients = [threading.Thread(target=ask, args=(client,)) for client in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(WAIT_S)
    assert [future.result(WAIT_S).result for _, future in futures] == [text for text, _ in futures]
    assert sorted(gate.asked) == sorted(text for text, _ in futures)
