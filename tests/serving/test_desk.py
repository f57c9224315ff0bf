"""The desk between protocols and queue: slices, signs of life, deadlines."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes import tiny_bundle

from serving.batcher import Batcher
from serving.costs import Costs
from serving.desk import Desk
from serving.engine import Given, Tokens
from serving.errors import BadRequest
from serving.lanes import CANARY, MAIN
from serving.long_texts import Refuse
from serving.metrics import Metrics
from serving.models import PROBE, Live, Models, Served, load
from serving.registry import Resolved
from serving.server import rehearse
from serving.tickets import Expired
from serving.windows import TooLong

WAIT_S = 10
ITEM = Costs(call_s=0.01, token_s=0.0)


def live(path: Path, **options: Any) -> Live:
    bundle = tiny_bundle(path, **options)
    return load(Resolved(path=path, name="m", version="7", digest=bundle.digest), threads=1)


class Counter:
    """A desk whose calls are written down, and may be held up."""

    def __init__(self, model: Live, *, max_wait_s: float = 0.06) -> None:
        self.models = Models(model)
        self.calls: list[tuple[str, int]] = []
        self.before: Callable[[], None] = lambda: None
        self.open = threading.Event()
        self.open.set()
        batcher = Batcher(self._answer, executors=1, limit=9, costs=ITEM, max_wait_s=max_wait_s)
        self.desk = Desk(self.models, batcher, Metrics())

    def _answer(self, lane: str, jobs: Sequence[Sequence[Given]]) -> Sequence[Served | Exception]:
        self.calls.append((lane, sum(map(len, jobs))))
        self.before()
        assert self.open.wait(WAIT_S)
        return self.models.answer_jobs(lane, jobs)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return live(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def counter(model: Live) -> Iterator[Counter]:
    counter = Counter(model)
    yield counter
    counter.open.set()
    counter.desk.batcher.close()


def run(script: Coroutine[Any, Any, Any]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(script, WAIT_S)

    return asyncio.run(bounded())


def test_a_request_that_would_hold_an_executor_for_long_is_cut_and_answered_whole(counter: Counter) -> None:
    items = [("good",), ("bad",)] * 4
    done = run(counter.desk.ask(items))
    assert counter.calls == [("", 3), ("", 3), ("", 2)], "30 ms a call: half of what others may wait"
    assert [one["label"] for one in done.result.results] == ["positive", "negative"] * 4
    assert len(done.result.answer.scores) == 8
    assert done.result.answer.infer_ms > 0


def test_others_take_their_turn_between_slices(counter: Counter) -> None:
    async def script() -> None:
        long = asyncio.create_task(counter.desk.ask([("good",)] * 6))
        while not counter.calls:
            await asyncio.sleep(0.001)
        short = asyncio.create_task(counter.desk.ask([("bad",)]))
        while not counter.desk.batcher.waiting:
            await asyncio.sleep(0.001)
        counter.open.set()
        await asyncio.gather(long, short)

    counter.open.clear()
    run(script())
    assert counter.calls == [("", 3), ("", 1), ("", 3)]


def test_an_answer_is_of_one_model_although_another_came_between_its_slices(counter: Counter, tmp_path: Path) -> None:
    other = live(tmp_path, bias=20.0)

    def swap() -> None:
        if len(counter.calls) == 2:
            counter.models.current = other

    counter.before = swap
    done = run(counter.desk.ask([("good",)] * 6))
    assert [one["label"] for one in done.result.results] == ["negative"] * 6
    assert done.result.live is other
    assert [count for _, count in counter.calls] == [3, 3, 3, 3]


def test_an_item_that_cannot_be_read_is_named_by_its_place_in_the_request(counter: Counter) -> None:
    items: list[Given] = [("good",)] * 4 + [("good", "bad")] + [("good",)] * 3
    with pytest.raises(BadRequest) as refused:
        run(counter.desk.ask(items))
    assert str(refused.value) == "item 4 has 2 text(s); this model takes 1 per item"
    assert [count for _, count in counter.calls] == [3, 3], "it was in the second slice"


def test_a_text_that_is_too_long_is_named_by_its_place_in_the_request(tmp_path: Path) -> None:
    counter = Counter(live(tmp_path, long_texts=Refuse()))
    try:
        with pytest.raises(TooLong) as refused:
            run(counter.desk.ask([*[("good",)] * 7, ("good " * 30,)]))
    finally:
        counter.desk.batcher.close()
    assert str(refused.value) == "item 7 has 32 tokens, more than the 16 this model reads; shorten it"


def test_ids_are_looked_at_before_any_is_computed(counter: Counter) -> None:
    right, wrong = Tokens([2, 5, 3], [0, 0, 0]), Tokens([2, 999, 3], [0, 0, 0])
    with pytest.raises(BadRequest) as refused:
        run(counter.desk.ask([right] * 7 + [wrong]))
    assert str(refused.value) == "item 7 has the token id 999; this model's are 0 to 10"
    assert counter.calls == []


def test_a_lane_s_own_sign_of_life_is_not_shared_with_another_s(counter: Counter) -> None:
    async def script() -> None:
        await asyncio.gather(*(counter.desk.probe(lane) for lane in (MAIN, CANARY) * 50))

    run(script())
    assert sorted(counter.calls) == [(PROBE, 1), (PROBE + CANARY, 1)]


def test_a_server_has_its_executors_answer_before_anybody_asks_and_counts_nobody_for_it(counter: Counter) -> None:
    before = counter.models.current.tally.rate
    rehearse(counter.desk, within_s=WAIT_S)
    assert counter.calls == [(PROBE, 1)] * 20
    assert counter.models.current.tally.rate == before


def test_a_model_that_is_slow_to_answer_holds_up_no_start(counter: Counter) -> None:
    counter.open.clear()
    begun_s = time.monotonic()
    rehearse(counter.desk, within_s=0.1)
    assert 0.1 <= time.monotonic() - begun_s < WAIT_S
    counter.open.set()
    assert counter.calls == [(PROBE, 1)]


def test_who_asks_for_a_sign_of_life_while_one_is_under_way_shares_it(counter: Counter) -> None:
    async def script() -> None:
        await asyncio.gather(*(counter.desk.probe() for _ in range(200)))
        await counter.desk.probe()  # soon after

    run(script())
    assert counter.calls == [(PROBE, 1)]


def test_signs_of_life_of_a_slow_model_take_a_small_part_of_an_executor(counter: Counter) -> None:
    """However often they are asked for."""

    async def script() -> float:
        await counter.desk.probe()
        asked_s = time.monotonic()
        while len(counter.calls) == 1:
            await counter.desk.probe()
            await asyncio.sleep(0.01)
        return time.monotonic() - asked_s

    counter.before = lambda: time.sleep(0.05)
    assert 0.9 < run(script()) < 3


def test_a_sign_of_life_that_waited_for_an_executor_took_no_more_of_it(counter: Counter) -> None:
    async def script() -> float:
        asked = asyncio.create_task(counter.desk.ask([("good",)]))
        while not counter.calls:
            await asyncio.sleep(0.001)
        await counter.desk.probe()
        await asked
        return max(sign.fresh_s for sign in counter.desk._signs.values())

    counter.before = lambda: time.sleep(0.5 if len(counter.calls) == 1 else 0)
    assert run(script()) < 5


def test_a_sign_of_life_that_failed_is_told_to_all_who_wait_for_it(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    counter.before = broken

    async def script() -> list[Any]:
        return await asyncio.gather(*(counter.desk.probe() for _ in range(3)), return_exceptions=True)

    assert [type(each) for each in run(script())] == [ZeroDivisionError] * 3
    counter.before = lambda: None
    monkeypatch.setattr("serving.desk.PROBE_FRESH_S", 0.0)
    run(counter.desk.probe())


def test_a_client_whose_time_is_up_is_told_although_its_work_is_not_done(counter: Counter) -> None:
    async def script() -> None:
        with pytest.raises(Expired, match="the request's time was up before its answer was there"):
            await counter.desk.ask([("good",)], expires_s=counter.desk.clock() + 0.05)
        counter.open.set()

    counter.open.clear()
    run(script())


def test_what_passed_before_the_deadline_was_read_counts(counter: Counter) -> None:
    now_s = counter.desk.clock()
    assert counter.desk.deadline("1000", passed_s=0.25) == pytest.approx(now_s + 0.75, abs=0.05)
