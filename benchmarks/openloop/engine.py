"""The server scenario without HTTP: the engine behind its queue, loaded in one process of its own.

    python -m benchmarks.openloop.engine JOB.json RESULT.json

The generator is a thread beside the executors, as the thread that talks HTTP is in the server. It sleeps until shortly
before a request is due: spinning would hold the interpreter's lock. The process settles down as the server does: its
rules for garbage, and how soon a thread lets the others go on.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from benchmarks.child import child_main, tell
from benchmarks.openloop.generator import Event, Offer, drive_here
from benchmarks.openloop.plan import Plan
from benchmarks.openloop.results import Rate, ServerResult
from benchmarks.openloop.schedule import poisson_ns
from benchmarks.openloop.trace import REFUSED, Trace
from serving.batcher import Batcher
from serving.bundle import Item
from serving.cpu import standing_back
from serving.models import Models, Served, load
from serving.registry import resolve
from serving.settling import settle_down
from serving.tickets import Overloaded, Ticket
from serving.tuning import Setting

Request = Sequence[Item]

_ANSWERED: Final = 200
_FAILED: Final = 500
_WAKE_EARLY_NS: Final = 150_000  # a sleeping thread wakes so late, mostly


class EngineJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Search by `plan` with `requests` in turn. The bundle at `path` is run by `setting`; `queue` is how many requests
    may wait."""

    variant: str
    path: str
    requests: tuple[tuple[Item, ...], ...]
    plan: Plan
    setting: Setting
    queue: int = 64
    cores: tuple[int, ...] = ()


class Submit(Protocol):
    """Takes a request, and calls `done` with its ticket when there is an answer; raises Overloaded where there is no
    room. A batcher's own is one."""

    def __call__(self, items: Request, /, *, done: Callable[[Ticket[Any]], None]) -> object: ...


class EngineWire:
    """Hands requests to `submit`; an answer's time is taken in the thread that gives it."""

    def __init__(self, submit: Submit, requests: Sequence[Request], *, clock: Callable[[], int]) -> None:
        self._submit, self._requests, self._clock = submit, requests, clock
        self._ended: deque[Event] = deque()

    def send(self, number: int) -> None:
        try:
            self._submit(self._requests[number % len(self._requests)], done=partial(self._done, number))
        except Overloaded:
            self._end(REFUSED, number)

    def poll(self) -> list[Event]:
        return [self._ended.popleft() for _ in range(len(self._ended))]

    def rest(self, ns: int) -> None:
        """Sleep, at most a millisecond, and let other threads run in any case."""
        time.sleep(max(0, min(ns - _WAKE_EARLY_NS, 1_000_000)) / 1e9)

    def _done(self, number: int, ticket: Ticket[Any]) -> None:
        refused = isinstance(ticket.error, Overloaded)
        self._end(REFUSED if refused else _FAILED if ticket.error is not None else _ANSWERED, number)

    def _end(self, status: int, number: int) -> None:
        self._ended.append(Event(number, status, self._clock()))


def offer(
    submit: Submit, requests: Sequence[Request], *, rps: float, seconds: float, warm_s: float = 0.5, seed: int = 0
) -> Trace:
    """Load anything that answers requests by tickets, at one rate, from this thread."""
    due_ns = poisson_ns(rps, seconds=warm_s + seconds, seed=seed).tolist()
    wire = EngineWire(submit, requests, clock=time.perf_counter_ns)
    return drive_here(wire, Offer(rps, warm_s, seconds, due_ns))


def run(
    job: EngineJob, *, tell: Callable[[int, int], None] = tell, settle: Callable[[], None] = lambda: None
) -> ServerResult:
    """Load the model as the server does, `settle` the process as it does then, and search.

    Raises:
        Failure: the bundle is not fit for this machine, or the plan cannot be carried out.
    """
    plan, path = job.plan, Path(job.path)
    plan.require()
    found = resolve(job.path, tracking_uri=None, cache=path)
    models = Models(standing_back(partial(load, found, choose=lambda _: job.setting)))
    settle()
    asked = 0

    def measure(rps: float, seconds: float) -> Rate:
        nonlocal asked
        costs = models.current.costs
        batcher: Batcher[Served] = Batcher(
            models.answer_jobs, executors=job.setting.executors, limit=job.queue, costs=costs
        )
        try:
            trace = offer(batcher.submit, job.requests, rps=rps, seconds=seconds, warm_s=plan.warm_s, seed=plan.seed)
        finally:
            batcher.close()
        asked += 1
        tell(asked, max(asked, plan.steps))
        return trace.rate()

    return plan.search(measure, scenario="engine")


def main(arguments: Sequence[str]) -> int:
    return child_main(arguments, EngineJob, partial(run, settle=settle_down))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
