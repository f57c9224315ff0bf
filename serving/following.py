"""What a server is told to serve, and how that stays true: the model in service, its canary and its shadow, each
following its alias.

    following = build_following(Followed(source="models:/m@champion", ...), metrics=metrics)    loads; raises Failure
    batcher = Batcher(following.models.answer_jobs, ...)
    desk = Desk(following.models, batcher, metrics, router=following.join(batcher))
    following.start() ... following.stop()
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from serving.alarm import Thresholds
from serving.batcher import Batcher
from serving.bundle import Bundle
from serving.cache import prune
from serving.choosing import choose_setting, succeeding_setting, where_pays
from serving.cpu import standing_back
from serving.engine import Given
from serving.errors import BadRequest, Transient
from serving.follower import Follower
from serving.lanes import CANARY, MAIN, SHADOW, Lane
from serving.machine import available_bytes
from serving.metrics import Metrics
from serving.models import Live, Models, Served, load
from serving.registry import Resolved, find_version, is_followed, name_and_alias, resolve, version_place
from serving.registry_failures import NoAnswer
from serving.remembered import noted, recall, remember
from serving.sharing import Sharing
from serving.shown_versions import state_of
from serving.traffic import Traffic, parse_canary
from serving.tuning import Setting, plain
from serving.version_metrics import VersionMetrics

POLL_S: Final = 5.0
_log = logging.getLogger(__name__)


class Followed(msgspec.Struct, frozen=True, kw_only=True):
    """What a server is told. `canary` is "@ALIAS=PERCENT%" and `shadow` "@ALIAS", of the same model, or either with
    models:/NAME@ALIAS. With a public `key` only versions that its owner signed are served, later ones too. Told
    `threads`, one session has them; else the bundle's tuning for this machine decides, or a calibration."""

    source: str
    tracking_uri: str | None
    cache: Path
    key: Path | None = None
    threads: int | None = None
    canary: str | None = None
    shadow: str | None = None
    alarm: Thresholds = Thresholds()
    interval_s: float = msgspec.field(default_factory=lambda: POLL_S)


def build_following(followed: Followed, *, metrics: Metrics) -> "Following":
    """Resolve, verify and load what is served; its canary and shadow come when `start` is called.

    Raises:
        BadRequest: no such source, or a canary or a shadow that is no alias.
        BadArtifact: the version is altered, unsigned where it must be, or not for this machine.
        Transient: the registry is away, and the cache has not what the alias named last.
    """
    canary = parse_canary(followed.canary) if followed.canary else None
    sources = {CANARY: canary.source if canary else None, SHADOW: followed.shadow}
    beside = {lane: _alias(source, lane=lane, followed=followed) for lane, source in sources.items() if source}
    resolved, from_cache = _first(followed)
    live = standing_back(partial(load, resolved, choose=partial(choose_setting, threads=followed.threads)))
    return Following(
        followed, live, beside=beside, share=canary.share if canary else 0.0, from_cache=from_cache, metrics=metrics
    )


