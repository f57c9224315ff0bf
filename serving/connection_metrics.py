"""What is counted of connections, apart from requests: who is turned away here never became one."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

REASONS: Final = ("full", "idle", "head", "malformed", "slow", "reader")


class ConnectionMetrics:
    """Kept in a server's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._open = Gauge("retort_connections", "Connections that are open.", registry=registry)
        refused = Counter(
            "retort_connections_refused",
            "Connections ended for what a client did: one too many, idle when another came that was one too many, "
            "a large head, no HTTP, too slow, not reading.",
            ["why"],
            registry=registry,
        )
        self._refused = {why: refused.labels(why) for why in REASONS}

    def watch(self, length: Callable[[], int]) -> None:
        """Read how many there are when asked."""
        self._open.set_function(length)

    def refused(self, why: str) -> None:
        self._refused[why].inc()
