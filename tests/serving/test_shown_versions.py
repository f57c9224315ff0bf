"""What the page is told of a canary and a shadow: on, or off and why."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from live_versions import again, loaded

from serving.batcher import Batcher
from serving.errors import BadArtifact, Transient
from serving.follower import Follower
from serving.lanes import CANARY, MAIN, SHADOW, Lane
from serving.models import Live, Models, Served
from serving.registry import Named, NoAlias
from serving.shown_versions import state_of
from serving.traffic import Traffic
from serving.version_metrics import VersionMetrics

BESIDE = [CANARY, SHADOW]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return loaded(tmp_path_factory.mktemp("bundle"))


class World:
    """Version 7 is in service; the other lanes follow what `named` and `fetched` say: a result, or what is raised."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.models = Models(again(live, version="7"))
        self.batcher: Batcher[Served] = Batcher(self.models.answer_jobs, executors=1, limit=9)
        self.traffic = Traffic(self.models, self.batcher, share=0.05, shadowed=True)
        self.lanes = {name: Lane(name, self.models, model="m") for name in (MAIN, CANARY, SHADOW)}
        for lane in self.lanes.values():
            lane.others = [other for other in self.lanes.values() if other is not lane]
        self.followers = {name: self._follower(name) for name in BESIDE}
        self.followed = SimpleNamespace(source="models:/m/7")
        self.beside = {CANARY: "models:/m@challenger", SHADOW: "models:/m@next"}
        self.share, self.from_cache = 0.05, False
        self.named: Named | Exception = self.identity("8")
        self.fetched: Live | Exception = again(live, version="8")

    def _follower(self, name: str) -> Follower:
        observer: Any = SimpleNamespace(registry_is_up=lambda _: None, refused=lambda: None)
        find, fetch = (lambda: _told(self.named)), (lambda _: _told(self.fetched))
        return Follower(self.lanes[name], find=find, fetch=fetch, observer=observer)

    def identity(self, version: str) -> Named:
        return Named(version, self.live.digest)

    def told(self, lane: str) -> tuple[Any, Any, Any]:
        """Version, why it is off, and what else is the matter, after a poll."""
        self.followers[lane].poll()
        return self.seen(lane)

    def seen(self, lane: str) -> tuple[Any, Any, Any]:
        told: Any = state_of(self)[lane]  # type: ignore[arg-type]
        return told["version"], told["off"], told["trouble"]


def _told(what: Any) -> Any:
    if isinstance(what, Exception):
        raise what
    return what


@pytest.fixture
def world(live: Live) -> Iterator[World]:
    world = World(live)
    yield world
    world.batcher.close()


@pytest.mark.parametrize("lane", BESIDE)
def test_a_lane_that_has_what_its_alias_names_is_on(world: World, lane: str) -> None:
    assert world.seen(lane) == (None, "its version is not loaded yet", None)
    assert world.told(lane) == ("8", None, None)


@pytest.mark.parametrize("lane", BESIDE)
def test_a_lane_is_off_while_its_alias_is_missing(world: World, lane: str) -> None:
    world.told(lane)
    world.named = NoAlias("model m has no alias challenger; it has: champion")
    assert world.told(lane) == (None, "model m has no alias challenger; it has: champion", None)


@pytest.mark.parametrize("lane", BESIDE)
def test_a_lane_is_off_while_its_alias_names_the_version_in_service(world: World, lane: str) -> None:
    off = "its alias names version 7, which is in service"
    world.named = world.identity("7")
    assert world.told(lane) == (None, off, None)
    world.models.put(lane, world.models.current)
    assert world.seen(lane) == ("7", off, None), "promoted, and the lane has not looked yet"


@pytest.mark.parametrize("lane", BESIDE)
def test_a_lane_is_off_whose_version_is_unfit(world: World, lane: str) -> None:
    world.fetched = BadArtifact("it is altered")
    assert world.told(lane) == (None, "version 8, which its alias names, was refused", None)
    assert state_of(world)["quarantined"] == [  # type: ignore[arg-type]
        {"lane": lane, "version": "8", "why": "it is altered"}
    ]


def test_a_lane_is_off_whose_version_the_alarm_took_out_of_another(world: World) -> None:
    world.lanes[MAIN].refuse(world.identity("8"), why="it failed")
    refused = world.lanes[MAIN].refused
    assert refused is not None
    world.lanes[MAIN].refused = refused._replace(taken_out=True)
    assert world.told(CANARY) == (None, "version 8, which its alias names, was refused", None)


def test_a_canary_of_other_limits_is_off_and_a_shadow_of_them_is_on(world: World, tmp_path: Path) -> None:
    world.fetched = loaded(tmp_path, version="8", max_items=3)
    world.named = Named("8", world.fetched.digest)
    off = "version 8 is given no requests beside version 7: its max_items in serving.yaml is other"
    assert world.told(CANARY) == ("8", off, None)
    assert world.told(SHADOW) == ("8", None, None)


@pytest.mark.parametrize("lane", BESIDE)
def test_a_lane_of_other_labels_is_off(world: World, tmp_path: Path, lane: str) -> None:
    world.fetched = loaded(tmp_path, version="8", labels=("a", "b"))
    world.named = Named("8", world.fetched.digest)
    assert world.told(lane)[:2] == ("8", "version 8 is given no requests beside version 7: its labels are others")


@pytest.mark.parametrize("lane", BESIDE)
def test_a_lane_is_off_or_stays_while_the_registry_is_away(world: World, lane: str) -> None:
    world.named = Transient("the registry cannot be reached")
    assert world.told(lane) == (None, "the registry cannot be reached", None)
    world.named = world.identity("8")
    assert world.told(lane) == ("8", None, None)
    world.named = Transient("the registry cannot be reached")
    assert world.told(lane) == ("8", None, f"keeping {lane} version 8: the registry cannot be reached")


def test_a_version_that_cannot_be_fetched_is_told_beside_the_one_that_answers(world: World) -> None:
    world.told(CANARY)
    world.named, world.fetched = world.identity("9"), Transient("the disk is full")
    assert world.told(CANARY) == ("8", None, "keeping canary version 8: the disk is full")


def test_a_refusal_that_is_forgiven_meanwhile_harms_nobody_who_reads(world: World) -> None:
    """The follower clears it in another thread, between two looks."""
    lane = world.lanes[CANARY]
    lane.refuse(world.identity("8"), why="it failed")
    found = lane.refused
    looks = iter(range(99))
    once: Any = type("Once", (Lane,), {"refused": property(lambda _: found if next(looks) == 0 else None)})
    lane.__dict__.pop("refused")
    lane.__class__ = once
    state_of(world)  # type: ignore[arg-type]
    looks = iter(range(99))
    list(VersionMetrics(world).collect())  # type: ignore[arg-type]
