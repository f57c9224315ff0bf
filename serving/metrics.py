"""What the server counts, for Prometheus. accepted = ok + client_error + server_error + dropped + expired, always.

A request that load shedding turned away was never accepted and is counted apart.
"""

import math
import time
from collections.abc import Callable
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, ProcessCollector, generate_latest

from serving.request_metrics import PhaseTimes, RequestCounts

Outcome = Literal["ok", "client_error", "server_error", "dropped", "expired", "rejected"]
OUTCOMES: tuple[Outcome, ...] = ("ok", "client_error", "server_error", "dropped", "expired")
PHASES = ("queue", "tokenize", "infer", "other")
KEPT_S: Final = 0.5  # everybody may read /metrics, and the loop answers nobody else while its text is made


class Metrics:
    """One registry of its own per server, so that two in one process do not collide."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self._clock = clock
        self._text, self._text_until_s = b"", -math.inf
        ProcessCollector(registry=self.registry)
        self.requests, self._phases = RequestCounts(OUTCOMES), PhaseTimes(PHASES)
        self.registry.register(self.requests)
        self.registry.register(self._phases)
        self._model = Info("retort_model", "The model that answers now.", registry=self.registry)
        self._queue = Gauge("retort_queue_length", "Requests waiting for an executor.", registry=self.registry)
        self._queue_limit = Gauge("retort_queue_limit", "Requests that may wait.", registry=self.registry)
        self._registry_up = Gauge("retort_registry_up", "Last poll; NaN: none.", registry=self.registry)
        self._swaps = Counter("retort_model_swaps", "Versions put in service while running.", registry=self.registry)
        self._refused = Counter("retort_model_versions_refused", "Versions quarantined.", registry=self.registry)
        self._registry_up.set(math.nan)
        self._saturation = Gauge(
            "retort_saturation", "Predicted wait, as a share of the longest allowed.", registry=self.registry
        )

    def count(self, outcome: Outcome) -> None:
        """Close the account of one request."""
        if outcome == "rejected":
            self.requests.rejected += 1
        else:
            self.requests.outcomes[outcome] += 1

    def observe(self, *, queue_ms: float, tokenize_ms: float, infer_ms: float, other_ms: float) -> None:
        """The phases of a request that was answered; `other_ms` is all that is neither of the three."""
        self._phases.observe(queue_ms, tokenize_ms, infer_ms, other_ms)

    def watch_queue(self, length: Callable[[], int], *, limit: int, saturation: Callable[[], float]) -> None:
        """Read the queue's length and how near it is to refusing when asked; the latter is what to scale on."""
        self._queue.set_function(length)
        self._queue_limit.set(limit)
        self._saturation.set_function(saturation)

    def serving(self, *, name: str, version: str, digest: str) -> None:
        self._model.info({"name": name, "version": version, "digest": digest})

    def registry_is_up(self, reachable: bool) -> None:
        self._registry_up.set(reachable)

    def swapped(self) -> None:
        self._swaps.inc()

    def refused(self) -> None:
        self._refused.inc()

    def text(self) -> bytes:
        """All of it for Prometheus, as it was at most KEPT_S ago."""
        if self._clock() >= self._text_until_s:
            self._text = generate_latest(self.registry)
            self._text_until_s = self._clock() + KEPT_S
        return self._text
