import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import Clock
from live_versions import GOOD, Broken, again, loaded

from serving.alarm import Thresholds
from serving.engine import Answer, Given
from serving.errors import BadArtifact
from serving.instances import Instances
from serving.lanes import CANARY, MAIN, SHADOW, Lane
from serving.models import Live, Models
from serving.packing import Packing
from serving.registry import Named
from serving.tallies import Rate

POISON = [("poison",)]
BROKEN = BadArtifact("it does not compute")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return loaded(tmp_path_factory.mktemp("bundle"))


class World:
    """Version 1 in service, the lanes beside it, and a log of swaps."""

    def __init__(self, first: Live) -> None:
        self.clock = Clock()
        self.first = first
        self.first_live = self.version("1")
        self.models = Models(self.first_live)
        self.swaps: list[str | None] = []
        self.alarms: list[str] = []
        self.room = True
        self.lanes = {name: self.lane(name) for name in (MAIN, CANARY, SHADOW)}
        for lane in self.lanes.values():
            lane.others = [each for each in self.lanes.values() if each is not lane]
        self.main = self.lanes[MAIN]
        self.models.on_failed = lambda live, jobs: [lane.heed(live, jobs) for lane in self.lanes.values()]

    def lane(self, name: str) -> Lane:
        lane = Lane(
            name,
            self.models,
            model="m",
            thresholds=Thresholds(requests=10),
            on_swap=lambda live: self.swaps.append(live and live.version),
            has_room=lambda _: self.room,
            clock=self.clock,
        )
        lane.on_alarm = lambda: self.alarms.append(name)
        return lane

    def version(self, version: str, *, fault: Exception | None = None) -> Live:
        return again(self.first, version=version, clock=self.clock, fault=fault)

    def named(self, version: str) -> Named:
        return Named(version, self.first.digest)

    def ask(self, count: int, *, lane: str = MAIN, job: list[tuple[str, ...]] = GOOD) -> str:
        """Have requests answered one after the other, with a look after each alarm; the version in service then."""
        for _ in range(count):
            self.models.answer_jobs(lane, [job])
            while self.alarms:
                self.lanes[self.alarms.pop()].check()
        return self.models.current.version


@pytest.fixture
def world(first: Live) -> World:
    return World(first)


