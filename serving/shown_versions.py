"""What the page shows of the versions in memory: who answers what, how it does, and what the registry said last."""

import time
from typing import TYPE_CHECKING

from serving.lanes import CANARY, MAIN, SHADOW, Lane
from serving.models import Live

if TYPE_CHECKING:
    from serving.following import Following


def state_of(following: "Following") -> dict[str, object]:
    """JSON-able, cheap, from any thread.

    source, registry_up, alias_found, polled_s_ago    of the model in service; None where it follows nothing
    from_cache     the registry was away at the start, and is so still
    versions       [{lane, role: serving | hot, name, version, digest, since, requests, errors, p50_ms, p99_ms}]
    quarantined    [{lane, version, why}]
    rollbacks      by the alarm
    canary         {source, share, requests}; None where there is none
    shadow         {source, ...Traffic.state()}; None where there is none
    """
    main = following.followers.get(MAIN)
    polled_s = main.polled_s if main else None
    return {
        "source": following.followed.source,
        "registry_up": main.registry_up if main else None,
        "alias_found": main.alias_found if main else None,
        "polled_s_ago": None if polled_s is None else round(time.monotonic() - polled_s, 1),
        "from_cache": following.from_cache and main is not None and not main.registry_up,
        "versions": [each for lane in following.lanes.values() for each in _versions(lane)],
        "quarantined": [
            {"lane": lane.name, "version": lane.refused.version, "why": lane.refused.why}
            for lane in following.lanes.values()
            if lane.refused is not None
        ],
        "rollbacks": sum(lane.rollbacks for lane in following.lanes.values()),
        "canary": _canary(following),
        "shadow": _shadow(following),
    }


def _versions(lane: Lane) -> list[dict[str, object]]:
    found = [(lane.current, "serving", lane.since), (lane.hot, "hot", None)]
    return [_version(lane, live, role=role, since=since) for live, role, since in found if live is not None]


def _version(lane: Lane, live: Live, *, role: str, since: str | None) -> dict[str, object]:
    told = live.tally.told()
    return {
        "lane": lane.name,
        "role": role,
        **live.identity(),
        "since": since,
        "requests": told.rate.requests,
        "errors": told.rate.errors,
        "p50_ms": told.p50_ms,
        "p99_ms": told.p99_ms,
    }


def _canary(following: "Following") -> dict[str, object] | None:
    if CANARY not in following.lanes:
        return None
    live = following.lanes[CANARY].current
    return {
        "source": following.beside[CANARY],
        "share": following.share,
        "requests": live.tally.rate.requests if live is not None else 0,
    }


def _shadow(following: "Following") -> dict[str, object] | None:
    if SHADOW not in following.lanes or following.traffic is None:
        return None
    return {"source": following.beside[SHADOW], **following.traffic.state()}
