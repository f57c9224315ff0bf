import math
from typing import Any

from serving.costs import Costs
from serving.merging import LOOK_AT, NextCall, neighbours, next_call
from serving.tickets import Ticket

COSTS = Costs(call_s=1e-3, token_s=2e-5, most=8)


def ticket(length: int, *, items: int = 1, expires_s: float = math.inf, lane: str = "") -> Ticket[Any]:
    made: Ticket[Any] = Ticket([("text",)] * items, done=lambda _: None, expires_s=expires_s, lane=lane)
    made.length = length
    return made


def lengths(found: list[Ticket[Any]]) -> list[int]:
    return [each.length for each in found]


def test_the_nearest_in_length_join_first() -> None:
    jobs = [ticket(30), ticket(100), ticket(22), ticket(18)]
    assert lengths(neighbours(ticket(20), jobs, costs=COSTS, slowness=1.0, now_s=0.0)) == [22, 18, 30]


def test_a_call_is_never_larger_than_it_may_be() -> None:
    found = neighbours(
        ticket(20, items=3), [ticket(20, items=3), ticket(20, items=3)], costs=COSTS, slowness=1.0, now_s=0.0
    )
    assert len(found) == 1
    assert neighbours(ticket(20, items=8), [ticket(20)], costs=COSTS, slowness=1.0, now_s=0.0) == []


def test_what_nobody_waits_for_or_is_late_or_of_another_lane_does_not_join() -> None:
    left = ticket(20)
    left.cancel()
    jobs = [left, ticket(20, expires_s=1.0), ticket(20, lane="canary"), ticket(21)]
    assert lengths(neighbours(ticket(20), jobs, costs=COSTS, slowness=1.0, now_s=1.0)) == [21]


def test_a_call_takes_at_most_half_of_the_time_that_one_in_it_has_left() -> None:
    """Two of 20 tokens take 1.8 ms."""
    hurried = ticket(20, expires_s=3.5e-3)
    assert neighbours(hurried, [ticket(20)], costs=COSTS, slowness=1.0, now_s=0.0) == []
    assert neighbours(ticket(20), [hurried], costs=COSTS, slowness=1.0, now_s=0.0) == []
    assert len(neighbours(hurried, [ticket(20)], costs=COSTS, slowness=0.9, now_s=0.0)) == 1


def call(jobs: list[Ticket[Any]], *, spare: int = 0, now_s: float = 0.0) -> NextCall[Any]:
    return next_call(jobs, spare=spare, costs=COSTS, slowness=1.0, now_s=now_s)


def test_the_oldest_job_is_never_passed_over_for_one_that_fits_better() -> None:
    assert lengths(call([ticket(500), ticket(20), ticket(20)]).batch) == [500]


def test_a_call_costs_what_its_jobs_cost_together() -> None:
    found = call([ticket(20), ticket(10)])
    assert lengths(found.batch) == [20, 10]
    assert found.cost_s == COSTS.of(2, 20)


def test_jobs_for_idle_executors_are_left_to_them() -> None:
    jobs = [ticket(length) for length in (20, 21, 22, 23)]
    assert lengths(call(jobs, spare=2).batch) == [20, 23]
    assert lengths(call(jobs, spare=3).batch) == [20]


def test_what_is_over_is_passed_and_what_is_late_is_told_so() -> None:
    left, late = ticket(20), ticket(20, expires_s=1.0)
    left.cancel()
    found = call([left, late, ticket(30)], now_s=1.0)
    assert (found.late, lengths(found.batch)) == ([late], [30])


def test_a_job_that_has_waited_and_has_too_little_left_is_late() -> None:
    job = ticket(20, expires_s=1.0)
    job.cost_s = COSTS.of(1, 20)
    assert call([job], now_s=0.9985).batch == [job]
    assert call([job], now_s=0.999).late == [job]
    job.admitted_s = 0.999
    assert call([job], now_s=0.999).batch == [job], "nobody can be quicker"


def test_far_down_the_queue_nobody_is_looked_at() -> None:
    jobs = [ticket(20)] + [ticket(500) for _ in range(LOOK_AT)] + [ticket(20)]
    assert lengths(call(jobs).batch) == [20]
    assert lengths(call([jobs[0], *jobs[2:]]).batch) == [20, 20]
