"""What one loaded version did: how many requests it answered and failed on, in all and of late, and how long it took.

Requests that no version could answer (a BadRequest) are counted apart: they say nothing of it. A request that is
computed in slices is one request, whose time is that of all of them.
"""

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

BUCKETS_MS: Final = (0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 1000.0)
LATEST: Final = 1000  # answers whose times the percentiles are of
LONGEST_WINDOW_S: Final = 300
FEWEST_REQUESTS: Final = 10  # of fewer a share says nothing


End = float | Literal["failed", "refused"]
"""How a job ended: answered within so many milliseconds; by a failure of the model; or it could not be answered."""


class Rate(NamedTuple):
    """Of so many requests so many failed by the version's own fault."""

    requests: int
    errors: int

    @property
    def share(self) -> float:
        """0 where there were none."""
        return self.errors / self.requests if self.requests else 0.0


class Told(NamedTuple):
    """A tally at one moment; percentiles of the last LATEST answers, None where there are none. `buckets` are as
    BUCKETS_MS, and one for what took longer."""

    rate: Rate
    refused: int
    p50_ms: float | None
    p99_ms: float | None
    buckets: tuple[int, ...]
    sum_ms: float


class Times(NamedTuple):
    """How long answers took; `buckets` as Told has them."""

    buckets: tuple[int, ...]
    sum_ms: float


class Part(list[Any]):
    """One slice of a request's items, the request, and its place in it."""

    __slots__ = ("place", "request")

    def __init__(self, items: Sequence[Any], *, request: "Cut", place: int) -> None:
        super().__init__(items)
        self.request, self.place = request, place


class Cut:
    """A request that was cut into `parts` slices, and what each tally knows of it: the lanes of the model in service
    and of the shadow compute the same slices. Safe from several threads."""

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self._times_ms: dict[Tally, dict[int, float]] = {}
        self._noted: set[Any] = set()

    def ended(self, tally: "Tally", place: int, end: End) -> End | None:
        """How the request ended: as the first slice that was not answered, or, answered, when all were. None where that
        is not known yet, or was said before."""
        with self._lock:
            times_ms = self._times_ms.setdefault(tally, {})
            if not isinstance(end, str):
                times_ms[place] = end
                if len(times_ms) < self._parts:
                    return None
                end = sum(times_ms.values())
            return end if self._first(tally) else None

    def first(self, what: str) -> bool:
        """Whether `what` is noted of the request for the first time."""
        with self._lock:
            return self._first(what)

    def _first(self, what: Any) -> bool:
        known = what in self._noted
        self._noted.add(what)
        return not known


class Tally:
    """Safe from several threads; an addition costs about a microsecond."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._requests = self._errors = self._refused = 0
        self._latest: deque[float] = deque(maxlen=LATEST)
        self._buckets = [0] * (len(BUCKETS_MS) + 1)
        self._sum_ms = 0.0
        self._seconds: deque[list[int]] = deque(maxlen=LONGEST_WINDOW_S)  # [second, requests, errors]

    def add(self, times_ms: Sequence[float], *, errors: int = 0, refused: int = 0) -> None:
        """Count requests: one a time that an answer took, those that failed, and those that no version could answer."""
        second, requests = int(self._clock()), len(times_ms) + errors
        with self._lock:
            self._requests += requests
            self._errors += errors
            self._refused += refused
            self._latest.extend(times_ms)
            for time_ms in times_ms:
                self._buckets[bisect_left(BUCKETS_MS, time_ms)] += 1
                self._sum_ms += time_ms
            if not self._seconds or self._seconds[-1][0] != second:
                self._seconds.append([second, 0, 0])
            self._seconds[-1][1] += requests
            self._seconds[-1][2] += errors

    def count(self, jobs: Sequence[Sequence[Any]], ends: Sequence[End]) -> None:
        """Count jobs by how each ended; those that are slices when their request has ended, which is counted once."""
        found = [
            job.request.ended(self, job.place, end) if isinstance(job, Part) else end
            for job, end in zip(jobs, ends, strict=True)
        ]
        times_ms = [end for end in found if end is not None and not isinstance(end, str)]
        self.add(times_ms, errors=found.count("failed"), refused=found.count("refused"))

    def recent(self, window_s: float) -> Rate:
        """Of the last `window_s` seconds, to the second."""
        since = int(self._clock()) - window_s
        with self._lock:
            found = [each for each in self._seconds if each[0] > since]
            return Rate(sum(each[1] for each in found), sum(each[2] for each in found))

    @property
    def rate(self) -> Rate:
        """Of all there were."""
        return Rate(self._requests, self._errors)

    def times(self) -> Times:
        """Of all answers."""
        with self._lock:
            return Times(tuple(self._buckets), self._sum_ms)

    def told(self) -> Told:
        """All of it."""
        with self._lock:
            latest, buckets = list(self._latest), tuple(self._buckets)
            rate, refused, sum_ms = self.rate, self._refused, self._sum_ms
        latest.sort()  # not under the lock: whoever answers waits for it
        return Told(rate, refused, percentile(latest, 50), percentile(latest, 99), buckets, sum_ms)


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """The smallest value that `percent` of 100 do not exceed; None of nothing."""
    return ordered[-(-len(ordered) * percent // 100) - 1] if ordered else None
