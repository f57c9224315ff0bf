import threading

import pytest
from live_versions import again, loaded

from serving.lanes import CANARY, MAIN, SHADOW
from serving.models import Live, Models
from serving.registry import Named
from serving.sharing import Sharing
from serving.tuning import Setting


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return loaded(tmp_path_factory.mktemp("bundle"))


class World:
    """Version 1 in service, and what was loaded for whom."""

    def __init__(self, first: Live) -> None:
        self.first = again(first, version="1")
        self.loads: list[tuple[str, str]] = []
        self.memory = [self.first]
        self.go = threading.Event()
        self.go.set()
        self.sharing = Sharing(Models(self.first), loaded=lambda: self.memory, load=self.load)

    def load(self, lane: str, source: str) -> Live:
        self.loads.append((lane, source))
        assert self.go.wait(10)
        return again(self.first, version=source.rpartition("/")[2])

    def fetch(self, lane: str, version: str = "2") -> Live:
        return self.sharing.fetch(lane, "m", Named(version, self.first.digest))


@pytest.fixture
def world(first: Live) -> World:
    return World(first)


def test_what_a_lane_has_is_loaded_for_no_other(world: World) -> None:
    world.memory.append(world.fetch(CANARY))
    main = world.fetch(MAIN)
    assert main.engine is world.memory[1].engine
    assert main.tally is not world.memory[1].tally
    assert world.loads == [(CANARY, "models:/m/2")]


def test_what_is_being_loaded_is_waited_for(world: World) -> None:
    """Also where the first who asked has not put it into its lane yet."""
    world.go.clear()
    found: list[Live] = []
    threads = [threading.Thread(target=lambda: found.append(world.fetch(CANARY))) for _ in range(3)]
    for thread in threads:
        thread.start()
    world.go.set()
    for thread in threads:
        thread.join(10)
    assert (len(world.loads), len({id(each.tally) for each in found})) == (1, 3)


def test_versions_do_not_wait_for_each_other(world: World) -> None:
    world.go.clear()
    thread = threading.Thread(target=world.fetch, args=(CANARY, "2"))
    thread.start()
    while not world.loads:
        pass
    world.memory.append(again(world.first, version="3"))
    assert world.fetch(MAIN, "3").version == "3"
    world.go.set()
    thread.join(10)


def test_what_nobody_refers_to_any_more_is_loaded_again(world: World) -> None:
    for _ in range(2):
        world.fetch(CANARY)
    assert len(world.loads) == 2


def test_a_shadow_s_one_session_serves_nobody_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.first.engine, "setting", Setting(executors=2))
    alone = again(world.first, version="2", fault=OSError())
    alone.engine.setting = Setting(executors=1)
    world.memory.append(alone)
    assert world.fetch(SHADOW).engine is alone.engine
    assert world.fetch(CANARY).engine is not alone.engine
    assert world.loads == [(CANARY, "models:/m/2")]


def test_another_bundle_of_the_same_number_is_another_version(world: World) -> None:
    world.sharing.fetch(CANARY, "m", Named("1", "0" * 64))
    assert world.loads == [(CANARY, "models:/m/1")]
