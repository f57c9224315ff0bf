"""What is counted of every request, in plain numbers: several microseconds less than a metric with a lock for each. All
is written by the event loop's thread; Prometheus is told when it asks."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

BUCKETS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_BUCKETS_MS: Final = tuple(bound * 1e3 for bound in BUCKETS_S)
_BOUNDS: Final = (*map(str, BUCKETS_S), "+Inf")


class RequestCounts(Collector):
    """Requests by how each ended. Those that `begun` counts and that have not ended are in flight: one whose end is
    counted twice, or never, shows there."""

    def __init__(self, outcomes: Sequence[str]) -> None:
        self.begun = self.rejected = 0
        self.outcomes = dict.fromkeys(outcomes, 0)

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        by_outcome, rejected = dict(self.outcomes), self.rejected
        accepted = sum(by_outcome.values())
        in_flight = self.begun - accepted - rejected
        yield CounterMetricFamily("retort_requests_accepted", "Requests let in.", value=accepted)
        found = CounterMetricFamily("retort_requests", "Accepted ones by outcome.", labels=["outcome"])
        for outcome, count in by_outcome.items():
            found.add_metric([outcome], count)
        yield found
        yield CounterMetricFamily("retort_requests_rejected", "Requests turned away by load.", value=rejected)
        yield GaugeMetricFamily("retort_requests_in_flight", "Requests being handled.", value=in_flight)

    describe = collect  # so that a few can be asked for by name


class PhaseTimes(Collector):
    """How long each phase of requests took: a histogram a phase."""

    def __init__(self, phases: Sequence[str]) -> None:
        self._counts = {phase: [0] * (len(BUCKETS_S) + 1) for phase in phases}
        self._rows = list(self._counts.values())
        self._sums_ms = [0.0] * len(phases)

    def observe(self, *times_ms: float) -> None:
        """One request: a time for each phase, in their order."""
        for index, time_ms in enumerate(times_ms):
            self._rows[index][bisect_left(_BUCKETS_MS, time_ms)] += 1
            self._sums_ms[index] += time_ms

    def collect(self) -> Iterator[Metric]:
        """As one metric."""
        found = HistogramMetricFamily("retort_phase_seconds", "Time by phase.", labels=["phase"])
        for (phase, counts), sum_ms in zip(self._counts.items(), self._sums_ms, strict=True):
            buckets = [(bound, float(count)) for bound, count in zip(_BOUNDS, accumulate(counts), strict=True)]
            found.add_metric([phase], buckets=buckets, sum_value=sum_ms / 1e3)
        yield found

    describe = collect
