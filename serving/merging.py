"""Which jobs of a queue are computed in one call: the oldest, and neighbours that are cheaper with it than after it."""

from collections.abc import Iterable
from itertools import islice
from typing import Final, Generic, NamedTuple, TypeVar

from serving.costs import Costs
from serving.tickets import Ticket

R = TypeVar("R")
LOOK_AT: Final = 32  # further down the queue nobody is a neighbour in time
WAITED_S: Final = 0.001  # less is no waiting


class NextCall(NamedTuple, Generic[R]):
    """Jobs that are too late to be begun, those of the call, and what that is predicted to cost."""

    late: list[Ticket[R]]
    batch: list[Ticket[R]]
    cost_s: float


def next_call(jobs: Iterable[Ticket[R]], *, spare: int, costs: Costs, slowness: float, now_s: float) -> NextCall[R]:
    """The next call of a queue, its oldest job first; the `spare` jobs after that one are left to executors that are
    idle. `slowness` is how many seconds pass for a predicted one."""
    waiting, late = iter(jobs), list[Ticket[R]]()
    for job in waiting:
        if job.is_over:
            continue
        if _is_late(job, slowness=slowness, now_s=now_s):
            late.append(job)
            continue
        rest = islice(waiting, spare, spare + LOOK_AT)
        joined = neighbours(job, rest, costs=costs, slowness=slowness, now_s=now_s)
        if not joined:
            return NextCall(late, [job], job.cost_s)
        batch = [job, *joined]
        return NextCall(late, batch, costs.of(sum(one.count for one in batch), max(one.length for one in batch)))
    return NextCall(late, [], 0.0)


def neighbours(
    first: Ticket[R], jobs: Iterable[Ticket[R]], *, costs: Costs, slowness: float, now_s: float
) -> list[Ticket[R]]:
    """The jobs, nearest in length first, that join `first`: never of another lane, and never so many that the call
    takes more than half of the time that one of them has left."""
    items, length, expires_s = first.count, first.length, first.expires_s
    if items >= costs.most:
        return []
    near = [job for job in jobs if job.lane == first.lane and not job.is_over and now_s < job.expires_s]
    near.sort(key=lambda job: abs(job.length - first.length))  # stable: of equals the older one
    joined: list[Ticket[R]] = []
    for job in near:
        if not costs.pays(items, length, more=job.count, of_length=job.length):
            continue
        more, longest, least_s = job.count, max(length, job.length), min(expires_s, job.expires_s)
        if costs.of(items + more, longest) * slowness > (least_s - now_s) / 2:
            continue
        joined.append(job)
        items, length, expires_s = items + more, longest, least_s
        if items == costs.most:
            break
    return joined


def _is_late(job: Ticket[R], *, slowness: float, now_s: float) -> bool:
    """Its time is up; or it has waited, and what is left is too little."""
    left_s = job.expires_s - now_s
    return left_s <= 0 or (now_s - job.admitted_s > WAITED_S and job.cost_s * slowness > left_s)
