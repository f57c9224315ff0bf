import logging
import os
import sys
import threading
from dataclasses import replace

import pytest
from live_versions import again, loaded, until

from serving.cache import NoSpace
from serving.errors import BadArtifact, BadRequest, Transient
from serving.follower import Follower
from serving.lanes import CANARY, MAIN, Lane, Refused
from serving.metrics import Metrics
from serving.models import Live, Models, NoMemory
from serving.registry import Named, NoAlias
from serving.registry_failures import NoAnswer

NO_SUCH = NoAlias("model m has no alias champion; it has: none")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return loaded(tmp_path_factory.mktemp("bundle"))


class World:
    """A registry whose alias the test moves, and a follower of it."""

    def __init__(self, first: Live, lane: str = MAIN) -> None:
        self.first = again(first, version="1")
        self.version: str | Exception = "1"
        self.faults: dict[str, list[Exception]] = {}
        self.fetched: list[str] = []
        self.kept: list[str] = []
        self.models = Models(self.first)
        self.metrics = Metrics()
        self.lane = Lane(lane, self.models, model="m")
        self.follower = Follower(
            self.lane,
            find=self.find,
            fetch=self.fetch,
            observer=self.metrics,
            keep=lambda live: self.kept.append(live.version),
            interval_s=0.001,
        )

    def find(self) -> Named:
        if isinstance(self.version, Exception):
            raise self.version
        return self.named(self.version)

    def named(self, version: str) -> Named:
        """Written as 2, or 2-DIGEST where it is another bundle than the others."""
        number, _, digest = version.partition("-")
        return Named(number, digest or self.first.digest)

    def fetch(self, named: Named) -> Live:
        self.fetched.append(named.version)
        if faults := self.faults.get(named.version):
            raise faults.pop(0)
        return replace(again(self.first, version=named.version), digest=named.digest)

    def poll(self, version: str | Exception) -> str | None:
        """Move the alias and look; the version that the lane has then."""
        self.version = version
        self.follower.poll()
        return self.lane.current.version if self.lane.current else None

    def value(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name)


@pytest.fixture
def world(first: Live) -> World:
    return World(first)


@pytest.fixture
def canary(first: Live) -> World:
    return World(first, CANARY)


def test_an_alias_that_stays_fetches_nothing(world: World) -> None:
    assert world.poll("1") == "1"
    assert (world.fetched, world.kept) == ([], [])


@pytest.mark.skipif(sys.platform != "linux", reason="niceness is the process's elsewhere")
def test_who_loads_another_version_gives_way_to_who_talks_to_clients(world: World) -> None:
    found: list[int] = []
    fetch = world.follower._fetch

    def seen(named: Named) -> Live:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return fetch(named)

    world.follower._fetch = seen
    world.version = "2"
    world.follower.start()
    until(lambda: world.kept == ["2"])
    world.follower.stop()
    assert found == [min(os.getpriority(os.PRIO_PROCESS, 0) + 10, 19)]


def test_an_alias_that_moves_back_finds_the_version_before_still_loaded(world: World) -> None:
    before = world.lane.current
    assert [world.poll(version) for version in ("2", "1", "2")] == ["2", "1", "2"]
    assert world.fetched == ["2"]
    assert world.lane.hot is before
    assert world.kept == ["2", "1", "2"]


def test_one_version_is_kept_loaded_and_no_more(world: World) -> None:
    assert [world.poll(version) for version in ("2", "3", "1")] == ["2", "3", "1"]
    assert world.fetched == ["2", "3", "1"]


