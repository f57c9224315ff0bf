"""What waits for the model: bounded in jobs and in predicted time.

The executors take batches from it: the oldest job, and those neighbours in length that the fitted cost says are cheaper
in one call with it than after it, as far as no idle executor could take them.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final, Generic, TypeVar

from serving.admission import Admission, overloaded
from serving.calls import STALLED_S, Call, Calls
from serving.costs import Costs
from serving.merging import next_call
from serving.pace import Pace
from serving.tickets import Expired, Overloaded, Ticket

R = TypeVar("R")
USUAL_TOKENS: Final = 32  # of a request, before any was seen
ASIDE: Final = 64  # jobs that nobody waits for; of more the oldest are dropped


class Queue(Generic[R]):
    """Jobs in order of arrival, of which `limit` may wait, none longer than `max_wait_s` (None: as Admission says).
    `on_told` is called, in an executor, when jobs were told how they ended: several of one call together."""

    def __init__(self, *, limit: int, costs: Costs, clock: Callable[[], float], max_wait_s: float | None) -> None:
        self.limit, self.clock, self.costs = limit, clock, costs
        self.on_told: Callable[[], None] = lambda: None
        self.door = Admission(max_wait_s=max_wait_s, job_s=costs.of(1, min(costs.max_length, USUAL_TOKENS)))
        self._jobs: deque[Ticket[R]] = deque()
        self._aside: deque[Ticket[R]] = deque()
        self._calls: Calls[R] = Calls()
        self._aside_pace = Pace(self.door.pace.job_s)  # of another model than the one whose costs are known
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._idle = 0  # executors that wait
        self._waiting_s = 0.0  # of the jobs one by one, as predicted
        self._moved_s = clock()  # when a call last began or ended, or a job came where there was none
        self._closed = False

    def use(self, costs: Costs) -> None:
        """What calls cost from now on: those of the model in service."""
        self.costs = costs

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def predicted_wait_s(self) -> float:
        """How long a job that comes now would wait."""
        if self._idle > len(self._jobs):
            return 0.0
        first_end_s = 0.0 if self._idle else self._calls.first_end_s(self.clock())
        return self.door.wait_s(
            waiting_s=self._waiting_s, executors=self._idle + len(self._calls), first_end_s=first_end_s
        )

    @property
    def saturation(self) -> float:
        """The predicted wait as a share of the longest that is allowed: what to scale on."""
        return self.predicted_wait_s / self.door.max_wait_s

    def stalled(self) -> bool:
        """Whether a call does not end, or nobody takes what waits: the process is of no use."""
        with self._lock:
            now_s = self.clock()
            untaken = bool(self._jobs) and self._calls.all_aside() and now_s - self._moved_s > STALLED_S
            return untaken or self._calls.stalled(now_s)

    # -- coming in -----------------------------------------------------------------------------------------------------

    def require_room(self) -> None:
        """Raise Overloaded where any job would be refused now: to be asked before a request is even read."""
        if self._is_full():
            with self._lock:
                self._sweep()
                if self._is_full():
                    raise self._overloaded()

    def put(self, ticket: Ticket[R], *, goes_on: bool = False) -> None:
        """Let a job in; `goes_on`: it is a part of one that was let in, and needs no room.

        Raises:
            Expired: its time is up already.
            Overloaded: no room, or it would wait too long, or longer than its client does.
        """
        self._weigh(ticket)
        with self._lock:
            ticket.admitted_s = now_s = self.clock()
            if now_s >= ticket.expires_s:
                raise Expired("the request's time was up before its work began; allow more or retry")
            if self._closed:
                raise self._overloaded()
            if not goes_on:
                self._require(ticket, now_s=now_s)
            self._append(ticket)

    def put_first(self, ticket: Ticket[R]) -> None:
        """Let in what asks for a sign of life, however full it is."""
        self._weigh(ticket)
        with self._lock:
            if self._closed:
                raise self._overloaded()
            ticket.admitted_s = self.clock()
            self._append(ticket, first=True)

    def put_aside(self, ticket: Ticket[R]) -> Ticket[R] | None:
        """Let in a job that nobody waits for: it is begun when no other waits, more executors are idle than busy, and
        nothing has begun or ended for a call's time. What is dropped for it: the oldest of too many, or itself."""
        self._weigh(ticket)
        with self._lock:
            if self._closed:
                return ticket
            ticket.admitted_s = self.clock()
            self._aside.append(ticket)
            self._changed.notify()
            return self._aside.popleft() if len(self._aside) > ASIDE else None

    def clear_aside(self) -> int:
        """Drop all that nobody waits for; how many."""
        with self._lock:
            dropped = len(self._aside)
            self._aside.clear()
            return dropped

    def close(self) -> None:
        """Let nothing in any more; what waits is still given out, but for what nobody waits for."""
        with self._lock:
            self._closed = True
            self._aside.clear()
            self._changed.notify_all()

    def _weigh(self, ticket: Ticket[R]) -> None:
        ticket.count, ticket.length = self.costs.shape_of(ticket.items)
        ticket.cost_s = self.costs.cost_of(ticket.items)

    def _append(self, ticket: Ticket[R], *, first: bool = False) -> None:
        if not self._jobs and self._calls.all_aside():
            self._moved_s = ticket.admitted_s
        (self._jobs.appendleft if first else self._jobs.append)(ticket)
        self._waiting_s += ticket.cost_s
        if self._idle:
            self._changed.notify()

    def _is_full(self) -> bool:
        return self._closed or len(self._jobs) >= self.limit or self.predicted_wait_s > self.door.max_wait_s

    def _require(self, ticket: Ticket[R], *, now_s: float) -> None:
        if self._refusal(ticket, now_s) is not None:
            self._sweep()
            if (why := self._refusal(ticket, now_s)) is not None:
                raise self._overloaded(why)
        if self.door.thins_out(self.predicted_wait_s, now_s=now_s):
            raise self._overloaded()

    def _refusal(self, ticket: Ticket[R], now_s: float) -> str | None:
        """Why there is no room for it ("" where anybody would be told the same); None where there is. Whoever comes
        where somebody is free is begun at once: how long it takes can be learned in no other way."""
        if self._idle > len(self._jobs):
            return None
        if self._is_full():
            return ""
        wait_s, left_s = self.predicted_wait_s, ticket.expires_s - now_s
        late = self.door.too_late(wait_s=wait_s, cost_s=ticket.cost_s, left_s=left_s)
        return f"this request would wait {wait_s * 1e3:.0f} ms, more than it has time for" if late else None

    def _sweep(self) -> None:
        """Work that nobody waits for takes nobody's place."""
        if any(job.is_over for job in self._jobs):
            self._keep(job for job in self._jobs if not job.is_over)

    def _keep(self, jobs: Iterable[Ticket[R]]) -> None:
        self._jobs = deque(jobs)
        self._waiting_s = sum(job.cost_s for job in self._jobs)

    def _overloaded(self, why: str = "") -> Overloaded:
        wait_s = self.predicted_wait_s
        full = f"the server is full: {len(self._jobs)} requests wait, {wait_s * 1e3:.0f} ms"
        return overloaded("the server is stopping" if self._closed else why or full, wait_s=wait_s)

    # -- going out -----------------------------------------------------------------------------------------------------

    def take(self) -> list[Ticket[R]]:
        """Wait for work; one call's jobs, which are this thread's until it says `finished`. Empty where the queue is
        closed and empty. Those whose time is up are told so."""
        while True:
            with self._lock:
                self._await_work()
                late, batch = self._batch()
                ended = self._closed and not self._jobs and not batch
            for ticket in late:
                ticket.error = Expired("the request's time was up before its work began; allow more or retry")
                ticket.tell()
            if late:
                self.on_told()
            if batch or ended:
                return batch

    def finished(self) -> Call[R] | None:
        """What this thread took is computed, or lost with it; how long it took says how fast this queue moves."""
        with self._lock:
            call = self._calls.end()
            if call is None:
                return None
            self._moved_s = now_s = self.clock()
            alone_s, jobs = sum(ticket.cost_s for ticket in call.batch), len(call.batch)
            pace = self._aside_pace if call.aside else self.door.pace
            pace.learn(took_s=now_s - call.started_s, call_s=call.cost_s, alone_s=alone_s, jobs=jobs)
            return call

    def _await_work(self) -> None:
        self._idle += 1
        try:
            while not (self._jobs or self._closed or self._may_do_aside()):
                self._changed.wait(self._quiet_s if self._aside else None)
        finally:
            self._idle -= 1

    @property
    def _quiet_s(self) -> float:
        return self.door.pace.job_s

    def _may_do_aside(self) -> bool:
        """Asked by an executor that counts as idle already."""
        quiet = self.clock() - self._moved_s >= self._quiet_s
        return bool(self._aside) and len(self._calls) < self._idle and quiet

    def _batch(self) -> tuple[list[Ticket[R]], list[Ticket[R]]]:
        """Those that are too late, and one call's jobs. They are written down as this thread's before they leave the
        queue: with a thread that is killed none is lost."""
        now_s, aside = self.clock(), not self._jobs
        source = deque(islice(self._aside, 1)) if aside else self._jobs
        slowness = (self._aside_pace if aside else self.door.pace).slowness
        found = next_call(source, spare=self._idle, costs=self.costs, slowness=slowness, now_s=now_s)
        if found.batch:
            takes_s = found.cost_s * slowness
            self._calls.begin(found.batch, cost_s=found.cost_s, takes_s=takes_s, now_s=now_s, aside=aside)
        gone = {id(job) for job in (*found.late, *found.batch)}
        if self._jobs:
            self._keep(job for job in self._jobs if id(job) not in gone and not job.is_over)
        elif self._aside:
            self._aside.popleft()
        self._moved_s = now_s
        for ticket in found.batch:
            ticket.queue_ms = (now_s - ticket.admitted_s) * 1e3
        return found.late, found.batch
