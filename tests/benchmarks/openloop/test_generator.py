"""The loop, on a simulated server and a clock that moves when somebody works or rests: latency from the due time."""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from benchmarks.openloop.generator import Event, Offer, drive
from benchmarks.openloop.plan import Plan
from benchmarks.openloop.results import Rate
from benchmarks.openloop.schedule import poisson_ns
from benchmarks.openloop.trace import NEVER, NO_ANSWER, REFUSED

MS = 1_000_000
SEND_NS = 1_000


class Simulated:
    """One executor that takes `service_ns(start)` a request, in order; the loop's own work takes a microsecond a send.

    More than `room` requests under way: refused. Time passes in `send` and `rest` only.
    """

    def __init__(
        self,
        service_ns: Callable[[int], int],
        *,
        room: int = 10**9,
        send_ns: Callable[[int], int] = lambda _: SEND_NS,
    ) -> None:
        self.now_ns = 10**12
        self.started_ns = 0
        self._service_ns, self._room, self._send_ns = service_ns, room, send_ns
        self._free_ns = 0
        self._under_way: deque[Event] = deque()
        self._refused: list[Event] = []

    def clock(self) -> int:
        return self.now_ns

    def send(self, number: int) -> None:
        self.now_ns += self._send_ns(number)
        if len(self._under_way) >= self._room:
            self._refused.append(Event(number, REFUSED, self.now_ns))
            return
        start_ns = max(self.now_ns, self._free_ns)
        self._free_ns = start_ns + self._service_ns(start_ns)
        self._under_way.append(Event(number, 200, self._free_ns))

    def poll(self) -> list[Event]:
        ended, self._refused = self._refused, []
        while self._under_way and self._under_way[0].at_ns <= self.now_ns:
            ended.append(self._under_way.popleft())
        return ended

    def rest(self, ns: int) -> None:
        next_ns = self._under_way[0].at_ns - self.now_ns if self._under_way else ns
        self.now_ns += max(1, min(ns, next_ns))


def offer(due_ns: Sequence[int], *, rps: float = 1.0) -> Offer:
    return Offer(rps, 0.0, 1.0, list(due_ns))


def test_each_request_goes_out_when_due_and_is_timed_from_then() -> None:
    wire = Simulated(lambda _: 3 * MS)
    trace = drive(wire, offer([0, 10 * MS, 11 * MS]), clock=wire.clock)
    assert trace.sent_ns == [SEND_NS, 10 * MS + SEND_NS, 11 * MS + SEND_NS]
    assert trace.done_ns == [3 * MS + SEND_NS, 13 * MS + SEND_NS, 16 * MS + SEND_NS]
    assert trace.status == [200] * 3
    assert trace.latencies_ms().tolist() == pytest.approx([3.001, 3.001, 5.001])


def test_a_stall_of_the_server_is_felt_by_every_request_due_meanwhile() -> None:
    """A closed loop would have sent one request into the stall of 200 ms, and reported one slow answer of 1000."""

    def stalls_once(start_ns: int) -> int:
        at_ms = (start_ns - 10**12) // MS - 5
        return 200 * MS if at_ms == 500 else 10_000

    wire = Simulated(stalls_once)
    rate = drive(wire, offer([i * MS for i in range(1000)], rps=1000), clock=wire.clock).rate()
    assert rate.p50_ms == pytest.approx(0.011)
    assert rate.p90_ms == pytest.approx(100, abs=2)
    assert rate.p99_ms == pytest.approx(190, abs=2)
    assert (rate.late_p99_ms, rate.void) == (0.001, "")


def test_a_generator_that_was_held_up_sends_at_once_what_is_overdue_and_tells_its_lateness() -> None:
    wire = Simulated(lambda _: 1000, send_ns=lambda number: 50 * MS if number == 100 else SEND_NS)
    trace = drive(wire, offer([i * MS for i in range(1000)]), clock=wire.clock)
    late_ms = (np.array(trace.sent_ns) - np.array(trace.due_ns)) / 1e6
    assert late_ms[99:102].tolist() == pytest.approx([0.001, 50, 49.001])
    assert (late_ms > 1).sum() == 50
    assert trace.latencies_ms()[101] == pytest.approx(49.002)
    assert trace.rate().void.startswith("the generator lagged: its p99 lateness is 4")


def test_refusals_come_back_as_such_and_the_load_goes_on() -> None:
    wire = Simulated(lambda _: 10 * MS, room=2)
    rate = drive(wire, offer([i * MS for i in range(1000)], rps=1000), clock=wire.clock).rate()
    assert rate.answered + rate.refused == rate.sent == 1000
    assert rate.answered == pytest.approx(100, abs=3)
    assert rate.p50_ms is None


def test_what_is_not_answered_in_time_never_was() -> None:
    wire = Simulated(lambda start: 3600 * 1000 * MS if start > 10**12 + 100 * MS else MS)
    trace = drive(wire, offer([i * 10 * MS for i in range(100)]), clock=wire.clock, drain_s=2.0)
    assert trace.rate().answered == 10
    assert set(trace.done_ns[10:]) == {NEVER}
    assert set(trace.status[10:]) == {NO_ANSWER}
    assert wire.now_ns - 10**12 == pytest.approx(2.995e9, rel=0.01)


def test_what_other_machines_took_from_the_cores_is_told_and_voids_the_run() -> None:
    counted = iter([5_000, 5_050, None, 7])
    wire = Simulated(lambda _: 3 * MS)
    disturbed, uncounted = (
        drive(wire, offer([0, 997 * MS]), clock=wire.clock, steal_ms=lambda: next(counted)) for _ in range(2)
    )
    assert disturbed.stolen == pytest.approx(0.05, rel=0.01)
    assert disturbed.rate().void == (
        "5.0% of a core's time went to other machines of the same host: measure again when they are quiet"
    )
    assert (uncounted.stolen, uncounted.rate().void) == (0.0, "")


def test_nothing_due_is_nothing_sent() -> None:
    wire = Simulated(lambda _: MS)
    assert drive(wire, offer([]), clock=wire.clock).sent_ns == []


def test_queueing_is_that_of_the_theory() -> None:
    """Poisson arrivals at one server with constant service (M/D/1): the mean wait is rho s / (2 (1 - rho))."""
    service_ns, rho = 2 * MS, 0.7
    wire = Simulated(lambda _: service_ns, send_ns=lambda _: 0)
    due_ns = poisson_ns(rho / 2e-3, seconds=600, seed=11).tolist()
    trace = drive(wire, offer(due_ns), clock=wire.clock)
    assert trace.latencies_ms().mean() - 2 == pytest.approx(rho * 2 / (2 * (1 - rho)), rel=0.03)


@pytest.mark.parametrize("service_ms", [2.0, 7.0])
def test_the_search_finds_the_rate_that_the_theory_allows(service_ms: float) -> None:
    """p99 of M/D/1 is 5 service times at rho = 0.561 (Crommelin): that is the share of the capacity that is found."""

    def measure(rps: float, seconds: float) -> Rate:
        wire = Simulated(lambda _: round(service_ms * MS), send_ns=lambda _: 0)
        due_ns = poisson_ns(rps, seconds=seconds, seed=2).tolist()
        return drive(wire, Offer(rps, 0.5, seconds - 0.5, due_ns), clock=wire.clock).rate()

    plan = Plan(bound_ms=5 * service_ms, start_rps=20, steps=20, seconds=120, most_s=200)
    found = plan.search(measure, scenario="http")
    assert found.best_rps is not None
    assert found.best_rps * service_ms / 1e3 == pytest.approx(0.561, abs=0.04)
