"""What every protocol calls: work comes in here, waits, is computed, and goes back to who asked.

A request that would hold an executor for long is cut into slices, between which others take their turn.
"""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from serving.bad_items import BadItem
from serving.batcher import Batcher
from serving.bell import Bell
from serving.engine import Given, Tokens
from serving.errors import BadRequest
from serving.metrics import Metrics
from serving.models import PROBE, Live, Models, Served
from serving.slicing import joined, slices
from serving.tickets import Expired, Ticket

MAX_TIMEOUT_MS: Final = 3_600_000
PROBE_FRESH_S: Final = 0.25
PROBE_FRESH_TIMES: Final = 20  # what it took: signs of life take a twentieth of an executor at most
PROBE_FRESHEST_S: Final = 10.0  # as often as Kubernetes asks unless it is told


class Done(NamedTuple):
    """What the model answered, and how long the request waited for an executor."""

    result: Served
    queue_ms: float


class Router(Protocol):
    """Who answers a request, and who is shown it besides; traffic.py has one."""

    def lane(self, items: Sequence[Given], /) -> str: ...
    def answered(self, ticket: "Ticket[Served]") -> None: ...


class OneModel:
    """The model in service answers all, and no other sees any."""

    def lane(self, _: Sequence[Given]) -> str:
        return ""

    def answered(self, ticket: "Ticket[Served]") -> None:
        """Nobody else is asked."""


