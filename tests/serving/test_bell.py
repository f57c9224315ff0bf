"""How the loop hears that answers are there; tests/serving/test_desk.py has the rest of their way."""

import asyncio
import gc
import threading
from pathlib import Path
from typing import Any

import pytest

from serving.bell import Bell
from serving.tickets import Ticket

OPEN = Path("/proc/self/fd")


def ticket(bell: Bell) -> "Ticket[Any]":
    return Ticket([("a",)], done=bell.put, expires_s=1.0, note=bell.loop.create_future())


def opened() -> int:
    return len(list(OPEN.iterdir()))


def test_who_waits_goes_on_when_it_rings_and_not_before() -> None:
    async def main() -> None:
        bell = Bell(asyncio.get_running_loop())
        first, second = ticket(bell), ticket(bell)
        for each in (first, second):
            threading.Thread(target=each.tell).start()
        await asyncio.sleep(0.05)
        assert not first.note.done()
        threading.Thread(target=bell.ring).start()
        await asyncio.wait_for(asyncio.gather(first.note, second.note), 10)

    asyncio.run(main())


def test_who_waits_no_more_is_passed_over() -> None:
    async def main() -> None:
        bell = Bell(asyncio.get_running_loop())
        gone, there = ticket(bell), ticket(bell)
        gone.note.cancel()
        gone.tell()
        there.tell()
        bell.ring()
        await asyncio.wait_for(there.note, 10)

    asyncio.run(main())


def test_however_often_it_rings_unheard_nobody_waits_for_the_loop() -> None:
    async def main() -> None:
        bell = Bell(asyncio.get_running_loop())
        one = ticket(bell)
        one.tell()
        for _ in range(200_000):  # more than a pipe holds
            bell.ring()
        await asyncio.wait_for(one.note, 10)
        again = ticket(bell)
        again.tell()
        bell.ring()
        await asyncio.wait_for(again.note, 10)

    asyncio.run(main())


def test_rung_when_its_loop_is_closed_it_fails_nobody() -> None:
    made: list[tuple[Bell, Ticket[Any]]] = []

    async def main() -> None:
        bell = Bell(asyncio.get_running_loop())
        made.append((bell, ticket(bell)))

    asyncio.run(main())
    ((bell, late),) = made
    late.tell()
    bell.ring()
    assert not late.note.done()


@pytest.mark.skipif(not OPEN.is_dir(), reason="no /proc here to count what is open")
def test_it_leaves_nothing_open() -> None:
    async def main() -> None:
        Bell(asyncio.get_running_loop())

    asyncio.run(main())
    gc.collect()
    before = opened()
    for _ in range(5):
        asyncio.run(main())
    gc.collect()
    assert opened() <= before
