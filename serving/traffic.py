"""Who answers a request, and who is shown it besides.

The canary answers a share of the requests: request n where frac(n * 0.618...) is below the share (Weyl's sequence of
the golden ratio). That is exact to within a few requests over any stretch, the same every time, and in step with no
client's own rhythm, as every 20th request could be.

The shadow computes requests of the model in service a second time, when nobody waits, and its answers go nowhere but
into the comparison. It may have other limits: what it refuses is not compared. The canary has the same, so that nobody
is refused who would have been answered.

Neither sees token ids: those are of the vocabulary of the model in service.
"""

import logging
import math
import re
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from serving.agreement import Agreement, compared, cosines, unlike_answers, unlike_limits
from serving.batcher import Batcher
from serving.bundle import ServingSpec, TaskKind
from serving.engine import Given, Tokens
from serving.errors import BadRequest
from serving.lanes import CANARY, MAIN, SHADOW
from serving.models import Live, Models, Served, ids_lane
from serving.tallies import Part, percentile
from serving.tickets import Ticket

GOLDEN: Final = 0x9E3779B97F4A7C15  # 2^64 / the golden ratio
WHOLE: Final = 2**64
LATEST: Final = 1000
_NOTHING: Final = {
    **dict.fromkeys(("compared", "agreed"), 0),
    **dict.fromkeys(("agreement", "measure", "mean", "worst", "main", "shadow")),
}
_log = logging.getLogger(__name__)
_CANARY: Final = re.compile(r"(?P<source>.+)=(?P<percent>\d+(\.\d+)?)%")


class Canary(NamedTuple):
    """An alias, and the share of the requests that its version answers."""

    source: str
    share: float


def parse_canary(told: str) -> Canary:
    """What `--canary` says; BadRequest where it is not ALIAS=PERCENT%."""
    match = _CANARY.fullmatch(told)
    if not match or not 0 < float(match["percent"]) <= 100:
        raise BadRequest(f"--canary {told} is no share of the requests; write @ALIAS=PERCENT%, e.g. @challenger=5%")
    return Canary(match["source"], float(match["percent"]) / 100)


Identity = tuple[str, str, str]
"""Name, version and digest: what is compared must not keep a model in memory that has left the service."""


class Shown(NamedTuple):
    """What the model in service answered, until the shadow has; its `answers` are as `_answers` gives them. Both are
    known to fit each other."""

    main: Identity
    shadow: Identity
    task: TaskKind
    answers: list[Any]
    took_ms: float


class Pair(NamedTuple):
    """The versions that are compared, and how far they agree; milliseconds of the same requests by each."""

    main: Identity
    shadow: Identity
    agreement: Agreement
    main_ms: deque[float]
    shadow_ms: deque[float]


