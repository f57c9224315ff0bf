import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import tiny_bundle

from serving.errors import BadArtifact, BadRequest, Transient
from serving.instances import Varies
from serving.metrics import Metrics
from serving.models import Follower, Live, Models, load
from serving.registry import Resolved
from serving.tuning import Setting, Together, plain


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Live:
    bundle = tiny_bundle(tmp_path_factory.mktemp("bundle"))
    return load(Resolved(path=bundle.path, name="m", version="1", digest=bundle.digest), threads=1)


class World:
    """A registry whose alias the test moves, and a follower of it."""

    def __init__(self, first: Live) -> None:
        self.first = first
        self.version: str | Exception = "1"
        self.faults: dict[str, Exception] = {}
        self.fetched: list[str] = []
        self.models = Models(first)
        self.metrics = Metrics()
        self.follower = Follower(self.models, find=self.find, fetch=self.fetch, observer=self.metrics, interval_s=0.001)

    def find(self) -> str:
        if isinstance(self.version, Exception):
            raise self.version
        return self.version

    def fetch(self, version: str) -> Live:
        self.fetched.append(version)
        if version in self.faults:
            raise self.faults[version]
        return Live(engine=self.first.engine, name="m", version=version, digest="d" * 64)

    def poll(self, version: str | Exception) -> str:
        """Move the alias and look; the version that serves then."""
        self.version = version
        self.follower.poll()
        return self.models.current.version

    def value(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name)


@pytest.fixture
def world(first: Live) -> World:
    return World(first)


def test_a_loaded_model_is_named_and_answers(first: Live) -> None:
    served = Models(first).answer([("good",)])
    assert served.live.identity() == {"name": "m", "version": "1", "digest": first.engine.bundle.digest}
    assert served.results[0]["label"] == "positive"
    assert served.answer.scores[0].argmax() == 1


def test_a_model_that_fails_its_golden_inputs_is_not_loaded(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, golden_error=1.0)
    with pytest.raises(BadArtifact, match=r"golden input \d is off by 1 on this machine"):
        load(Resolved(path=tmp_path, name="m", version="1", digest=bundle.digest), threads=1)


def test_a_model_is_run_as_it_is_chosen_to_be(first: Live) -> None:
    resolved, seen = resolved_of(first), []
    setting = Setting(sessions=2, threads=1, executors=2)
    live = load(resolved, choose=lambda bundle: (seen.append(bundle.digest), setting)[1])
    assert (live.setting, seen) == (setting, [first.digest])
    assert first.setting == plain(1)


def test_items_together_are_left_alone_where_that_would_move_answers(
    first: Live, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moves(engine: object, *, most: int) -> None:
        raise Varies(f"{most} together move an answer")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr("serving.instances.require_invariance", moves)
    live = load(resolved_of(first), choose=lambda _: Setting(executors=2, batch=Together(items=4)))
    assert live.setting == Setting(executors=2)
    assert caplog.messages == ["each item is computed alone: 4 together move an answer"]


def resolved_of(live: Live) -> Resolved:
    return Resolved(path=live.engine.bundle.path, name="m", version="1", digest=live.digest)


def test_an_alias_that_stays_fetches_nothing(world: World) -> None:
    assert world.poll("1") == "1"
    assert world.fetched == []


def test_an_alias_that_moves_is_followed_there_and_back(world: World) -> None:
    assert world.poll("2") == "2"
    assert world.poll("1") == "1"
    assert world.value("retort_model_swaps_total") == 2
    labels = {"name": "m", "version": "1", "digest": "d" * 64}
    assert world.metrics.registry.get_sample_value("retort_model_info", labels) == 1


@pytest.mark.parametrize("fault", [BadArtifact("altered"), ZeroDivisionError("a bug in a model")])
def test_a_version_that_fails_is_quarantined_and_the_old_one_serves_on(
    world: World, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    world.faults["2"] = fault
    with caplog.at_level(logging.WARNING):
        assert [world.poll("2"), world.poll("2")] == ["1", "1"]
    assert world.fetched == ["2"]
    assert world.value("retort_model_versions_refused_total") == 1
    assert caplog.messages == [f"keeping version 1; version 2 is refused: {fault}"]


def test_quarantine_ends_when_the_alias_moves(world: World) -> None:
    world.faults["2"] = BadArtifact("altered")
    world.poll("2")
    assert world.poll("3") == "3"
    del world.faults["2"]
    assert world.poll("2") == "2"


def test_a_registry_that_is_away_keeps_the_version_and_says_so(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert world.poll(Transient("registry http://r cannot be reached")) == "1"
    assert world.value("retort_registry_up") == 0
    assert caplog.messages == ["keeping version 1: registry http://r cannot be reached"]
    assert world.poll("2") == "2"
    assert world.value("retort_registry_up") == 1


def test_a_download_cut_short_is_tried_again(world: World) -> None:
    world.faults["2"] = Transient("cut short")
    assert world.poll("2") == "1"
    assert world.value("retort_registry_up") == 0
    world.faults.clear()
    assert world.poll("2") == "2"


def test_an_alias_that_was_deleted_keeps_the_version(world: World) -> None:
    assert world.poll(BadRequest("model m has no alias champion; it has: none")) == "1"
    assert world.value("retort_registry_up") == 1


def test_the_thread_polls_until_stopped_and_outlives_a_bug(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.version = ZeroDivisionError("a bug in a registry")
    world.follower.start()
    _until(lambda: bool(caplog.messages))
    world.version = "2"
    _until(lambda: world.models.current.version == "2")
    world.follower.stop()
    assert caplog.messages[0] == "following the alias failed in an unexpected way; keeping the version in service"


def test_polls_are_five_seconds_apart_give_or_take_a_fifth(first: Live) -> None:
    follower = Follower(Models(first), find=lambda: "1", fetch=lambda version: first, observer=Metrics())
    pauses = [follower._interval_s * follower._jitter() for _ in range(200)]
    assert 4.0 <= min(pauses) < 4.5
    assert 5.5 < max(pauses) <= 6.0


def _until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(1000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not happen within 10 s")
