"""What a server scenario is asked to find, and how long it looks at each rate."""

import time
from collections.abc import Callable
from typing import Final

import msgspec

from benchmarks.openloop.results import Rate, Scenario, ServerResult
from benchmarks.openloop.schedule import seconds_for
from benchmarks.openloop.search import highest_rate, require_search
from benchmarks.openloop.trace import unmeasured
from serving.errors import BadRequest

PAUSE_S: Final = 10.0  # what disturbs a machine often lasts a while


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Find the highest rate whose percentile `percent` keeps `bound_ms`: from `start_rps` on by factors of two, then in
    up to `steps` steps between the last that kept it and the first that did not.

    Each is held for `seconds` after `warm_s`, and for as long as the percentile needs requests, up to `most_s`. A rate
    a little above what the server can do is seen when its queue has outgrown the bound: with 1 % too much after 100
    times `bound_ms`.
    """

    bound_ms: float
    percent: int = 99
    start_rps: float = 50.0
    steps: int = 9
    seconds: float = 5.0
    warm_s: float = 0.5
    most_s: float = 60.0
    seed: int = 0

    def require(self) -> None:
        """Raises BadRequest where there is nothing to search, or the first rate could not be judged."""
        require_search(bound_ms=self.bound_ms, percent=self.percent, start_rps=self.start_rps, steps=self.steps)
        if why := self._too_slow(self.start_rps):
            raise BadRequest(why)

    def search(self, measure: Callable[[float, float], Rate], *, scenario: Scenario) -> ServerResult:
        """`measure(rps, seconds)` offers one rate, again after PAUSE_S where it was disturbed; where a rate would take
        too long the search ends."""
        void = ""

        def probe(rps: float) -> Rate:
            nonlocal void
            seconds = seconds_for(rps, percent=self.percent, seconds=self.seconds)
            if why := self._too_slow(rps):
                return unmeasured(rps, seconds=seconds, why=why)
            time.sleep(PAUSE_S if void else 0.0)
            rate = measure(rps, seconds)
            void = rate.void
            return rate

        self.require()
        return highest_rate(
            probe,
            bound_ms=self.bound_ms,
            percent=self.percent,
            start_rps=self.start_rps,
            steps=self.steps,
            scenario=scenario,
        )

    def _too_slow(self, rps: float) -> str:
        needed_s = seconds_for(rps, percent=self.percent, seconds=self.seconds)
        if needed_s <= self.most_s:
            return ""
        return (
            f"p{self.percent} at {rps:g} requests/s takes {needed_s:.0f} s to measure, more than the {self.most_s:g} s "
            "allowed: begin at a higher rate, bound a lower percentile, or allow more"
        )