def test_a_version_that_fails_makes_place_for_the_one_before_it(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.ask(20)
    world.main.take(world.version("2", fault=BROKEN))
    assert world.ask(9) == "2"
    assert world.ask(1) == "1"
    assert caplog.messages == [
        "version 2 failed on 10 of its last 10 requests (0.0% of those of the version beside it): back to version 1, "
        "until the alias moves"
    ]
    assert caplog.records[0].levelno == logging.ERROR
    assert (world.swaps, world.main.hot, world.main.rollbacks) == (["2", "1"], None, 1)
    assert world.main.refused is not None
    assert world.main.refused.version == "2"
    assert [world.main.wants(world.named(version)) for version in ("2", "1", "2")] == [False, False, True]


def test_requests_that_the_version_before_fails_on_as_well_roll_nothing_back(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.main.take(world.version("2"))
    assert world.ask(10, job=POISON) == "2"
    assert caplog.messages == [
        "version 2 failed on 10 of its last 10 requests; version 1 fails on the same, so it stays"
    ]
    assert world.models.current.tally.rate == Rate(10, 10)
    assert world.main.hot is not None
    assert world.main.hot.tally.rate == Rate(0, 0)  # being asked whether it answers is no request


def test_an_executor_that_raises_the_alarm_computes_nothing(world: World) -> None:
    asked: list[object] = []
    world.main.take(world.version("2", fault=BROKEN))
    before = world.main.hot
    assert before is not None
    world.main.hot = replace(before, engine=Watched(before.engine, asked))
    for _ in range(10):
        world.models.answer_jobs(MAIN, [GOOD])
    assert (asked, world.alarms, world.models.current.version) == ([], [MAIN], "2")
    world.main.check()
    assert (len(asked), world.models.current.version) == (8, "1")


def test_an_alarm_of_a_version_that_has_left_moves_nothing(world: World) -> None:
    world.main.take(world.version("2", fault=BROKEN))
    for _ in range(10):
        world.models.answer_jobs(MAIN, [GOOD])
    world.main.take(world.version("3"))
    world.main.check()
    assert (world.alarms, world.models.current.version, world.main.rollbacks) == ([MAIN], "3", 0)


class Watched(Broken):
    """Answers, and tells what it was asked."""

    def __init__(self, engine: Instances, asked: list[object]) -> None:
        super().__init__(engine, BROKEN)
        self.own, self.asked = engine, asked

    def answer_jobs(self, jobs: Sequence[Sequence[Given]], *, packing: Packing) -> list[Answer | Exception]:
        self.asked.extend(jobs)
        return self.own.answer_jobs(jobs, packing=packing)


def test_the_version_before_is_asked_no_more_than_once_a_second(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.main.take(world.version("2"))
    world.ask(30, job=POISON)
    world.clock.advance(1.0)
    world.ask(5, job=POISON)
    assert len(caplog.messages) == 2


def test_a_version_no_worse_than_the_one_before_stays(world: World) -> None:
    world.ask(30, job=POISON)
    world.main.take(world.version("2", fault=BROKEN))
    assert world.ask(60) == "2"


def test_failures_of_long_ago_ring_nothing(world: World) -> None:
    world.main.take(world.version("2", fault=BROKEN))
    world.ask(9)
    world.clock.advance(31.0)
    assert world.ask(9) == "2"


def test_the_alarm_never_goes_to_a_newer_version(world: World) -> None:
    world.main.take(world.version("2"))
    world.main.take(world.version("1", fault=BROKEN))  # somebody went back to it
    assert world.ask(60) == "1"
    assert world.main.refused is None


def test_a_version_alone_in_memory_stays_however_it_fails(world: World) -> None:
    world.main.take(world.version("2", fault=BROKEN))
    world.main.let_go("a test")
    assert world.ask(60) == "2"


def test_a_canary_that_fails_is_switched_off(world: World, caplog: pytest.LogCaptureFixture) -> None:
    canary = world.lanes[CANARY]
    canary.take(world.version("2", fault=BROKEN))
    world.ask(10, lane=CANARY)
    assert (canary.current, world.models.current.version, world.swaps) == (None, "1", ["2", None])
    assert caplog.messages == [
        "canary version 2 failed on 10 of its last 10 requests (0.0% of those of the version beside it): the canary is "
        "off, until the alias moves"
    ]
    assert [canary.wants(world.named(version)) for version in ("2", "3", "2")] == [False, True, True]


def test_a_shadow_that_fails_harms_nobody_and_stays(world: World) -> None:
    world.lanes[SHADOW].take(world.version("2", fault=BROKEN))
    world.ask(60, lane=SHADOW)
    assert world.lanes[SHADOW].current is not None


def test_where_memory_is_short_the_version_before_is_let_go(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.room = False
    world.main.take(world.version("2"))
    assert world.main.hot is None
    assert caplog.messages == ["version 1 is no longer kept loaded: little memory is left beside version 2"]
    assert world.main.let_go("again") is False


def test_only_the_model_in_service_has_a_version_kept_behind_it(world: World) -> None:
    canary = world.lanes[CANARY]
    canary.take(world.version("2"))
    canary.take(world.version("3"))
    assert canary.hot is None


def test_an_alias_that_names_nothing_forgives(world: World) -> None:
    world.main.refuse(world.named("2"), why="it fails")
    world.main.forgive()
    assert world.main.wants(world.named("2"))


def test_the_same_version_of_another_model_is_another_version(first: Live, tmp_path: Path) -> None:
    lane = Lane(CANARY, Models(again(first, version="2")), model="other")
    assert lane.wants(Named("2", first.digest))


def test_the_same_number_of_a_model_that_was_registered_anew_is_another_version(world: World) -> None:
    """Of one that was deleted, as of one that is refused."""
    anew = Named("1", "0" * 64)
    assert world.main.wants(world.named("1")) is False
    assert world.main.wants(anew)
    world.main.take(replace(world.version("1"), digest=anew.digest))
    assert (world.main.kept(anew), world.main.kept(world.named("1"))) == (None, world.first_live)
    world.main.refuse(world.named("2"), why="it fails")
    assert world.main.wants(Named("2", "0" * 64))


# -- what one lane took out, no other serves ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", [CANARY, SHADOW])
def test_what_the_alarm_took_out_of_service_comes_back_in_no_lane_until_the_alias_moves(
    world: World, name: str
) -> None:
    lane = world.lanes[name]
    world.main.take(world.version("2", fault=BROKEN))
    assert lane.wants(world.named("2")) is False  # it is in service
    assert world.ask(10) == "1"
    assert lane.wants(world.named("2")) is False
    why = "version 2 failed on 10 of its last 10 requests (0.0% of those of the version beside it)"
    assert lane.barred(world.named("2")) == why
    assert world.main.wants(world.named("1")) is False
    assert lane.wants(world.named("2"))


def test_a_canary_is_switched_off_as_soon_as_its_version_is_taken_out_of_service(world: World) -> None:
    canary, shadow = world.lanes[CANARY], world.lanes[SHADOW]
    world.main.take(world.version("2", fault=BROKEN))
    canary.take(world.version("2"))
    shadow.take(world.version("3"))
    world.ask(10)
    assert (canary.current, shadow.current and shadow.current.version) == (None, "3")


def test_a_canary_and_a_shadow_are_switched_off_as_soon_as_their_version_comes_into_service(world: World) -> None:
    for name in (CANARY, SHADOW):
        world.lanes[name].take(world.version("2"))
    world.main.take(world.version("2"))
    assert [world.lanes[name].current for name in (CANARY, SHADOW)] == [None, None]


def test_a_version_that_is_taken_out_while_it_is_loaded_for_another_lane_is_not_put_in(world: World) -> None:
    canary = world.lanes[CANARY]
    assert canary.wants(world.named("2"))
    world.main.take(world.version("2", fault=BROKEN))
    world.ask(10)
    assert canary.take(world.version("2")) is False
    assert canary.current is None


def test_a_canary_that_failed_is_not_put_into_service_nor_gone_back_to(world: World) -> None:
    world.lanes[CANARY].take(world.version("2", fault=BROKEN))
    world.ask(10, lane=CANARY)
    assert world.main.wants(world.named("2")) is False
    world.main.hot = world.version("2")
    world.main._put(world.version("3", fault=BROKEN))
    assert world.ask(60) == "3"


def test_a_version_that_was_unfit_for_one_lane_is_tried_by_another(world: World) -> None:
    """As one that found no memory beside the version in service may when it takes its place."""
    world.lanes[CANARY].refuse(world.named("2"), why="no memory")
    assert world.main.wants(world.named("2"))


def test_a_canary_of_the_version_in_service_raises_no_alarm(world: World) -> None:
    """As after a promotion, until its alias is looked at again."""
    canary = world.lanes[CANARY]
    canary.take(world.version("1", fault=BROKEN))
    world.ask(60, lane=CANARY)
    assert canary.refused is None


def test_an_alarm_rings_beside_a_version_of_which_little_is_known(world: World) -> None:
    world.ask(4)
    world.ask(1, job=POISON)
    world.main.take(world.version("2", fault=BROKEN))
    assert world.ask(10) == "1"


def test_a_look_never_sees_one_version_in_both_places(world: World) -> None:
    seen: list[tuple[Live | None, Live | None]] = []
    second = world.version("2")
    world.main.take(second)
    world.main.on_swap = lambda _: seen.append((world.main.current, world.main.hot))
    world.main.take(world.first_live)
    assert seen == [(world.first_live, None)]
    assert world.main.in_memory() == (world.first_live, second)
