"""What Prometheus is told of the versions in memory; read when it asks, so that a request pays for none of it."""

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.lanes import SHADOW, Lane
from serving.models import Live
from serving.tallies import BUCKETS_MS

if TYPE_CHECKING:
    from serving.following import Following

_OF_VERSION: Final = ("lane", "version")


class VersionMetrics(Collector):
    """A version's figures are there as long as it is in memory; lane "" is the model in service."""

    def __init__(self, following: "Following") -> None:
        self._following = following

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        lanes = self._following.lanes.values()
        versions = [(lane, live) for lane in lanes for live in lane.in_memory() if live is not None]
        yield from _counts(versions)
        yield _seconds(versions)
        yield from self._aliases()
        if SHADOW in self._following.lanes and self._following.traffic is not None:
            yield from _agreement(self._following.traffic.state())

    def _aliases(self) -> Iterator[Metric]:
        found = GaugeMetricFamily("retort_alias_found", "Whether the alias named a version.", labels=["lane"])
        for name, follower in self._following.followers.items():
            if follower.alias_found is not None:
                found.add_metric([name], follower.alias_found)
        refused = GaugeMetricFamily("retort_version_refused", "Not tried until the alias moves.", labels=_OF_VERSION)
        rollbacks = CounterMetricFamily("retort_model_rollbacks", "Taken out of service by the alarm.", labels=["lane"])
        for name, lane in self._following.lanes.items():
            rollbacks.add_metric([name], lane.rollbacks)
            quarantined = lane.refused  # read once: a follower may clear it meanwhile
            if quarantined is not None:
                refused.add_metric([name, quarantined.version], 1)
        yield from (found, refused, rollbacks)


def _counts(versions: list[tuple[Lane, Live]]) -> Iterator[Metric]:
    requests = CounterMetricFamily("retort_version_requests", "Requests a version computed.", labels=_OF_VERSION)
    errors = CounterMetricFamily("retort_version_errors", "Those that it failed on.", labels=_OF_VERSION)
    for lane, live in versions:
        rate = live.tally.rate
        requests.add_metric([lane.name, live.version], rate.requests)
        errors.add_metric([lane.name, live.version], rate.errors)
    yield from (requests, errors)


def _seconds(versions: list[tuple[Lane, Live]]) -> Metric:
    seconds = HistogramMetricFamily("retort_version_seconds", "Tokenizing and inferring.", labels=_OF_VERSION)
    bounds = [*(str(bound / 1e3) for bound in BUCKETS_MS), "+Inf"]
    for lane, live in versions:
        times = live.tally.times()
        counts = list(zip(bounds, accumulate(times.buckets), strict=True))
        seconds.add_metric([lane.name, live.version], counts, times.sum_ms / 1e3)
    return seconds


def _agreement(state: dict[str, object]) -> Iterator[Metric]:
    """Of the two versions that are compared now: they begin anew with another one."""
    for name, what in (
        ("compared", "Items computed by both."),
        ("agreed", "Items with the same answer."),
        ("dropped", "Requests the shadow had no time for."),
    ):
        yield GaugeMetricFamily(f"retort_shadow_{name}", what, value=float(str(state[name])))
    if state["mean"] is not None:
        mean = GaugeMetricFamily("retort_shadow_distance", "Mean, by measure.", labels=["measure"])
        mean.add_metric([str(state["measure"])], float(str(state["mean"])))
        yield mean
