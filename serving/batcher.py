"""A bounded queue in front of executor threads that share one model.

No job waits while an executor is idle. A full queue refuses at once and says when to come back; a job whose client
has left or whose time is up is dropped when it is taken from the queue; a job that raises fails alone.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from serving.bundle import Item
from serving.errors import Failure, Transient

R = TypeVar("R")
_FIRST_GUESS_ITEM_S = 0.01
_SMOOTHING = 0.1


class Overloaded(Transient):
    """No room in the queue; `retry_after_s` is when the work ahead should be done."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Expired(Transient):
    """The client's time was up before the work began."""


@dataclass(frozen=True)
class Done(Generic[R]):
    """What the model returned, and how long the job waited for an executor."""

    result: R
    queue_ms: float


@dataclass(frozen=True, eq=False)
class _Job(Generic[R]):
    items: Sequence[Item]
    expires_s: float
    admitted_s: float
    future: Future[Done[R]]


class Batcher(Generic[R]):
    """Runs `compute` for each job; a cancelled future is work nobody waits for."""

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], R],
        *,
        executors: int,
        limit: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        self.clock = clock
        self._compute = compute
        self._jobs: deque[_Job[R]] = deque()
        self._changed = threading.Condition()
        self._idle = 0
        self._running_items = 0
        self._item_s = _FIRST_GUESS_ITEM_S
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"executor-{n}", daemon=True) for n in range(executors)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Jobs no executor has taken yet."""
        return len(self._jobs)

    def submit(self, items: Sequence[Item], *, expires_s: float = math.inf) -> Future[Done[R]]:
        """Queue a job that is worthless after `expires_s` on this batcher's clock.

        Raises:
            Overloaded: the queue is full or closed.
        """
        job = self._job(items, expires_s=expires_s)
        with self._changed:
            if self._is_full():
                self._jobs = deque(waiting for waiting in self._jobs if not waiting.future.cancelled())
            if self._closed or self._is_full():
                raise self._overloaded()
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def probe(self, items: Sequence[Item]) -> Future[Done[R]]:
        """Ask the executors for a sign of life: goes first, and is let in when the queue is full."""
        job = self._job(items, expires_s=math.inf)
        with self._changed:
            if self._closed:
                raise self._overloaded()
            self._jobs.appendleft(job)
            self._changed.notify()
        return job.future

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Refuse new jobs, finish those in the queue, and end the threads; one that hangs is left behind."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout_s)

    def _job(self, items: Sequence[Item], *, expires_s: float) -> _Job[R]:
        return _Job(items=items, expires_s=expires_s, admitted_s=self.clock(), future=Future())

    def _is_full(self) -> bool:
        """An executor that is idle will take a job at once, so its share does not count as waiting."""
        return len(self._jobs) - self._idle >= self.limit

    def _overloaded(self) -> Overloaded:
        ahead_items = self._running_items + sum(len(job.items) for job in self._jobs)
        retry_after_s = max(1, math.ceil(ahead_items * self._item_s / len(self._threads)))
        state = "shutting down" if self._closed else f"full: {len(self._jobs)} requests wait"
        return Overloaded(f"the server is {state}; retry after {retry_after_s} s", retry_after_s=retry_after_s)

    def _work(self) -> None:
        while (job := self._take()) is not None:
            started_s = self.clock()
            computed = self._run(job, started_s=started_s)
            self._put_back(job, computed_s=self.clock() - started_s if computed else None)

    def _take(self) -> _Job[R] | None:
        with self._changed:
            self._idle += 1
            while not self._jobs and not self._closed:
                self._changed.wait()
            self._idle -= 1
            if not self._jobs:
                return None
            job = self._jobs.popleft()
            self._running_items += len(job.items)
            return job

    def _put_back(self, job: _Job[R], *, computed_s: float | None) -> None:
        with self._changed:
            self._running_items -= len(job.items)
            if computed_s is not None:
                self._item_s += _SMOOTHING * (computed_s / len(job.items) - self._item_s)

    def _run(self, job: _Job[R], *, started_s: float) -> bool:
        """Answer one job; False where there was nothing to compute."""
        if not job.future.set_running_or_notify_cancel():
            return False
        if started_s >= job.expires_s:
            job.future.set_exception(Expired("the request's time was up before its work began; allow more or retry"))
            return False
        try:
            result = self._compute(job.items)
        except Failure as failure:
            job.future.set_exception(failure)
        except Exception as bug:  # noqa: BLE001 - one request's bug must not end the thread that serves the others
            job.future.set_exception(bug)
        else:
            job.future.set_result(Done(result=result, queue_ms=(started_s - job.admitted_s) * 1e3))
        return True