class Following:
    """A server's models, one lane each for the one in service, the canary and the shadow, and the threads that follow
    their aliases."""

    def __init__(
        self,
        followed: Followed,
        live: Live,
        *,
        beside: dict[str, str],
        share: float,
        from_cache: bool,
        metrics: Metrics,
    ) -> None:
        self.models = Models(live)
        self.share, self.beside = share, beside
        self._began_from_cache = from_cache
        self._sharing = Sharing(self.models, loaded=self.loaded, load=self._load)
        self.traffic: Traffic | None = None
        self.followed, self._metrics = followed, metrics
        self.lanes = {MAIN: self._lane(MAIN, model=live.name)}
        self.followers: dict[str, Follower] = {}
        if is_followed(followed.source):
            self.followers[MAIN] = self._follower(MAIN, followed.source)
            self.followers[MAIN].registry_up = not from_cache
            metrics.registry_is_up(not from_cache)
        for name, source in beside.items():
            self.lanes[name] = self._lane(name, model=name_and_alias(source)[0])
            self.followers[name] = self._follower(name, source)
        for lane in self.lanes.values():
            lane.others = [each for each in self.lanes.values() if each is not lane]
        self.models.on_failed = self._heed
        metrics.serving(**live.identity())
        metrics.registry.register(VersionMetrics(self))
        if MAIN in self.followers and not from_cache:
            self._keep(followed.source, live)

    def join(self, batcher: Batcher[Served]) -> Traffic:
        """Who answers which request; from now on the queue goes by what the model in service costs."""
        traffic = self.traffic = Traffic(self.models, batcher, share=self.share, shadowed=SHADOW in self.lanes)

        def swapped(live: Live | None) -> None:
            assert live is not None, "there is always a model in service"
            batcher.queue.use(live.costs)
            traffic.forget()
            self._metrics.serving(**live.identity())
            self._metrics.swapped()

        self.lanes[MAIN].on_swap = swapped
        if SHADOW in self.lanes:
            self.lanes[SHADOW].on_swap = lambda _: traffic.forget()
        return traffic

    def start(self) -> None:
        """Follow; canary and shadow are looked for at once."""
        for follower in self.followers.values():
            follower.start()

    def stop(self) -> None:
        """Follow no more."""
        for follower in self.followers.values():
            follower.stop()

    @property
    def from_cache(self) -> bool:
        """Whether the registry was away at the start, and has not answered since."""
        return self._began_from_cache and not self.followers[MAIN].was_up

    def state(self) -> dict[str, object]:
        """What the page shows; serving.shown_versions says how it looks."""
        return state_of(self)

    # -- what lanes and followers call ---------------------------------------------------------------------------------

    def _lane(self, name: str, *, model: str) -> Lane:
        return Lane(name, self.models, model=model, thresholds=self.followed.alarm, has_room=_has_room)

    def _follower(self, lane: str, source: str) -> Follower:
        return Follower(
            self.lanes[lane],
            find=partial(find_version, source, tracking_uri=self.followed.tracking_uri),
            fetch=partial(self._sharing.fetch, lane, self.lanes[lane].model),
            keep=partial(self._keep, source) if lane == MAIN else self._prune,
            observer=self,
            interval_s=self.followed.interval_s,
        )

    def _load(self, lane: str, source: str) -> Live:
        where = self.followed
        found = resolve(source, tracking_uri=where.tracking_uri, cache=where.cache, key=where.key)
        return load(found, choose=self._choose(lane), gently=True)

    def _choose(self, lane: str) -> Callable[[Bundle], Setting]:
        current = self.models.current.setting
        as_others = partial(succeeding_setting, threads=self.followed.threads, current=current)
        if lane != SHADOW or current.sessions == 1:
            return as_others
        # One request at a time is enough for what nobody waits for.
        return lambda _: where_pays(msgspec.structs.replace(plain(current.threads), executors=1))

    def loaded(self) -> Sequence[Live]:
        """Every model in memory, the one in service first; those of several lanes once."""
        found = [each for lane in self.lanes.values() for each in lane.in_memory() if each is not None]
        return [
            each for index, each in enumerate(found) if all(each.engine is not other.engine for other in found[:index])
        ]

    def _keep(self, source: str, live: Live) -> None:
        """For a restart without the registry."""
        where = self.followed
        resolved = Resolved(live.engine.bundle.path, live.name, live.version, live.digest, live.files)
        remember(resolved, source=source, tracking_uri=str(where.tracking_uri), cache=where.cache)
        self._prune(live)

    def _prune(self, swapped: Live) -> None:
        """Make room in the cache: a version has come, and an older one may go."""
        name, cache = swapped.name, self.followed.cache
        kept = noted(name, cache=cache)
        if kept is None:
            return
        place = partial(version_place, cache, name=name)
        in_memory = [place(version=live.version, digest=live.digest) for live in self.loaded() if live.name == name]
        prune(in_memory[0].parent, in_use=in_memory, noted=kept)

    def registry_is_up(self, _: bool) -> None:
        """Called by each follower; for the server it is up where all of them got an answer last."""
        self._metrics.registry_is_up(all(each.registry_up is not False for each in self.followers.values()))

    def refused(self) -> None:
        """Called by each follower."""
        self._metrics.refused()

    def _heed(self, live: Live, failed: Sequence[Sequence[Given]]) -> None:
        for lane in self.lanes.values():
            lane.heed(live, failed)


def _first(followed: Followed) -> tuple[Resolved, bool]:
    """What the source names, and whether the cache had to say so, since the registry is away."""
    source, uri, cache, key = followed.source, followed.tracking_uri, followed.cache, followed.key
    try:
        return resolve(source, tracking_uri=uri, cache=cache, key=key), False
    except (Transient, NoAnswer) as away:
        known = recall(source, tracking_uri=str(uri), cache=cache, key=key) if is_followed(source) else None
        if known is None:
            raise
        told = "%s; serving version %s of the cache, which answered for %s last, until the registry names another"
        _log.error(told, away, known.version, source)
        return known, True


def _alias(told: str, *, lane: str, followed: Followed) -> str:
    """A canary's or a shadow's source in full."""
    source = told
    if told.startswith("@") and followed.source.startswith("models:/"):
        source = f"models:/{name_and_alias(followed.source)[0]}{told}"
    if not is_followed(source):
        raise BadRequest(
            f"--{lane} {told} is no alias that can be followed; write @ALIAS where a registered model is served, or "
            "models:/NAME@ALIAS"
        )
    if followed.tracking_uri is None:
        raise BadRequest(f"--{lane} {told} needs a registry; say where with --tracking-uri, e.g. sqlite:///mlflow.db")
    return source


def _has_room(live: Live) -> bool:
    """Whether as much memory is left as a model takes."""
    available = available_bytes()
    return available is None or live.memory_bytes <= available
