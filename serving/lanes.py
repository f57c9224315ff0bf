"""The versions of one lane: the one that answers, and the one that is not tried again.

    ""          the model in service; always has one. The one before it stays loaded, so that going back takes no time
    "canary"    answers a share of the requests; "shadow" answers none. Either may have no version: it is off. So it is
                while its alias names the version in service

Threads of its own for each lane (follower.py) put versions in, and take out one that fails once an executor has raised
the alarm; a lock keeps them apart, and nothing is loaded or computed under it. What the alarm took out of one lane none
serves until the alias that led to it has moved.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from serving.alarm import Thresholds, answers_most, rings
from serving.engine import Given
from serving.models import PROBE, Live, Models
from serving.registry import Named
from serving.tallies import Rate

__all__ = ["CANARY", "MAIN", "PROBE", "SHADOW", "Lane", "Refused", "named_of"]

MAIN, CANARY, SHADOW = "", "canary", "shadow"
SUSPECTS: Final = 8  # failed requests that the version before is asked, too
CHECK_EVERY_S: Final = 1.0
_log = logging.getLogger(__name__)


class Refused(NamedTuple):
    """A version that is not tried again until the alias has moved, and why; whether the alarm took it out of service,
    or it was not fit for this lane."""

    named: Named
    why: str
    taken_out: bool = False

    @property
    def version(self) -> str:
        return self.named.version


class Lane:
    """One lane of `models`, for versions of `model`. `on_swap` is called, at once, with what answers from now on (None:
    nobody); `has_room` says whether a version that only waits may stay in memory beside it. `on_alarm` is called by an
    executor and wakes whoever calls `check`. `others` are the server's other lanes."""

    def __init__(
        self,
        name: str,
        models: Models,
        *,
        model: str,
        thresholds: Thresholds | None = None,
        on_swap: Callable[[Live | None], None] = lambda _: None,
        has_room: Callable[[Live], bool] = lambda _: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.models, self.model, self.on_swap = name, models, model, on_swap
        self.on_alarm: Callable[[], None] = lambda: None
        self.others: Sequence[Lane] = ()
        self.hot: Live | None = None
        self.refused: Refused | None = None
        self.rollbacks = 0
        self.since = _now()
        self._thresholds, self._has_room, self._clock = thresholds or Thresholds(), has_room, clock
        self._lock = threading.Lock()
        self._suspects: deque[Sequence[Given]] = deque(maxlen=SUSPECTS)
        self._checked_s = -CHECK_EVERY_S

    @property
    def current(self) -> Live | None:
        """The lane's own model."""
        return self.models.at(self.name)

    @property
    def called(self) -> str:
        """The lane in a message, before a word."""
        return f"{self.name} " if self.name else ""

    def in_memory(self) -> tuple[Live | None, Live | None]:
        """What answers and what only waits, of one moment: between two looks one may take the other's place."""
        with self._lock:
            return self.current, self.hot

    def wants(self, named: Named) -> bool:
        """Whether the version that the alias names should be put in. One that was refused is forgiven when the alias
        names another."""
        barred = self.barred(named)
        with self._lock:
            if self.refused is not None and self.refused.named == named:
                return False
            self.refused = None
            if self.name != MAIN and (barred or _is(self.models.current, self.model, named)):
                self._put(None)
                return False
            return not barred and not _is(self.current, self.model, named)

    def barred(self, named: Named) -> str:
        """Why no lane may serve a version: the alarm took it out of another one. Empty where it may."""
        for lane in self.others:
            refused = lane.refused  # read once: another thread forgives
            if refused is not None and refused.taken_out and (lane.model, refused.named) == (self.model, named):
                return refused.why
        return ""

    def kept(self, named: Named) -> Live | None:
        """The version before, if it is that one."""
        hot = self.hot
        return hot if _is(hot, self.model, named) else None

    def take(self, live: Live) -> bool:
        """Let `live` answer from now on, unless it was barred while it was loaded; the one before it stays loaded where
        there is room."""
        with self._lock:
            if self.barred(named_of(live)):
                return False
            before, self.hot = self.current, None  # never both
            self._put(live)
            self.hot = before if self.name == MAIN else None
        if self.name == MAIN:
            for lane in self.others:
                lane.leave(live)
        if self.hot is not None and not self._has_room(live):
            self.let_go(f"little memory is left beside version {live.version}")
        return True

    def close(self) -> None:
        """Switch the lane off."""
        with self._lock:
            self._put(None)

    def forgive(self) -> None:
        """The alias names nothing any more: what it names next is tried."""
        with self._lock:
            self.refused = None

    def refuse(self, named: Named, *, why: str) -> None:
        """Do not try a version again until the alias has moved."""
        with self._lock:
            self.refused = Refused(named, why)

    def let_go(self, why: str) -> bool:
        """Free the memory of the version that only waits; whether there was one."""
        with self._lock:
            freed, self.hot = self.hot, None
        if freed is not None:
            _log.warning("%sversion %s is no longer kept loaded: %s", self.called, freed.version, why)
        return freed is not None

    def _put(self, live: Live | None) -> None:
        if live is None and self.current is None:
            return
        self.models.put(self.name, live)
        self._suspects.clear()
        self.since = _now()
        self.on_swap(live)

    # -- the alarm -----------------------------------------------------------------------------------------------------

    def heed(self, live: Live, failed: Sequence[Sequence[Given]]) -> None:
        """A model failed on requests: where that is too often, raise the alarm. Called by the executors, which answer
        others meanwhile and so compute nothing here."""
        fallback = self._fallback(live)
        if fallback is None:
            return
        with self._lock:
            self._suspects.extend(failed)
        recent = live.tally.recent(self._thresholds.window_s)
        if rings(recent, before=fallback.tally.rate, thresholds=self._thresholds) and self._may_check():
            self.on_alarm()

    def check(self) -> None:
        """After an alarm: where the failures are not the requests' own fault, go back to the older version that was
        there before (a canary: switch it off), and try this one again when the alias has moved."""
        live = self.current
        fallback = self._fallback(live)
        if live is None or fallback is None:
            return
        with self._lock:
            suspects = list(self._suspects)
        recent, before = live.tally.recent(self._thresholds.window_s), fallback.tally.rate
        if not rings(recent, before=before, thresholds=self._thresholds):  # another version came meanwhile
            return
        if not answers_most(fallback, suspects):
            _log.warning("%s; version %s fails on the same, so it stays", self._told(live, recent), fallback.version)
            return
        self._roll_back(live, fallback, why=self._told(live, recent, before=before))

    def _fallback(self, live: Live | None) -> Live | None:
        """Who would answer instead: never a version that is newer, which somebody has gone back from."""
        if live is None or live is not self.current:
            return None
        hot, main = self.hot, self.models.current
        if self.name == MAIN:
            older = hot is not None and int(hot.version) < int(live.version) and not self.barred(named_of(hot))
            return hot if older else None
        return main if self.name == CANARY and live.identity() != main.identity() else None

    def _may_check(self) -> bool:
        """One alarm at a time, and no more often than every CHECK_EVERY_S."""
        with self._lock:
            now_s = self._clock()
            if now_s - self._checked_s < CHECK_EVERY_S:
                return False
            self._checked_s = now_s
            return True

    def _roll_back(self, live: Live, fallback: Live, *, why: str) -> None:
        with self._lock:
            if live is not self.current:  # the alias moved meanwhile
                return
            self.refused = Refused(named_of(live), why, taken_out=True)
            self.hot = None
            self.rollbacks += 1
            self._put(fallback if self.name == MAIN else None)
        for lane in self.others:
            lane.leave(live)
        end = f"back to version {fallback.version}" if self.name == MAIN else f"the {self.name} is off"
        _log.error("%s: %s, until the alias moves", why, end)

    def leave(self, live: Live) -> None:
        """A version came into service, or was taken out of another lane: switch this one off at once where it serves
        the same. The model in service cannot be."""
        with self._lock:
            if self.name != MAIN and _is(self.current, live.name, named_of(live)):
                self._put(None)

    def _told(self, live: Live, recent: Rate, *, before: Rate | None = None) -> str:
        told = f"{self.called}version {live.version} failed on {recent.errors} of its last {recent.requests} requests"
        return told if before is None else f"{told} ({before.share:.1%} of those of the version beside it)"


def named_of(live: Live) -> Named:
    """As an alias names it."""
    return Named(live.version, live.digest)


def _is(live: Live | None, model: str, named: Named) -> bool:
    return live is not None and (live.name, named_of(live)) == (model, named)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