@pytest.mark.parametrize("fault", [BadArtifact("altered"), ZeroDivisionError("a bug in a model")])
def test_a_version_that_fails_is_quarantined_and_the_old_one_serves_on(
    world: World, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    world.faults["2"] = [fault]
    with caplog.at_level(logging.WARNING):
        assert [world.poll("2"), world.poll("2")] == ["1", "1"]
    assert world.fetched == ["2"]
    assert world.value("retort_model_versions_refused_total") == 1
    assert caplog.messages == [f"keeping version 1; version 2 is refused: {fault}"]


@pytest.mark.parametrize("elsewhere", ["3", "1", NO_SUCH])
def test_quarantine_ends_when_the_alias_moves(world: World, elsewhere: str | Exception) -> None:
    world.faults["2"] = [BadArtifact("altered")]
    world.poll("2")
    world.poll(elsewhere)
    assert world.poll("2") == "2"


def test_a_registry_that_is_away_keeps_the_version_and_says_so_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        away = Transient("registry http://r cannot be reached")
        assert [world.poll(away), world.poll(away)] == ["1", "1"]
        assert world.value("retort_registry_up") == 0
        assert world.poll("1") == "1"
    assert caplog.messages == ["keeping version 1: registry http://r cannot be reached", "the registry answers again"]
    assert world.value("retort_registry_up") == 1


def test_a_download_cut_short_is_tried_again(world: World) -> None:
    world.faults["2"] = [Transient("cut short")]
    assert world.poll("2") == "1"
    assert world.value("retort_registry_up") == 0
    assert world.poll("2") == "2"


def test_a_full_disk_is_tried_again_and_is_not_the_registry_s_fault(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.faults["2"] = [NoSpace("no space left"), NoSpace("no space left")]
    assert [world.poll("2"), world.poll("2")] == ["1", "1"]
    assert world.value("retort_registry_up") == 1
    assert caplog.messages == ["keeping version 1: no space left"]
    assert world.poll("2") == "2"


def test_an_alias_that_was_deleted_keeps_the_version(world: World, caplog: pytest.LogCaptureFixture) -> None:
    assert world.poll(NO_SUCH) == "1"
    assert (world.value("retort_registry_up"), world.follower.alias_found) == (1, False)
    assert caplog.messages == ["keeping version 1: model m has no alias champion; it has: none"]
    world.poll("1")
    assert world.follower.alias_found is True


def test_a_version_that_finds_no_memory_takes_that_of_the_one_that_only_waits(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.poll("2")
    world.faults["3"] = [NoMemory("3 needs 2 MB and 1 MB are free")]
    assert world.poll("3") == "3"
    assert world.fetched == ["2", "3", "3"]
    assert caplog.messages == ["version 1 is no longer kept loaded: 3 needs 2 MB and 1 MB are free"]
    assert world.lane.hot is not None
    assert world.lane.hot.version == "2"


def test_a_version_that_is_larger_than_memory_is_quarantined(world: World) -> None:
    world.faults["2"] = [NoMemory("2 needs 2 MB and 1 MB are free")]
    assert [world.poll("2"), world.poll("2")] == ["1", "1"]
    assert world.fetched == ["2"]


def test_a_canary_whose_alias_is_not_there_is_off_until_it_is(canary: World, caplog: pytest.LogCaptureFixture) -> None:
    gone = NoAlias("model m has no alias challenger; it has: champion")
    assert [canary.poll(gone), canary.poll("2"), canary.poll(gone)] == [None, "2", None]
    assert caplog.messages == [f"no canary: {gone}", f"no canary: {gone}"]
    assert canary.models.current.version == "1"


def test_a_canary_of_a_registry_that_is_away_goes_on(canary: World) -> None:
    assert [canary.poll("2"), canary.poll(Transient("away")), canary.poll(BadRequest("wrong key"))] == ["2"] * 3


@pytest.mark.parametrize("answer", [NoAnswer("HTTP 401"), BadRequest("a page"), Transient("HTTP 502")])
def test_whatever_else_a_registry_answers_says_nothing_of_the_alias(world: World, answer: Exception) -> None:
    assert [world.poll("2"), world.poll(answer)] == ["2", "2"]
    assert (world.value("retort_registry_up"), world.follower.alias_found, world.follower.named) == (0, True, "2")


def test_a_model_that_was_deleted_switches_a_canary_off(canary: World) -> None:
    assert [canary.poll("2"), canary.poll(NoAlias("Registered Model with name=m not found"))] == ["2", None]
    assert (canary.value("retort_registry_up"), canary.follower.alias_found, canary.follower.named) == (1, False, None)


def test_artifacts_that_are_away_are_away_until_they_answer(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Though the registry answers at every poll."""
    world.faults["2"] = [Transient("S3 is away"), NoAnswer("S3 refuses"), NoAnswer("S3 refuses")]
    seen: list[bool] = []
    world.follower._observer = Seeing(seen)
    with caplog.at_level(logging.INFO):
        assert [world.poll("2") for _ in range(4)] == ["1", "1", "1", "2"]
    assert seen == [False, False, False, True]
    assert caplog.messages[:2] == ["keeping version 1: S3 is away", "keeping version 1: S3 refuses"]
    assert [message for message in caplog.messages if "answers again" in message] == ["the registry answers again"]


class Seeing(Metrics):
    """Remembers what it is told."""

    def __init__(self, seen: list[bool]) -> None:
        super().__init__()
        self.seen = seen

    def registry_is_up(self, reachable: bool) -> None:
        self.seen.append(reachable)


def test_a_number_that_names_other_bytes_now_is_another_version(world: World) -> None:
    anew = "0" * 64
    assert world.poll(f"1-{anew}") == "1"
    assert (world.models.current.digest, world.fetched, world.kept) == (anew, ["1"], ["1"])
    world.faults["2"] = [BadArtifact("altered")]
    assert [world.poll("2"), world.poll("2"), world.poll(f"2-{anew}")] == ["1", "1", "2"]


def test_a_canary_of_a_version_that_was_taken_out_of_service_is_off_and_says_why(
    canary: World, caplog: pytest.LogCaptureFixture
) -> None:
    main = Lane(MAIN, canary.models, model="m")
    main.refused = Refused(canary.named("2"), "version 2 failed on 50 of its last 50 requests", taken_out=True)
    canary.lane.others = [main]
    assert [canary.poll("3"), canary.poll("2"), canary.poll("2")] == ["3", None, None]
    told = "no canary: version 2 is quarantined: version 2 failed on 50 of its last 50 requests"
    assert (caplog.messages, canary.follower.trouble, canary.fetched) == ([told], told, ["3"])
    main.forgive()
    assert (canary.poll("2"), canary.follower.trouble) == ("2", "")


def test_why_the_lane_has_not_what_its_alias_names_is_known(world: World) -> None:
    world.faults["2"] = [BadArtifact("altered")]
    for _ in range(2):
        world.poll("2")
        assert world.follower.trouble == "keeping version 1; version 2 is refused: altered"
    world.poll("3")
    assert world.follower.trouble == ""


def test_a_canary_that_is_the_version_in_service_is_off(canary: World) -> None:
    assert [canary.poll("1"), canary.poll("2")] == [None, "2"]
    canary.models.put(MAIN, again(canary.first, version="2"))
    assert canary.poll("2") is None
    assert canary.fetched == ["2"]


def test_what_the_alarm_chose_is_kept_as_well(world: World) -> None:
    old = world.lane.current
    assert old is not None
    world.poll("2")
    world.models.put(MAIN, old)
    world.lane.refuse(world.named("2"), why="it fails")
    world.poll("2")
    assert world.kept == ["2", "1"]


def test_the_thread_polls_until_stopped_and_outlives_a_bug(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.version = ZeroDivisionError("a bug in a registry")
    world.follower.start()
    until(lambda: bool(caplog.messages))
    world.version = "2"
    until(lambda: world.models.current.version == "2")
    world.follower.stop()
    assert caplog.messages[0] == "following the alias failed in an unexpected way; keeping the version in service"


def test_an_alarm_is_heeded_while_the_registry_keeps_the_follower_waiting(world: World) -> None:
    seen: list[str] = []
    asked, answer = threading.Event(), threading.Event()

    def find() -> Named:
        asked.set()
        assert answer.wait(10)
        return world.named("1")

    world.follower._find = find
    world.lane.check = lambda: seen.append(threading.current_thread().name)  # type: ignore[method-assign]
    world.follower.start()
    assert asked.wait(10)
    world.lane.on_alarm()
    until(lambda: len(seen) == 1)
    world.lane.on_alarm()
    until(lambda: len(seen) == 2)
    world.follower.stop()
    answer.set()
    for thread in world.follower._threads:
        thread.join(10)
    assert seen == ["alarm", "alarm"]
    assert not any(thread.is_alive() for thread in world.follower._threads)


def test_a_lane_without_a_version_is_looked_after_at_once(canary: World) -> None:
    canary.follower._interval_s = 3600.0
    canary.version = "2"
    canary.follower.start()
    until(lambda: canary.models.at(CANARY) is not None)
    canary.follower.stop()


def test_polls_are_five_seconds_apart_give_or_take_a_fifth(first: Live) -> None:
    lane = Lane(MAIN, Models(first), model="m")
    follower = Follower(lane, find=lambda: Named("1", first.digest), fetch=lambda _: first, observer=Metrics())
    pauses = [follower._interval_s * follower._jitter() for _ in range(200)]
    assert 4.0 <= min(pauses) < 4.5
    assert 5.5 < max(pauses) <= 6.0