class Traffic:
    """The desk's router for `models` behind a batcher. `lane` and `answered` are called by the event loop alone."""

    def __init__(self, models: Models, batcher: Batcher[Served], *, share: float = 0.0, shadowed: bool = False) -> None:
        self._models, self._batcher = models, batcher
        self._below = round(share * WHOLE)
        self._shadowed = shadowed
        self._count = 0
        self._lock = threading.Lock()
        self._fits: dict[str, tuple[Identity, Identity, bool]] = {}
        self.pair: Pair | None = None
        self.dropped = 0

    def lane(self, items: Sequence[Given] = ()) -> str:
        """Of the next request."""
        if not _are_texts(items):
            return ids_lane(self._models.current)
        if not self._below:
            return MAIN
        self._count += 1
        if (self._count * GOLDEN) % WHOLE >= self._below:
            return MAIN
        canary = self._models.at(CANARY)
        return CANARY if canary is not None and self._fit(CANARY, self._models.current, canary) else MAIN

    def answered(self, ticket: Ticket[Served]) -> None:
        """Show an answered request to the shadow; where too many wait for it already, the oldest of them is dropped."""
        served = ticket.result
        if not self._shadowed or ticket.lane != MAIN or served is None or served.live is not self._models.current:
            return
        main, shadow = served.live, self._models.at(SHADOW)
        # A version that was promoted is the shadow, too, until that one's next poll: itself is nothing to compare with.
        if shadow is None or _identity(shadow) == _identity(main):
            return
        if not self._fit(SHADOW, main, shadow) or not _are_texts(ticket.items):
            return
        # Not all of the answer: its model must be free to leave while the copy waits.
        shown = Shown(_identity(main), _identity(shadow), main.spec.task, _answers(served), served.took_ms)
        copy: Ticket[Served] = Ticket(ticket.items, done=self._shown, expires_s=math.inf, lane=SHADOW, note=shown)
        dropped = self._batcher.queue.put_aside(copy)
        if dropped is not None and (not isinstance(dropped.items, Part) or dropped.items.request.first("dropped")):
            self.dropped += 1

    def forget(self) -> None:
        """Drop what waits for the shadow, and what was compared: one of the pair has left."""
        self._batcher.queue.clear_aside()
        with self._lock:
            self.pair = None

    def _fit(self, lane: str, main: Live, other: Live) -> bool:
        """Whether a lane's version may be given what the model in service reads; the log says why not, once."""
        both = (_identity(main), _identity(other))
        known = self._fits.get(lane)
        if known is None or known[:2] != both:
            why = why_unfit(lane, main=main.spec, other=other.spec)
            if why:
                _log.warning("%s version %s is given no requests beside %s: %s", lane, other.version, main.version, why)
            known = self._fits[lane] = (*both, not why)
        return known[2]

    def _shown(self, ticket: Ticket[Served]) -> None:
        """In an executor. What the shadow fails on is in its tally; nothing can be compared."""
        first: Shown = ticket.note
        second = ticket.result
        if second is None or not self._are_there(first, second.live):
            return
        answers = _answers(second)
        if first.task == "embedding":
            found = cosines(first.answers, answers)
        else:
            found = [compared(*pair, task=first.task) for pair in zip(first.answers, answers, strict=True)]
        both = (first.main, first.shadow)
        with self._lock:
            if not self._are_there(first, second.live):  # asked under the lock: what `forget` cleared stays so
                return
            pair = self.pair
            if pair is None or pair[:2] != both:
                pair = self.pair = Pair(*both, Agreement(first.task), deque(maxlen=LATEST), deque(maxlen=LATEST))
            pair.main_ms.append(first.took_ms)
            pair.shadow_ms.append(second.took_ms)
        pair.agreement.add(found)

    def _are_there(self, first: Shown, second: Live) -> bool:
        """Whether the versions of a copy still serve; another shadow than it was meant for may have computed it."""
        there = second is self._models.at(SHADOW) and _identity(self._models.current) == first.main
        return there and _identity(second) == first.shadow

    def state(self) -> dict[str, object]:
        """Of the comparison, for the page."""
        with self._lock:
            pair = self.pair
            times_ms = ([], []) if pair is None else (sorted(pair.main_ms), sorted(pair.shadow_ms))
        if pair is None:
            return {**_NOTHING, "dropped": self.dropped}
        sums = pair.agreement.sums()
        return {
            "compared": sums.compared,
            "agreed": sums.agreed,
            "agreement": sums.agreed / sums.asked if sums.asked else None,
            "measure": pair.agreement.measure,
            "mean": sums.mean,
            "worst": sums.worst,
            "dropped": self.dropped,
            "main": _times(pair.main, times_ms[0]),
            "shadow": _times(pair.shadow, times_ms[1]),
        }


def why_unfit(lane: str, *, main: ServingSpec, other: ServingSpec) -> str:
    """Why a canary or a shadow may not be given what the model in service reads; "" where it may."""
    return unlike_answers(main, other) or (unlike_limits(main, other) if lane == CANARY else "")


def _are_texts(items: Sequence[Given]) -> bool:
    return not any(isinstance(item, Tokens) for item in items)


def _answers(served: Served) -> list[Any]:
    """What is compared: the results; of embeddings the vectors, which are small beside their numbers in Python."""
    return [*served.answer.scores] if served.live.spec.task == "embedding" else [*served.results]


def _identity(live: Live) -> Identity:
    return live.name, live.version, live.digest


def _times(model: Identity, ordered_ms: list[float]) -> dict[str, object]:
    return {"version": model[1], "p50_ms": percentile(ordered_ms, 50), "p99_ms": percentile(ordered_ms, 99)}
