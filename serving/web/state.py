"""What the page shows of this moment. Counters only grow: the page takes differences, so that each of several open
pages has its own and the server keeps no history."""

import mmap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from serving.desk import Desk
from serving.metrics import OUTCOMES, PHASES
from serving.models import Live

Followed = Callable[[], Mapping[str, object]]
RECENT_S: Final = 60.0
_PHASE: Final = "retort_phase_seconds"
_READ: Final = (
    "retort_requests_total",
    "retort_requests_rejected_total",
    "retort_requests_in_flight",
    f"{_PHASE}_bucket",
    f"{_PHASE}_sum",
)


class Sample(NamedTuple):
    """What a value of a metric is of: an outcome or a phase, and a bound of a histogram."""

    name: str
    of: str = ""
    bound: str | None = None


def state_of(desk: Desk, *, following: Followed | None, uptime_s: float) -> dict[str, object]:
    """JSON-able.

    model       {name, version, digest} of the model in service
    counts      requests by outcome since the start
    recent      {seconds, requests, errors} of the model in service, of late
    phases      {bounds_s, counts: {phase: requests at most as long as each bound, and all}, sum_s: {phase: seconds}}
    queue       {length, limit, saturation, wait_ms}
    following   as serving.shown_versions.state_of; of one version alone where nothing is followed
    """
    live, queue = desk.models.current, desk.batcher.queue
    samples = _samples(desk)
    recent = live.tally.recent(RECENT_S)
    return {
        "clock_s": time.monotonic(),
        "uptime_s": round(uptime_s, 1),
        "draining": desk.draining,
        "stalled": desk.stalled(),
        "model": live.identity(),
        "counts": {
            **{outcome: samples[Sample("retort_requests_total", outcome)] for outcome in OUTCOMES},
            "rejected": samples[Sample("retort_requests_rejected_total")],
        },
        "recent": {"seconds": RECENT_S, "requests": recent.requests, "errors": recent.errors},
        "in_flight": samples[Sample("retort_requests_in_flight")],
        "memory_bytes": _resident_bytes(),
        "queue": {
            "length": len(queue),
            "limit": queue.limit,
            "saturation": queue.saturation,
            "wait_ms": queue.predicted_wait_s * 1e3,
        },
        "phases": _phases(samples),
        "following": following() if following is not None else _alone(live),
    }


def _samples(desk: Desk) -> dict[Sample, float]:
    """Of the few metrics that are read here."""
    found = desk.metrics.registry.restricted_registry(list(_READ)).collect()
    return {
        Sample(
            each.name, each.labels.get("outcome") or each.labels.get("phase") or "", each.labels.get("le")
        ): each.value
        for family in found
        for each in family.samples
    }


def _phases(samples: Mapping[Sample, float]) -> dict[str, object]:
    bounds = list(dict.fromkeys(key.bound for key in samples if key.bound is not None))  # ascending, as they are told
    return {
        "bounds_s": [float(bound) for bound in bounds if bound != "+Inf"],
        "counts": {phase: [samples[Sample(f"{_PHASE}_bucket", phase, bound)] for bound in bounds] for phase in PHASES},
        "sum_s": {phase: samples[Sample(f"{_PHASE}_sum", phase)] for phase in PHASES},
    }


def _resident_bytes() -> int | None:
    """None where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return None
    return int(pages) * mmap.PAGESIZE


def _alone(live: Live) -> dict[str, object]:
    """As Following.state, of a model that nothing is followed for."""
    told = live.tally.told()
    version = {
        "lane": "",
        "role": "serving",
        **live.identity(),
        "since": None,
        "requests": told.rate.requests,
        "errors": told.rate.errors,
        "p50_ms": told.p50_ms,
        "p99_ms": told.p99_ms,
    }
    return {
        "source": None,
        "registry_up": None,
        "alias_found": None,
        "polled_s_ago": None,
        "from_cache": False,
        "versions": [version],
        "quarantined": [],
        "rollbacks": 0,
        "canary": None,
        "shadow": None,
    }