class Desk:
    """The models behind their queue. `draining` is set once, by the process that stops; `following` tells of those
    versions besides the one in service."""

    def __init__(
        self,
        models: Models,
        batcher: Batcher[Served],
        metrics: Metrics,
        *,
        router: Router | None = None,
        following: Callable[[], Mapping[str, object]] | None = None,
    ) -> None:
        self.models, self.batcher, self.metrics = models, batcher, metrics
        self.router: Router = router or OneModel()
        self.following = following
        self.draining = False
        self._signs: dict[str, _Sign] = {}  # by lane
        self._bell: Bell | None = None

    @property
    def clock(self) -> Callable[[], float]:
        """What deadlines are told by."""
        return self.batcher.clock

    def deadline(self, timeout_ms: str | None, *, passed_s: float = 0.0) -> float:
        """When a client that said X-Request-Timeout-Ms `passed_s` ago stops waiting; never where it does not say."""
        if timeout_ms is None:
            return math.inf
        number = int(timeout_ms) if timeout_ms.isascii() and timeout_ms.isdigit() and len(timeout_ms) < 9 else 0
        if not 0 < number <= MAX_TIMEOUT_MS:
            raise BadRequest(
                f"X-Request-Timeout-Ms is {timeout_ms[:20]!r}; send whole numbers from 1 to {MAX_TIMEOUT_MS}"
            )
        return self.clock() + number / 1e3 - passed_s

    def admit(self) -> None:
        """Raise Overloaded where any work would be refused now."""
        self.batcher.queue.require_room()

    def stalled(self) -> bool:
        """Whether nothing is finished any more although there is work: the process is of no use."""
        return self.batcher.queue.stalled()

    async def ask(
        self,
        items: Sequence[Given],
        *,
        expires_s: float = math.inf,
        check: Callable[[Live], None] | None = None,
        lane: str | None = None,
    ) -> Done:
        """Have items answered, by the lane that the router says unless one is named. `check` is asked whether the model
        that answered is one that the request was for, since another may have come while it waited. Cancelled, the work
        is dropped.

        Raises:
            Overloaded: no room.
            Expired: the time was up before the work began.
            BadRequest: the model cannot read an item.
            Exception: whatever the model failed with.
        """
        lane = self.router.lane(items) if lane is None else lane
        queue = self.batcher.queue
        parts = slices(items, costs=queue.costs, most_s=queue.door.slice_s)
        answered = (
            self._one(items, expires_s=expires_s, lane=lane)
            if len(parts) == 1
            else self._slices(parts, expires_s=expires_s, lane=lane)
        )
        done = await answered
        if check is not None:
            check(done.result.live)
        return done

    async def _slices(self, parts: Sequence[Sequence[Given]], *, expires_s: float, lane: str) -> Done:
        """One after another; where another model has come between two of them, the first ones are asked again. Ids are
        looked at before any is computed, since that takes no tokenizer."""
        if isinstance(parts[0][0], Tokens):
            self.models.of(lane).engine.first.encode([item for part in parts for item in part])
        found: list[Done] = []
        while len(found) < len(parts):
            part = parts[len(found)]
            try:
                done = await self._one(part, expires_s=expires_s, lane=lane, goes_on=bool(found))
            except BadItem as bad:
                raise bad.behind(sum(map(len, parts[: len(found)]))) from bad
            if found and done.result.live is not found[0].result.live:
                found.clear()
                continue
            found.append(done)
        return Done(joined([each.result for each in found]), sum(each.queue_ms for each in found))

    async def _one(self, items: Sequence[Given], *, expires_s: float, lane: str, goes_on: bool = False) -> Done:
        bell = self._bell_here()
        waiter: asyncio.Future[None] = bell.loop.create_future()
        ticket = self.batcher.submit(items, done=bell.put, expires_s=expires_s, lane=lane, note=waiter, goes_on=goes_on)
        late = None
        if expires_s != math.inf:
            late = bell.loop.call_later(max(0.0, expires_s - self.clock()), _expire, ticket, waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            ticket.cancel()
            raise
        finally:
            if late is not None:
                late.cancel()
        served = _result_of(ticket)
        self.router.answered(ticket)
        return Done(served, ticket.queue_ms)

    def _bell_here(self) -> Bell:
        """That of the running loop: one at a time, for executors ring where they were told to last."""
        loop = asyncio.get_running_loop()
        if self._bell is None or self._bell.loop is not loop:
            assert self._bell is None or self._bell.loop.is_closed(), "a desk serves one loop"
            self._bell = Bell(loop)
            self.batcher.queue.on_told = self._bell.ring
        return self._bell

    async def probe(self, lane: str = "") -> None:
        """A real inference by the model of a lane, before all others; raises what it failed with. Who asks while one is
        under way, or soon after, shares it: signs of life take no places from requests."""
        sign = self._signs.setdefault(lane, _Sign())
        probe, fresh = sign.probe, self.clock() - sign.probed_s < sign.fresh_s
        if probe is None or (probe.done() and not fresh):
            sign.probe = probe = asyncio.create_task(self._probed(lane, sign))
            probe.add_done_callback(_looked_at)
        await asyncio.shield(probe)

    async def _probed(self, lane: str, sign: "_Sign") -> None:
        bell = self._bell_here()
        waiter: asyncio.Future[None] = bell.loop.create_future()
        golden = tuple(self.models.of(lane).engine.bundle.golden.items[0])
        begun_s, sign.took_s = self.clock(), 0.0
        try:
            ticket = self.batcher.probe([golden], done=bell.put, lane=PROBE + lane, note=waiter)
            await waiter  # which nobody cancels: those who ask are shielded from it
            _result_of(ticket)
            sign.took_s = self.clock() - begun_s - ticket.queue_ms / 1e3
        finally:
            sign.probed_s = self.clock()


class _Sign:
    """The latest sign of life of a lane, when it came, and how long it took an executor; of one that failed nothing, so
    that it is soon asked again."""

    def __init__(self) -> None:
        self.probe: asyncio.Task[None] | None = None
        self.probed_s, self.took_s = -math.inf, 0.0

    @property
    def fresh_s(self) -> float:
        return max(PROBE_FRESH_S, min(PROBE_FRESH_TIMES * self.took_s, PROBE_FRESHEST_S))


def _result_of(ticket: Ticket[Served]) -> Served:
    if ticket.error is not None:
        raise ticket.error
    assert ticket.result is not None, "a ticket that is done has a result or an error"
    return ticket.result


def _looked_at(probe: "asyncio.Task[None]") -> None:
    """What it failed with is raised where it is awaited; where nobody waits any more it is no surprise either."""
    if not probe.cancelled():
        probe.exception()


def _expire(ticket: Ticket[Served], waiter: "asyncio.Future[None]") -> None:
    """Its client waits no longer; what is being computed of it goes nowhere."""
    if not waiter.done():
        ticket.cancel()
        waiter.set_exception(Expired("the request's time was up before its answer was there; allow more or retry"))
