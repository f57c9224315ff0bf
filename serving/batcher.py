"""Executor threads that take batches from the queue and answer them, and what keeps them at it.

No job waits while an executor is idle. A job that raises fails alone: a call that fails is made again for each of its
jobs. An executor that is lost is replaced, and a queue in which nothing moves is told of.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from serving.costs import Costs
from serving.cpu import stand_back
from serving.engine import Given
from serving.queueing import Queue
from serving.tickets import ExecutorLost, Ticket

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
PLAIN = Costs(call_s=0.0, token_s=1e-4)  # of a model that was not timed: a millisecond for ten tokens
_log = logging.getLogger(__name__)


class Compute(Protocol[R_co]):
    """Answers the jobs of one lane, all by one model: a result or an exception for each, in order."""

    def __call__(self, lane: str, jobs: Sequence[Sequence[Given]], /) -> "Sequence[R_co | Exception]": ...


class Batcher(Generic[R]):
    """Runs `compute` for the jobs of a queue that holds `limit`."""

    def __init__(
        self,
        compute: Compute[R],
        *,
        executors: int,
        limit: int,
        costs: Costs = PLAIN,
        max_wait_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.queue: Queue[R] = Queue(limit=limit, costs=costs, clock=clock, max_wait_s=max_wait_s)
        self.clock = clock
        self._compute = compute
        self._started = 0
        self._threads: set[threading.Thread] = set()
        for _ in range(executors):
            self._start()

    @property
    def waiting(self) -> int:
        """Jobs no executor has taken yet."""
        return len(self.queue)

    def submit(
        self,
        items: Sequence[Given],
        *,
        done: Callable[[Ticket[R]], None],
        expires_s: float = math.inf,
        lane: str = "",
        note: Any = None,
        goes_on: bool = False,
    ) -> Ticket[R]:
        """Queue a job that is worthless after `expires_s` on this batcher's clock; `goes_on`: as a further part of one.

        Raises:
            Expired: its time is up already.
            Overloaded: no room, or it would wait too long, or longer than its client does.
        """
        ticket: Ticket[R] = Ticket(items, done=done, expires_s=expires_s, lane=lane, note=note)
        self.queue.put(ticket, goes_on=goes_on)
        return ticket

    def probe(
        self, items: Sequence[Given], *, done: Callable[[Ticket[R]], None], lane: str = "", note: Any = None
    ) -> Ticket[R]:
        """Ask the executors for a sign of life: goes first, and is let in when the queue is full."""
        ticket: Ticket[R] = Ticket(items, done=done, expires_s=math.inf, lane=lane, note=note)
        self.queue.put_first(ticket)
        return ticket

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Refuse new jobs, finish those in the queue, and end the threads; one that hangs is left behind."""
        self.queue.close()
        end = time.monotonic() + timeout_s
        for thread in list(self._threads):
            thread.join(max(0.0, end - time.monotonic()))

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name=f"executor-{self._started}", daemon=True)
        self._started += 1
        thread.start()
        self._threads.add(thread)

    def _work(self) -> None:
        stand_back()
        try:
            while batch := self.queue.take():
                self._answer(batch)
                self.queue.on_told()
                self.queue.finished()
        except BaseException as lost:  # noqa: BLE001 - whatever ends a thread, another one takes its place
            self._replace(lost)

    def _answer(self, batch: Sequence[Ticket[R]]) -> None:
        jobs = [ticket.items for ticket in batch]
        try:
            outcomes: Sequence[R | Exception] = self._compute(batch[0].lane, jobs)
        except Exception as error:  # noqa: BLE001 - a bug of the model's must not end the thread that serves the others
            outcomes = [error] if len(batch) == 1 else [self._alone(ticket) for ticket in batch]
        for ticket, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Exception):
                ticket.error = outcome
            else:
                ticket.result = outcome
            ticket.tell()

    def _alone(self, ticket: Ticket[R]) -> R | Exception:
        if ticket.is_over:
            return ExecutorLost("nobody waits for this any more")
        try:
            (outcome,) = self._compute(ticket.lane, [ticket.items])
        except Exception as error:  # noqa: BLE001 - the culprit's own
            return error
        return outcome

    def _replace(self, lost: BaseException) -> None:
        """Tell those that this thread was at, and start another."""
        _log.error("%s was lost (%r); another takes its place", threading.current_thread().name, lost)
        call = self.queue.finished()
        self._threads.discard(threading.current_thread())
        self._start()  # first: whatever becomes of the telling
        for ticket in call.batch if call is not None else ():
            if ticket.result is None and ticket.error is None:
                ticket.error = ExecutorLost("what computed this request was lost; send it again")
            ticket.tell()
        self.queue.on_told()
