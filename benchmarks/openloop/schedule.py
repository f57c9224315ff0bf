"""When each request is due: a Poisson process, fixed before the first one is sent.

A schedule does not wait for answers, so a server that stalls meets the requests of that time all the same (no
coordinated omission). One seed gives one sequence of gaps, scaled to the rate: two rates differ in nothing else.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.measure import BEYOND
from serving.errors import BadRequest

_SPARE: Final = 4  # standard deviations of a Poisson count, so that a schedule has too few requests once in 30 thousand


def poisson_ns(rate_rps: float, *, seconds: float, seed: int) -> npt.NDArray[np.int64]:
    """Offsets from the start in nanoseconds, ascending, all before `seconds`.

    Raises:
        BadRequest: no rate or no time.
    """
    if not (0 < rate_rps < math.inf and 0 < seconds < math.inf):
        raise BadRequest(f"{rate_rps:g} requests/s for {seconds:g} s cannot be offered: give numbers above 0")
    expected = rate_rps * seconds
    random = np.random.default_rng(seed)
    offsets_s = np.cumsum(random.exponential(size=math.ceil(expected + 10 * math.sqrt(expected) + 10))) / rate_rps
    return (offsets_s[offsets_s < seconds] * 1e9).astype(np.int64)


def requests_for(percent: int) -> int:
    """How many requests a percentile needs: ten beyond it."""
    return math.ceil(100 * BEYOND / (100 - percent))


def seconds_for(rate_rps: float, *, percent: int, seconds: float) -> float:
    """`seconds`, or as much longer as it takes until that many requests were due, the chance of a schedule included."""
    wanted = requests_for(percent)
    return max(seconds, (wanted + _SPARE * math.sqrt(wanted)) / rate_rps)
