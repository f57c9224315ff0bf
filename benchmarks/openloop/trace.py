"""From what happened to each request to the figures of one offered rate."""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.noise import STEAL, TICKS_S
from benchmarks.openloop.results import Rate
from benchmarks.openloop.schedule import requests_for

NO_ANSWER: Final = 0  # the status of a request that none came for: its connection broke, or there was none
NEVER: Final = -1  # the time of what did not happen
REFUSED: Final = 503
REFUSALS: Final = (429, REFUSED)  # a server says by either that it has too much to do
LATEST_MS: Final = 1.0  # a generator whose p99 lateness exceeds this did not offer what it says


class Trace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run, raw: a list entry per request, times in nanoseconds from the start, in the order of the schedule.

    Requests due in the first `warm_s` are sent and not counted; `status` is HTTP's, or NO_ANSWER; `done_ns` is NEVER
    where no answer came. `timing` holds what answers' Server-Timing says; it is empty where nobody asked for it.
    `stolen` is what other machines of the same host took from this one's cores, as a share of one core's time.
    """

    offered_rps: float
    warm_s: float
    seconds: float
    due_ns: list[int]
    sent_ns: list[int]
    done_ns: list[int]
    status: list[int]
    timing: list[str] = []
    stolen: float = 0.0

    def latencies_ms(self) -> npt.NDArray[np.float64]:
        """From the time each was due, in the order of the schedule; infinite where no good answer came."""
        counted = self._counted()
        good = (self._statuses(counted) // 100 == 2) & (np.asarray(self.done_ns)[counted] != NEVER)
        return np.where(good, self._after_due_ms(self.done_ns, counted), np.inf)

    def rate(self) -> Rate:
        counted = self._counted()
        status = self._statuses(counted)
        latencies_ms = np.sort(self.latencies_ms())
        late_ms = np.sort(self._after_due_ms(self.sent_ns, counted))
        answered, refused = int(np.isfinite(latencies_ms).sum()), int(np.isin(status, REFUSALS).sum())
        late_p50_ms, late_p99_ms = (_nearest_rank(late_ms, percent) for percent in (50, 99))
        return Rate(
            offered_rps=self.offered_rps,
            seconds=self.seconds,
            sent=len(status),
            answered=answered,
            refused=refused,
            failed=len(status) - answered - refused,
            p50_ms=_reported(latencies_ms, 50),
            p90_ms=_reported(latencies_ms, 90),
            p99_ms=_reported(latencies_ms, 99),
            late_p50_ms=late_p50_ms,
            late_p99_ms=late_p99_ms,
            void=_void(len(status), late_p99_ms) or _stolen(self.stolen, seconds=self.warm_s + self.seconds),
        )

    def _counted(self) -> npt.NDArray[np.bool_]:
        counted: npt.NDArray[np.bool_] = np.asarray(self.due_ns, np.int64) >= round(self.warm_s * 1e9)
        return counted

    def _statuses(self, counted: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        return np.asarray(self.status, np.int64)[counted]

    def _after_due_ms(self, times_ns: Sequence[int], counted: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        after_ns = np.asarray(times_ns, np.int64) - np.asarray(self.due_ns, np.int64)
        after_ms: npt.NDArray[np.float64] = after_ns[counted] / 1e6
        return after_ms


def unmeasured(rate_rps: float, *, seconds: float, why: str) -> Rate:
    """A point that was not even tried."""
    return Rate(rate_rps, seconds, 0, 0, 0, 0, None, None, None, late_p50_ms=0.0, late_p99_ms=0.0, void=why)


def _reported(ascending_ms: npt.NDArray[np.float64], percent: int) -> float | None:
    if len(ascending_ms) < requests_for(percent):
        return None
    found = _nearest_rank(ascending_ms, percent)
    return found if np.isfinite(found) else None


def _nearest_rank(ascending_ms: npt.NDArray[np.float64], percent: int) -> float:
    """A value that occurred, so that nothing is interpolated towards a request that has no answer; 0 of nothing."""
    rank = -(-len(ascending_ms) * percent // 100)
    return float(ascending_ms[rank - 1]) if rank else 0.0


def _void(sent: int, late_p99_ms: float) -> str:
    if not sent:
        return "no request was due: offer a higher rate or measure longer"
    if late_p99_ms > LATEST_MS:
        return (
            f"the generator lagged: its p99 lateness is {late_p99_ms:.2f} ms, more than {LATEST_MS:g} ms; "
            "give it a core of its own, or offer less"
        )
    return ""


def _stolen(share: float, *, seconds: float) -> str:
    """A server that stood still while its core was another's is not slow, and the generator on its own core may have
    seen nothing of it."""
    if share <= STEAL + TICKS_S / seconds:
        return ""
    return f"{share:.1%} of a core's time went to other machines of the same host: measure again when they are quiet"
