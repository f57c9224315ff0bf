import asyncio
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from live_versions import GOOD, WAIT_S, again, loaded, until

from serving.batcher import Batcher
from serving.costs import Costs
from serving.desk import Desk
from serving.engine import Tokens
from serving.errors import BadArtifact, BadRequest
from serving.lanes import CANARY, MAIN, SHADOW
from serving.long_texts import Refuse
from serving.metrics import Metrics
from serving.models import Live, Models, Served
from serving.queueing import ASIDE
from serving.tallies import Cut, Part, Rate
from serving.tickets import Ticket
from serving.traffic import Canary, Traffic, parse_canary

ITEM = Costs(call_s=0.01, token_s=0.0)
IDS = Tokens(ids=[2, 5, 3], type_ids=[0, 0, 0])


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return loaded(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Live:
    """Says negative to everything."""
    return loaded(tmp_path_factory.mktemp("other"), version="2", bias=20.0)


class World:
    """A desk with a router; the test may hold up the executor. With `slices` every item is a slice."""

    def __init__(self, live: Live, *, slices: bool = False, **options: Any) -> None:
        self.models = Models(again(live, version="1"))
        self.open = threading.Event()
        self.open.set()
        self.asked: list[str] = []

        def answer(lane: str, jobs: Any) -> Any:
            assert self.open.wait(WAIT_S)
            self.asked.append(lane)
            return self.models.answer_jobs(lane, jobs)

        how: dict[str, Any] = {"costs": ITEM, "max_wait_s": ITEM.call_s} if slices else {"max_wait_s": 60.0}
        self.batcher: Batcher[Served] = Batcher(answer, executors=1, limit=1000, **how)
        self.traffic = Traffic(self.models, self.batcher, **options)
        self.desk = Desk(self.models, self.batcher, Metrics(), router=self.traffic)

    def ask(self, *jobs: Any) -> list[str]:
        """Have the jobs answered, each after the other; the versions that did."""

        async def run() -> list[str]:
            return [(await self.desk.ask(job)).result.live.version for job in jobs]

        return asyncio.run(asyncio.wait_for(run(), WAIT_S))

    def until_compared(self, count: int) -> dict[str, object]:
        until(lambda: self.traffic.state()["compared"] == count)
        return self.traffic.state()


Make = Callable[..., World]


@pytest.fixture
def make(first: Live) -> Iterator[Make]:
    made: list[World] = []

    def make(**options: Any) -> World:
        made.append(World(first, **options))
        return made[-1]

    yield make
    for world in made:
        world.open.set()
        world.batcher.close()


@pytest.mark.parametrize("told", ["@challenger=5%", "models:/m@challenger=5%", "@a=b=5.0%"])
def test_a_canary_is_an_alias_and_a_share(told: str) -> None:
    assert parse_canary(told) == Canary(told.rpartition("=")[0], 0.05)


@pytest.mark.parametrize(
    "told", ["@challenger", "@challenger=5", "@challenger=0%", "@challenger=101%", "=5%", "@c=-1%"]
)
def test_what_is_no_share_is_refused(told: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_canary(told)
    assert str(refused.value) == (
        f"--canary {told} is no share of the requests; write @ALIAS=PERCENT%, e.g. @challenger=5%"
    )


def test_the_canary_answers_its_share_and_says_so(make: Make, other: Live) -> None:
    world = make(share=0.05)
    world.models.put(CANARY, other)
    assert Counter(world.ask(*[GOOD] * 400)) == {"1": 380, "2": 20}


@pytest.mark.parametrize("share", [0.001, 0.05, 1 / 3, 0.5, 1.0])
@pytest.mark.parametrize("step", [1, 2, 3, 5, 8, 20])
def test_the_share_is_exact_and_in_step_with_no_client(make: Make, other: Live, share: float, step: int) -> None:
    """Every `step`-th request is one client's."""
    world = make(share=share)
    world.models.put(CANARY, other)
    lanes = [world.traffic.lane() for _ in range(20_000)]
    mine = lanes[::step]
    assert lanes.count(CANARY) == pytest.approx(share * len(lanes), abs=3)
    assert mine.count(CANARY) == pytest.approx(share * len(mine), abs=8)


def test_a_canary_that_is_off_or_does_another_task_answers_nothing(make: Make, tmp_path: Path) -> None:
    world = make(share=1.0)
    assert world.ask(GOOD) == ["1"]
    world.models.put(CANARY, loaded(tmp_path, version="2", task="multi-label"))
    assert world.ask(GOOD) == ["1"]


def test_token_ids_are_of_the_model_in_service(make: Make, other: Live) -> None:
    world = make(share=1.0, shadowed=True)
    for lane in (CANARY, SHADOW):
        world.models.put(lane, other)
    assert world.traffic.lane([IDS]) not in (MAIN, CANARY, SHADOW)
    assert world.ask([IDS]) == ["1"]
    assert world.traffic.lane(GOOD) == CANARY


def test_token_ids_are_never_computed_by_a_model_of_another_vocabulary(make: Make, first: Live, other: Live) -> None:
    """As another version comes while they wait."""
    world = make()
    lane = world.traffic.lane([IDS])
    world.models.put(MAIN, again(other, version="2"))
    (served,) = world.models.answer_jobs(lane, [[IDS]])
    assert isinstance(served, Served)
    world.models.put(MAIN, replace(again(first, version="3"), vocabulary="of other words"))
    (refused,) = world.models.answer_jobs(lane, [[IDS]])
    assert f"{type(refused).__name__}: {refused}" == (
        "BadRequest: version 3 came into service while this request waited, and its token ids are others; send it "
        "again with those of its tokenizer"
    )
    assert (world.models.current.tally.rate, world.models.current.tally.told().refused) == (Rate(0, 0), 1)
    assert world.ask([IDS], GOOD) == ["3", "3"]


def test_a_canary_of_other_limits_refuses_nobody_and_the_log_says_so_once(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = make(share=1.0, shadowed=True)
    narrow = loaded(tmp_path, version="2", max_length=10, long_texts=Refuse())
    for lane in (CANARY, SHADOW):
        world.models.put(lane, narrow)
    long = [("good " * 12,)]
    assert world.ask(long, GOOD) == ["1", "1"]
    assert caplog.messages == [
        "canary version 2 is given no requests beside 1: its max_length, long_texts in serving.yaml are other"
    ]
    assert world.until_compared(1)["agreed"] == 1  # what the shadow refuses is compared with nothing


def test_what_waits_for_the_shadow_keeps_no_model_in_memory(make: Make, other: Live) -> None:
    world = make(shadowed=True)
    world.models.put(SHADOW, other)
    (served,) = world.models.answer_jobs(MAIN, [GOOD])
    assert isinstance(served, Served)
    seen: list[Any] = []
    world.batcher.queue.put_aside = lambda ticket: seen.append(ticket.note)  # type: ignore[method-assign, assignment]
    ticket = world.batcher.submit(GOOD, done=lambda _: None)
    ticket.result = served
    world.traffic.answered(ticket)
    assert not any(isinstance(each, Live | Served) for each in seen[0])


def test_embeddings_are_compared_by_their_cosine(make: Make, tmp_path: Path) -> None:
    world = make(shadowed=True)
    world.models.put(MAIN, loaded(tmp_path / "one", task="embedding"))
    world.models.put(SHADOW, loaded(tmp_path / "other", version="2", task="embedding", bias=3.0))
    assert world.ask([("good",), ("bad",)]) == ["1"]
    state = world.until_compared(2)
    assert (state["measure"], state["agreement"]) == ("cosine", None)
    assert 0 < state["worst"] < state["mean"] < 1  # type: ignore[operator]


def test_the_shadow_is_shown_what_was_answered_and_compared(make: Make, other: Live) -> None:
    world = make(shadowed=True)
    world.models.put(SHADOW, other)
    assert world.ask(GOOD, [("bad",), ("good",)]) == ["1", "1"]
    state = world.until_compared(3)
    assert (state["agreed"], state["agreement"], state["measure"], state["dropped"]) == (1, 1 / 3, "kl", 0)
    assert state["main"]["version"] == "1"  # type: ignore[index]
    assert state["shadow"]["version"] == "2"  # type: ignore[index]
    assert 0 < state["mean"] < state["worst"]  # type: ignore[operator]
    assert other.tally.rate.requests >= 2


def test_the_shadow_waits_until_nobody_else_does(make: Make, other: Live) -> None:
    world = make(shadowed=True)
    world.models.put(SHADOW, other)

    async def run() -> None:
        world.open.clear()
        waiting = [asyncio.ensure_future(world.desk.ask(GOOD)) for _ in range(5)]
        await asyncio.sleep(0.05)
        world.open.set()
        await asyncio.gather(*waiting)

    asyncio.run(run())
    world.until_compared(5)
    assert world.asked == [MAIN] * 5 + [SHADOW] * 5


def test_what_the_shadow_has_no_time_for_is_dropped_and_counted(make: Make, other: Live) -> None:
    world = make(shadowed=True)
    world.models.put(SHADOW, other)

    async def run() -> None:
        (served,) = world.models.answer_jobs(MAIN, [GOOD])
        world.open.clear()
        ticket = world.batcher.submit(GOOD, done=lambda _: None)
        until(lambda: world.batcher.waiting == 0)
        ticket.result = served  # type: ignore[assignment]
        for _ in range(ASIDE + 7):
            world.traffic.answered(ticket)

    asyncio.run(run())
    assert world.traffic.dropped == 7
    world.traffic.forget()
    world.open.set()
    world.batcher.close()
    assert SHADOW not in world.asked


def test_a_shadow_that_fails_is_counted_and_compared_with_nothing(make: Make, other: Live) -> None:
    world = make(shadowed=True)
    broken = again(other, version="2", fault=BadArtifact("broken"))
    world.models.put(SHADOW, broken)
    assert world.ask(GOOD) == ["1"]
    until(lambda: broken.tally.rate.errors == 1)
    assert world.traffic.state()["compared"] == 0


def test_a_shadow_that_was_switched_off_meanwhile_is_not_compared(make: Make, other: Live) -> None:
    world = make(shadowed=True)
    world.models.put(SHADOW, other)
    world.ask(GOOD)
    world.until_compared(1)
    world.open.clear()
    (served,) = world.models.answer_jobs(MAIN, [GOOD])
    ticket = world.batcher.submit(GOOD, done=lambda _: None)
    ticket.result = served  # type: ignore[assignment]
    world.traffic.answered(ticket)
    world.models.put(SHADOW, None)
    world.open.set()
    until(lambda: world.asked.count(SHADOW) == 2)
    world.batcher.close()
    assert world.traffic.state()["compared"] == 1
    assert world.traffic.state()["shadow"]["version"] == "2"  # type: ignore[index]


def test_the_comparison_begins_anew_with_another_version(make: Make, other: Live) -> None:
    world = make(shadowed=True)
    world.models.put(SHADOW, other)
    world.ask(GOOD, GOOD)
    world.until_compared(2)
    world.models.put(SHADOW, again(other, version="3"))
    world.ask(GOOD)
    assert world.until_compared(1)["shadow"]["version"] == "3"  # type: ignore[index]


def test_nothing_is_shown_where_there_is_no_shadow(make: Make) -> None:
    world = make()
    world.ask(GOOD)
    assert world.asked == [MAIN]
    state = world.traffic.state()
    assert (state["compared"], state["main"], state["agreement"]) == (0, None, None)


def test_a_request_in_slices_is_one_request_of_its_version_and_of_the_shadow(make: Make, other: Live) -> None:
    world = make(slices=True, shadowed=True)
    shadow = again(other, version="2")
    world.models.put(SHADOW, shadow)
    assert world.ask([("good",)] * 4) == ["1"]
    world.until_compared(4)
    assert world.asked == [MAIN] * 4 + [SHADOW] * 4
    assert world.models.current.tally.rate == shadow.tally.rate == Rate(requests=1, errors=0)


def test_the_alarm_sees_a_share_of_requests_and_not_of_slices(make: Make, first: Live) -> None:
    """Half of the requests fail, each in its first slice."""
    world = make(slices=True)
    world.ask([("good",)] * 9)
    with pytest.raises(BadArtifact):
        world.ask([("poison",), ("good",), ("good",)])
    assert world.models.current.tally.recent(60) == Rate(requests=2, errors=1)


def test_a_request_in_slices_that_the_shadow_has_no_time_for_is_dropped_once(make: Make, other: Live) -> None:
    world = make(shadowed=True)
    world.models.put(SHADOW, other)
    (served,) = world.models.answer_jobs(MAIN, [GOOD])
    world.open.clear()
    request = Cut(ASIDE + 7)
    for place in range(ASIDE + 7):
        part = Part(GOOD, request=request, place=place)
        ticket: Ticket[Served] = Ticket(part, done=lambda _: None, expires_s=math.inf)
        ticket.result = served  # type: ignore[assignment]
        world.traffic.answered(ticket)
    assert world.traffic.dropped == 1


def test_a_version_that_was_promoted_is_not_compared_with_itself(make: Make, other: Live) -> None:
    """The shadow's alias named it first; the shadow's own poll comes later."""
    world = make(shadowed=True)
    promoted = again(other, version="2")
    world.models.put(SHADOW, promoted)
    world.ask(GOOD)
    world.until_compared(1)
    world.models.put(MAIN, promoted)
    world.traffic.forget()
    assert world.ask(GOOD, GOOD) == ["2", "2"]
    world.batcher.close()
    assert SHADOW not in world.asked[2:]
    assert world.traffic.state()["compared"] == 0


@pytest.mark.parametrize(("lane", "version"), [(SHADOW, None), (SHADOW, "3"), (MAIN, "3")])
def test_what_was_compared_is_forgotten_as_one_of_the_pair_leaves(
    make: Make, other: Live, lane: str, version: str | None
) -> None:
    world = make(shadowed=True)
    world.models.put(SHADOW, other)
    world.ask(GOOD)
    assert world.until_compared(1)["shadow"]["version"] == "2"  # type: ignore[index]
    world.models.put(lane, None if version is None else again(other, version=version))
    world.traffic.forget()
    state = world.traffic.state()
    assert (state["compared"], state["agreement"], state["main"], state["shadow"]) == (0, None, None, None)


@pytest.mark.parametrize("lane", [MAIN, SHADOW])
def test_a_copy_whose_pair_has_left_meanwhile_is_compared_with_nothing(
    make: Make, other: Live, tmp_path: Path, caplog: pytest.LogCaptureFixture, lane: str
) -> None:
    """The one that comes has other labels: answers of the two could not even be compared."""
    world = make(shadowed=True)
    world.models.put(SHADOW, other)
    (served,) = world.models.answer_jobs(MAIN, [GOOD])
    world.open.clear()
    ticket: Ticket[Served] = Ticket(GOOD, done=lambda _: None, expires_s=math.inf)
    ticket.result = served  # type: ignore[assignment]
    world.traffic.answered(ticket)
    world.models.put(lane, loaded(tmp_path, version="3", labels=("a", "b")))
    world.open.set()
    until(lambda: world.asked == [SHADOW])
    assert world.ask([IDS]) == [world.models.current.version]
    assert (world.traffic.state()["compared"], caplog.messages) == (0, [])
