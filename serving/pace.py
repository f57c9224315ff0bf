"""How the costs that were predicted turn out: learned from every call, so that a machine with neighbours, a wrong
calibration and the gain of merging are all in what a client is told.

All are ratios of sums that fade, so that long calls count for as much as the time they take, and one that took absurdly
long (a process that was stopped, a page that was fetched) for no more than a few.
"""

from typing import Final

_KEEP: Final = 0.9
_AT_MOST: Final = 4.0  # times what was expected: more is no pace but an accident
_PRIOR_S: Final = 0.01  # how much the first guess weighs, in seconds of cost


class Pace:
    """`slowness`: seconds that a call takes for a predicted one. `gain`: what merging left of the costs of jobs one by
    one. `job_s`: what a job costs, as predicted."""

    def __init__(self, job_s: float) -> None:
        self._took_s = self._call_s = _PRIOR_S
        self._merged_s = self._alone_s = _PRIOR_S
        self.job_s = job_s

    @property
    def slowness(self) -> float:
        return self._took_s / self._call_s

    @property
    def gain(self) -> float:
        return self._merged_s / self._alone_s

    def learn(self, *, took_s: float, call_s: float, alone_s: float, jobs: int) -> None:
        """A call of so many jobs that was predicted to take `call_s`, and the jobs one by one `alone_s`."""
        if call_s <= 0.0:
            return
        took_s = min(took_s, _AT_MOST * call_s * max(self.slowness, 1.0))
        self._took_s = _KEEP * self._took_s + took_s
        self._call_s = _KEEP * self._call_s + call_s
        self._merged_s = _KEEP * self._merged_s + call_s
        self._alone_s = _KEEP * self._alone_s + alone_s
        self.job_s += (1 - _KEEP) * (alone_s / jobs - self.job_s)
