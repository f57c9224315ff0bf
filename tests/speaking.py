"""A real server in this process, on a free port, in its thread, for clients of every kind."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fakes import tiny_bundle

from serving.app import Guard, Open, build
from serving.batcher import Batcher
from serving.connections import Connections
from serving.desk import Desk
from serving.engine import Given
from serving.front import Front
from serving.listening import address_of, bind, listen
from serving.metrics import OUTCOMES, Metrics
from serving.models import Live, Models, Served, load
from serving.registry import Resolved

WAIT_S = 20


@dataclass
class Speaking:
    """A server that answers; the test may hold its executor up."""

    desk: Desk
    live: Live
    host: str
    gate: threading.Event
    entered: threading.Semaphore
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def run(self, coroutine: Any) -> Any:
        """Have the server's loop run it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(WAIT_S)

    def hold(self) -> None:
        """From now on the executor stops before each batch."""
        while self.entered.acquire(blocking=False):
            pass
        self.gate.clear()

    def until_held(self) -> None:
        assert self.entered.acquire(timeout=WAIT_S)

    def counts(self) -> dict[str, float]:
        """The outcomes that happened; checks that they add up."""
        value = self.desk.metrics.registry.get_sample_value
        found = {outcome: value("retort_requests_total", {"outcome": outcome}) or 0 for outcome in OUTCOMES}
        assert value("retort_requests_accepted_total") == sum(found.values())
        assert value("retort_requests_in_flight") == 0
        found["rejected"] = value("retort_requests_rejected_total") or 0
        return {outcome: count for outcome, count in found.items() if count}


def tiny_live(path: Path, *, version: str = "7", **options: Any) -> Live:
    """A tiny bundle, loaded as version `version` of the model m."""
    bundle = tiny_bundle(path, **{"max_items": 4, **options})
    return load(Resolved(path=path, name="m", version=version, digest=bundle.digest), threads=1)


@contextlib.contextmanager
def speaking(
    live: Live, *, limit: int = 64, guard: Guard | None = None, around: Callable[[Any], Any] = lambda app: app
) -> Iterator[Speaking]:
    """Serve this model until the end of the block; `around` may put something between server and application."""
    gate, entered, models = threading.Event(), threading.Semaphore(0), Models(live)
    gate.set()

    def answer(lane: str, jobs: Sequence[Sequence[Given]]) -> Sequence[Served | Exception]:
        entered.release()
        assert gate.wait(WAIT_S)
        return models.answer_jobs(lane, jobs)

    batcher: Batcher[Served] = Batcher(answer, executors=1, limit=limit, max_wait_s=60.0)
    desk, ready, loops = Desk(models, batcher, Metrics()), threading.Event(), Loops()
    with bind("127.0.0.1", 0) as listener:
        listen(listener)
        front = Front(
            Connections(around(build(desk, guard=guard or Open()))),
            listener=listener,
            others=loops.start,
            ready=ready.set,
            ended=ready.set,
        )
        front.start()
        assert ready.wait(WAIT_S)
        try:
            yield Speaking(desk, live, address_of(listener).removeprefix("http://"), gate, entered, loops.found[0])
        finally:
            gate.set()
            front.stop()
            front.join(WAIT_S)
            batcher.close()


class Loops:
    """Another protocol as the server starts it, which only looks in which loop."""

    def __init__(self) -> None:
        self.found: list[asyncio.AbstractEventLoop] = []

    async def start(self) -> "Loops":
        self.found.append(asyncio.get_running_loop())
        return self

    async def stop(self, grace_s: float) -> None:
        """Nothing was begun."""

    async def ended(self) -> None:
        """Never by itself."""
        await asyncio.Event().wait()
