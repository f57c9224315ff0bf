"""How long a job would wait, and whether that is too long."""

import math
from typing import Final

from serving.pace import Pace
from serving.shedding import TARGET_S, CoDel
from serving.tickets import Overloaded

MAX_WAIT_S: Final = 0.025  # what an answer may be late by for the queue's sake; of slow requests a few of them
JOBS_OF_WAIT: Final = 4


class Admission:
    """One queue's door, which learns from what is computed. `max_wait_s`: the longest predicted wait (None: MAX_WAIT_S,
    or JOBS_OF_WAIT times what a request takes). Under the queue's lock."""

    def __init__(self, *, max_wait_s: float | None, job_s: float) -> None:
        self.pace = Pace(job_s)
        self._told_s = max_wait_s
        self._codel = CoDel()

    @property
    def max_wait_s(self) -> float:
        """The longest predicted wait that is allowed."""
        return self._told_s or max(MAX_WAIT_S, JOBS_OF_WAIT * self.pace.job_s * self.pace.slowness)

    @property
    def slice_s(self) -> float:
        """What a request may cost in one call, so that others wait no longer for it than they may."""
        return self.max_wait_s / (2 * self.pace.slowness)

    def wait_s(self, *, waiting_s: float, executors: int, first_end_s: float) -> float:
        """Of a job behind others that cost `waiting_s`, where an executor is free in `first_end_s`."""
        return first_end_s + waiting_s * self.pace.gain * self.pace.slowness / max(1, executors)

    def thins_out(self, wait_s: float, *, now_s: float) -> bool:
        """Whether a job is turned away because the queue has stood for long."""
        self._codel.target_s = max(TARGET_S, self.pace.job_s * self.pace.slowness)
        return self._codel.refuses(wait_s, now_s=now_s)

    def too_late(self, *, wait_s: float, cost_s: float, left_s: float) -> bool:
        """Whether a job would wait, and then have no time to be computed in."""
        return wait_s + cost_s * self.pace.slowness > left_s


def overloaded(why: str, *, wait_s: float) -> Overloaded:
    """A refusal that says when to come back."""
    seconds = max(1, math.ceil(wait_s))
    return Overloaded(f"{why}; retry after {seconds} s", retry_after_s=seconds)
