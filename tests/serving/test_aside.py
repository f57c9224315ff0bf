"""Jobs that nobody waits for, in the queue; test_batcher.py has those that somebody does."""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from fakes import Clock

from serving.batcher import PLAIN
from serving.queueing import ASIDE, Queue
from serving.tickets import Overloaded, Ticket

WAIT_S = 10


class World:
    """A queue and its jobs by name."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.queue: Queue[str] = Queue(limit=100, costs=PLAIN, clock=self.clock, max_wait_s=60.0)
        self.clock.advance(1.0)  # nothing has come or gone for a while

    def job(self, name: str) -> Ticket[str]:
        return Ticket([(name,)], done=lambda _: None, expires_s=math.inf)

    def aside(self, name: str) -> str | None:
        """What is dropped for it."""
        dropped = self.queue.put_aside(self.job(name))
        return None if dropped is None else str(dropped.items[0][0])

    def take(self, *, takes_s: float = 0.0) -> list[str]:
        """What an executor gets, and is done with after so long; fails where it would wait."""
        got: list[list[Ticket[str]]] = []

        def take() -> None:
            got.append(self.queue.take())
            self.clock.advance(takes_s)
            self.queue.finished()

        executor = threading.Thread(target=take, daemon=True)
        executor.start()
        executor.join(WAIT_S)
        assert got, "it waits"
        self.taken = got[0]
        return [str(ticket.items[0][0]) for ticket in got[0]]

    def waiting(self, *, executors: int) -> list[threading.Thread]:
        """Executors that have nothing to do."""
        self.got: list[str] = []
        threads = [threading.Thread(target=self._take_one, daemon=True) for _ in range(executors)]
        for thread in threads:
            thread.start()
        self.until(lambda: self.queue._idle == executors)
        return threads

    def _take_one(self) -> None:
        self.got += [str(ticket.items[0][0]) for ticket in self.queue.take()]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """An executor that is at somebody's job meanwhile."""
        done = threading.Event()

        def work() -> None:
            self.queue.take()
            done.wait(WAIT_S)
            self.queue.finished()

        self.queue.put(self.job("somebody's"))
        executor = threading.Thread(target=work, daemon=True)
        executor.start()
        self.until(lambda: len(self.queue._calls) == 1)
        yield
        done.set()
        executor.join(WAIT_S)

    def until(self, condition: Callable[[], bool]) -> None:
        pause = threading.Event()
        for _ in range(WAIT_S * 100):
            if condition():
                return
            pause.wait(0.01)
        raise AssertionError("it did not happen")


@pytest.fixture
def world() -> World:
    return World()


def test_what_nobody_waits_for_comes_last(world: World) -> None:
    assert world.aside("shadow") is None
    world.queue.put(world.job("somebody's"))
    assert world.take() == ["somebody's"]
    world.clock.advance(1.0)
    assert world.take() == ["shadow"]


def test_it_is_not_begun_until_it_has_been_quiet_for_a_call_s_time(world: World) -> None:
    world.queue.put(world.job("somebody's"))
    world.take()
    world.waiting(executors=1)
    world.aside("shadow")
    assert not threading.Event().wait(0.1)
    assert world.got == []
    world.clock.advance(1.0)
    world.until(lambda: world.got == ["shadow"])


def test_an_executor_that_waits_is_woken_for_it(world: World) -> None:
    (executor,) = world.waiting(executors=1)
    world.aside("shadow")
    executor.join(WAIT_S)
    assert world.got == ["shadow"]


def test_it_is_not_begun_while_no_more_executors_are_idle_than_busy(world: World) -> None:
    with world.at_work():
        world.waiting(executors=1)
        world.aside("shadow")
        world.clock.advance(1.0)
        assert not threading.Event().wait(0.1)
        assert world.got == []
        world.queue.close()


def test_it_is_begun_where_others_are_idle(world: World) -> None:
    with world.at_work():
        world.waiting(executors=3)
        world.aside("shadow")
        world.clock.advance(1.0)
        world.until(lambda: world.got == ["shadow"])
        world.queue.close()


def test_so_many_and_no_more_are_kept(world: World) -> None:
    dropped = [world.aside(f"shadow {number}") for number in range(ASIDE + 2)]
    assert dropped == [None] * ASIDE + ["shadow 0", "shadow 1"], "the oldest"
    assert world.queue.clear_aside() == ASIDE


def test_it_takes_no_place_and_makes_nobody_wait_longer(world: World) -> None:
    for _ in range(ASIDE):
        world.aside("shadow")
    assert (len(world.queue), world.queue.saturation) == (0, 0.0)


def test_it_does_not_make_an_idle_server_look_stalled(world: World) -> None:
    world.clock.advance(3600.0)
    world.aside("shadow")
    world.take()
    world.clock.advance(0.5)
    assert not world.queue.stalled()


def test_a_queue_that_closes_forgets_it(world: World) -> None:
    world.aside("shadow")
    world.queue.put(world.job("somebody's"))
    world.queue.close()
    assert (world.take(), world.take(), world.aside("shadow")) == (["somebody's"], [], "shadow")
    with pytest.raises(Overloaded):
        world.queue.put(world.job("late"))


def test_how_long_it_takes_says_nothing_of_what_somebody_waits_for(world: World) -> None:
    for _ in range(20):  # by a shadow that is three times as slow as the model whose costs are known
        world.aside("shadow")
        world.clock.advance(1.0)
        cost_s = world.queue._aside[0].cost_s
        world.take(takes_s=3 * cost_s)
    assert world.queue.door.pace.slowness == 1.0
    assert world.queue._aside_pace.slowness == pytest.approx(3.0, rel=0.2)


def test_one_that_hangs_is_no_stall_until_somebody_waits_for_its_executor(world: World) -> None:
    world.aside("shadow")
    executor = threading.Thread(target=world.queue.take, daemon=True)  # and never says that it is finished
    executor.start()
    executor.join(WAIT_S)
    world.clock.advance(1000.0)
    assert not world.queue.stalled()
    world.queue.put(world.job("somebody's"))
    world.clock.advance(9.9)
    assert not world.queue.stalled()
    world.clock.advance(0.2)
    assert world.queue.stalled()
