"""What the page shows of the versions in memory: who answers what, how it does, and what the registry said last."""

import time
from typing import TYPE_CHECKING

from serving.lanes import CANARY, MAIN, SHADOW, Lane
from serving.models import Live
from serving.traffic import why_unfit

if TYPE_CHECKING:
    from serving.following import Following


def state_of(following: "Following") -> dict[str, object]:
    """JSON-able, cheap, from any thread.

    source, registry_up, alias_found, polled_s_ago    of the model in service; None where it follows nothing
    from_cache     the registry was away at the start, and is so still
    versions       [{lane, role: serving | hot, name, version, digest, since, requests, errors, p50_ms, p99_ms}]
    quarantined    [{lane, version, why}]
    rollbacks      by the alarm
    canary         {**beside, share, requests}; None where there is none
    shadow         {**beside, **Traffic.state()}; None where there is none

    beside         {source, version, off, trouble}: why it is off, None where it is on; why it has not what its alias
                   names although it is on, None where it has
    """
    main = following.followers.get(MAIN)
    polled_s = main.polled_s if main else None
    refused = [(lane.name, lane.refused) for lane in following.lanes.values()]
    return {
        "source": following.followed.source,
        "registry_up": main.registry_up if main else None,
        "alias_found": main.alias_found if main else None,
        "polled_s_ago": None if polled_s is None else round(time.monotonic() - polled_s, 1),
        "from_cache": following.from_cache,
        "versions": [each for lane in following.lanes.values() for each in _versions(lane)],
        "quarantined": [
            {"lane": name, "version": each.version, "why": each.why} for name, each in refused if each is not None
        ],
        "rollbacks": sum(lane.rollbacks for lane in following.lanes.values()),
        "canary": _canary(following),
        "shadow": _shadow(following),
    }


def _versions(lane: Lane) -> list[dict[str, object]]:
    current, hot = lane.in_memory()
    found = [(current, "serving", lane.since), (hot, "hot", None)]
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
    requests = live.tally.rate.requests if live is not None else 0
    return {**_beside(following, CANARY), "share": following.share, "requests": requests}


def _shadow(following: "Following") -> dict[str, object] | None:
    if SHADOW not in following.lanes or following.traffic is None:
        return None
    return {**_beside(following, SHADOW), **following.traffic.state()}


def _beside(following: "Following", name: str) -> dict[str, object]:
    lane = following.lanes[name]
    live = lane.current
    off = _why_off(following, name, live)
    told_elsewhere = off is not None or lane.refused is not None
    return {
        "source": following.beside[name],
        "version": None if live is None else live.version,
        "off": off,
        "trouble": None if told_elsewhere else following.followers[name].trouble or None,
    }


def _why_off(following: "Following", name: str, live: Live | None) -> str | None:
    """Why a lane has nothing to do, in words; None where it has."""
    main, lane, follower = following.models.current, following.lanes[name], following.followers[name]
    if live is not None and live.identity() != main.identity():
        why = why_unfit(name, main=main.spec, other=live.spec)
        return f"version {live.version} is given no requests beside version {main.version}: {why}" if why else None
    if live is None:
        refused = [each.refused for each in following.lanes.values() if each.model == lane.model]
        if any(each is not None and each.version == follower.named for each in refused):
            return f"version {follower.named}, which its alias names, was refused"
        if follower.trouble:
            return follower.trouble.removeprefix(f"no {name}: ")
    if live is not None or (lane.model, follower.named) == (main.name, main.version):
        return f"its alias names version {main.version}, which is in service"
    return "its version is not loaded yet"
