"""A coroutine without a task: what it may wait for, and how it is ended."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from serving.steps import Steps

NAME: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")


def stepped(coroutine: Coroutine[Any, None, None], then: Callable[[Steps], Awaitable[None]]) -> None:
    async def main() -> None:
        steps = Steps(coroutine, loop=asyncio.get_running_loop())
        await then(steps)

    asyncio.run(main())


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_it_is_begun_at_once_and_goes_on_when_what_it_waits_for_is_there() -> None:
    told: list[str] = []
    waiting: list[asyncio.Future[str]] = []

    async def run() -> None:
        told.append("begun")
        waiting.append(asyncio.get_running_loop().create_future())
        told.append(await waiting[0])
        await asyncio.sleep(0)
        told.append("behind a turn of the loop")
        told.append(await asyncio.create_task(asyncio.sleep(0, "behind a task")))

    async def then(steps: Steps) -> None:
        steps.begin()
        assert told == ["begun"]
        waiting[0].set_result("waited")
        await asyncio.sleep(0.05)
        assert told == ["begun", "waited", "behind a turn of the loop", "behind a task"]

    stepped(run(), then)


def test_it_is_in_no_register_of_tasks() -> None:
    async def run() -> None:
        assert asyncio.current_task() is None or asyncio.current_task() in before
        await asyncio.get_running_loop().create_future()

    before: set[Any] = set()

    async def then(steps: Steps) -> None:
        before.update(asyncio.all_tasks())
        steps.begin()
        assert asyncio.all_tasks() == before
        steps.cancel()
        await settled()

    stepped(run(), then)


def test_what_it_waits_for_may_fail() -> None:
    told: list[str] = []

    async def run() -> None:
        failing = asyncio.get_running_loop().create_future()
        failing.set_exception(ValueError("no"))
        try:
            await failing
        except ValueError as error:
            told.append(str(error))

    async def then(steps: Steps) -> None:
        steps.begin()
        await settled()

    stepped(run(), then)
    assert told == ["no"]


def test_cancelled_it_ends_where_it_waits_and_may_tidy_up() -> None:
    told: list[str] = []

    async def run() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            told.append("cancelled")
            await asyncio.sleep(0)
            told.append("tidy")
            raise

    async def then(steps: Steps) -> None:
        steps.begin()
        steps.cancel()
        await settled()
        steps.cancel()  # it has ended
        await settled()

    stepped(run(), then)
    assert told == ["cancelled", "tidy"]


def test_cancelled_when_what_it_waited_for_is_there_it_ends_all_the_same() -> None:
    told: list[str] = []
    waiting: list[asyncio.Future[None]] = []

    async def run() -> None:
        waiting.append(asyncio.get_running_loop().create_future())
        try:
            await waiting[0]
            told.append("went on")
        except asyncio.CancelledError:
            told.append("cancelled")

    async def then(steps: Steps) -> None:
        steps.begin()
        waiting[0].set_result(None)
        steps.cancel()
        await settled()

    stepped(run(), then)
    assert told == ["cancelled"]


@pytest.mark.parametrize("turn", [False, True])
def test_cancelled_while_it_waits_for_nothing_it_ends_where_it_next_waits(turn: bool) -> None:
    told: list[str] = []
    mine: list[Steps] = []

    async def run() -> None:
        mine[0].cancel()
        try:
            await (asyncio.sleep(0) if turn else asyncio.get_running_loop().create_future())
            told.append("went on")
        except asyncio.CancelledError:
            told.append("cancelled")

    async def then(steps: Steps) -> None:
        mine.append(steps)
        steps.begin()
        await settled()

    stepped(run(), then)
    assert told == ["cancelled"]


def test_each_has_its_own_context_from_its_begin_to_its_end() -> None:
    told: list[str] = []

    async def run(name: str, waits_for: "asyncio.Future[None]") -> None:
        NAME.set(name)
        await waits_for
        told.append(NAME.get())
        await asyncio.sleep(0)
        told.append(NAME.get())

    async def main() -> None:
        loop = asyncio.get_running_loop()
        waits = [loop.create_future(), loop.create_future()]
        for name, waits_for in zip(("first", "second"), waits, strict=True):
            Steps(run(name, waits_for), loop=loop).begin()
        for waits_for in waits:
            waits_for.set_result(None)
        await settled()
        told.append(NAME.get())

    asyncio.run(main())
    assert told == ["first", "second", "first", "second", "nobody"]


def test_a_bug_in_it_is_told_by_the_loop_and_ends_it_alone() -> None:
    told: list[str] = []

    async def run() -> None:
        await asyncio.sleep(0)
        raise ValueError("a bug")

    async def then(steps: Steps) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(str(context["exception"])))
        steps.begin()
        await settled()

    stepped(run(), then)
    assert told == ["a bug"]
