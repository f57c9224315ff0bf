"""The loop that sends each request when it is due, whatever became of the ones before it."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from benchmarks.machine import disturbance
from benchmarks.openloop.trace import NEVER, NO_ANSWER, Trace

LEAD_NS: Final = 5_000_000  # from the start to time zero, so that the first request is not late
DRAIN_S: Final = 5.0  # how long answers are waited for after the last request was sent


class Event(NamedTuple):
    """Request `number` came to its end with this status at `at_ns` on the wire's clock."""

    number: int
    status: int
    at_ns: int


class Wire(Protocol):
    """How requests go out and answers come back; neither call waits."""

    def send(self, number: int) -> None: ...
    def poll(self) -> Iterable[Event]: ...  # what ended since the last call
    def rest(self, ns: int) -> None: ...  # nothing is due for so long: sleep shorter than that, or not at all


class Offer(NamedTuple):
    """What is offered: `due_ns` over `warm_s + seconds`, at `rps` on average."""

    rps: float
    warm_s: float
    seconds: float
    due_ns: Sequence[int]


def drive_here(wire: Wire, offer: Offer) -> Trace:
    """By this machine's clock and counters."""
    return drive(wire, offer, clock=time.perf_counter_ns, steal_ms=lambda: disturbance().steal_ms)


def drive(
    wire: Wire,
    offer: Offer,
    *,
    clock: Callable[[], int],
    drain_s: float = DRAIN_S,
    steal_ms: Callable[[], int | None] = lambda: None,
) -> Trace:
    """Send everything, wait until all is answered or `drain_s` has gone by; what is not answered then never was.
    `steal_ms` counts what this machine's cores have lost to others of the same host."""
    due_ns, count = offer.due_ns, len(offer.due_ns)
    sent_ns, done_ns, status = [NEVER] * count, [NEVER] * count, [NO_ANSWER] * count
    end_ns = (due_ns[-1] if count else 0) + round(drain_s * 1e9)
    start_ns = clock() + LEAD_NS
    number, ended, before_ms = 0, 0, steal_ms()
    while ended < count:
        now_ns = clock() - start_ns
        while number < count and due_ns[number] <= now_ns:
            wire.send(number)
            now_ns = sent_ns[number] = clock() - start_ns  # the kernel has it, or the queue
            number += 1
        for event in wire.poll():
            done_ns[event.number] = NEVER if event.status == NO_ANSWER else event.at_ns - start_ns
            status[event.number] = event.status
            ended += 1
        if now_ns > end_ns or ended == count:
            break
        wire.rest((due_ns[number] if number < count else end_ns) - now_ns)
    after_ms, took_ms = steal_ms(), (clock() - start_ns) / 1e6
    stolen = 0.0 if before_ms is None or after_ms is None else (after_ms - before_ms) / max(took_ms, 1.0)
    return Trace(offer.rps, offer.warm_s, offer.seconds, list(due_ns), sent_ns, done_ns, status, stolen=stolen)
