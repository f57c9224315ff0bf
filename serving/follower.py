"""The threads behind a lane: one follows its alias, asks the registry what it names and puts that version in; another
looks again at a version that fails when the alarm is raised, whatever the registry keeps the first one waiting with."""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Protocol

from serving.cache import NoSpace
from serving.cpu import stand_back
from serving.errors import BadArtifact, BadRequest, Transient
from serving.lanes import MAIN, Lane, named_of
from serving.models import Live, NoMemory
from serving.registry import Named, NoAlias
from serving.registry_failures import NoAnswer

_log = logging.getLogger(__name__)


class Observer(Protocol):
    """What a follower reports; serving.metrics.Metrics is one."""

    def registry_is_up(self, reachable: bool) -> None: ...
    def refused(self) -> None: ...


class Follower:
    """Polls `find` and, when it names another version, puts what `fetch` returns for it into the lane.

    A version that fails is quarantined: it is not tried again until the alias has moved. A registry that is away, that
    lets nobody in or in whose place something else answers, a disk that is full or a download cut short is tried again
    at the next poll. Whatever happens, what answers goes on answering; only a canary or a shadow whose alias is taken
    away, or names what the alarm took out of another lane, is switched off. `keep` is told, in this thread, of what
    answers now, the alarm's choice included.

    Of the last poll: `polled_s`, when it began; `registry_up`, whether the registry and, where something was fetched,
    its artifacts answered; `alias_found`, and the version `named`, of the last one that was answered; `trouble`, why
    the lane has not what its alias names, empty where it has. `was_up`: any was answered.
    """

    def __init__(
        self,
        lane: Lane,
        *,
        find: Callable[[], Named],
        fetch: Callable[[Named], Live],
        observer: Observer,
        keep: Callable[[Live], None] = lambda _: None,
        interval_s: float = 5.0,
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2),  # noqa: S311 spreads polls, guards nothing
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lane = lane
        self.alias_found: bool | None = None
        self.registry_up: bool | None = None
        self.was_up = False
        self.named: str | None = None
        self.polled_s: float | None = None
        self._find, self._fetch, self._observer, self._keep = find, fetch, observer, keep
        self._interval_s, self._jitter, self._clock = interval_s, jitter, clock
        self.trouble = ""
        self._kept = _identity(lane.current)
        self._stopped = threading.Event()
        self._alarmed = threading.Event()
        lane.on_alarm = self._alarmed.set
        self._threads = [
            threading.Thread(target=self._follow, name=f"follower {lane.name}".strip(), daemon=True),
            threading.Thread(target=self._heed, name=f"alarm {lane.name}".strip(), daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Poll no more; a download under way is left to the end of the process."""
        self._stopped.set()
        self._alarmed.set()

    def poll(self) -> None:
        """Look once, and swap if there is something new and good."""
        self.polled_s = self._clock()
        self._is_up(self._look())
        current = self.lane.current
        if current is not None and _identity(current) != self._kept:
            self._keep(current)
        self._kept = _identity(current)

    def _look(self) -> bool:
        """Whether the registry answered, to the end."""
        try:
            named = self._find()
        except NoAlias as gone:
            self.alias_found, self.named = False, None
            self._lost(gone)
            return True
        except (Transient, BadRequest) as away:
            self._say(f"{self._keeping()}: {away}")
            return False
        self.alias_found, self.named = True, named.version
        return self._advance(named)

    def _advance(self, named: Named) -> bool:
        if not self.lane.wants(named):
            self._stay(named)
            return True
        try:
            live = self.lane.kept(named) or self._fetched(named)
        except (Transient, NoAnswer) as away:
            self._say(f"{self._keeping()}: {away}")
            return isinstance(away, NoSpace)
        except BadRequest as refused:
            self._say(f"{self._keeping()}: {refused}")
        except Exception as unfit:  # noqa: BLE001 - a version that breaks in a new way is as unfit as any other
            self._quarantine(named, reason=unfit)
        else:
            self._serve(live)
        return True

    def _stay(self, named: Named) -> None:
        """The lane has what its alias names, or must not have it; of what it refused itself enough was said."""
        current, barred = self.lane.current, self.lane.barred(named)
        if barred and (current is None or named_of(current) != named):
            self._say(f"{self._keeping()}: version {named.version} is quarantined: {barred}")
        elif self.lane.refused is None:
            self._say("")

    def _fetched(self, named: Named) -> Live:
        """Rather without the version that only waits than without the new one."""
        try:
            return self._fetch(named)
        except NoMemory as short:
            if not self.lane.let_go(str(short)):
                raise
            return self._fetch(named)

    def _serve(self, live: Live) -> None:
        if not self.lane.take(live):
            self._stay(named_of(live))
            return
        self.trouble = ""
        what = f"{live.name} version {live.version} (digest {live.digest[:12]})"
        _log.info("%s %s", self.lane.name or "serving", what)

    def _quarantine(self, named: Named, *, reason: Exception) -> None:
        self.lane.refuse(named, why=str(reason))
        self._observer.refused()
        trace = None if isinstance(reason, BadArtifact) else reason
        self.trouble = f"{self._keeping()}; version {named.version} is refused: {reason}"
        _log.warning("%s", self.trouble, exc_info=trace)

    def _lost(self, gone: NoAlias) -> None:
        """The registry answers, and names no version."""
        self.lane.forgive()
        if self.lane.name != MAIN:
            self.lane.close()
        self._say(f"{self._keeping()}: {gone}")

    def _is_up(self, reachable: bool) -> None:
        if reachable and self.registry_up is False:
            _log.info("the registry answers again")
        self.registry_up = reachable
        self.was_up = self.was_up or reachable
        self._observer.registry_is_up(reachable)

    def _keeping(self) -> str:
        current = self.lane.current
        return f"no {self.lane.name}" if current is None else f"keeping {self.lane.called}version {current.version}"

    def _say(self, what: str) -> None:
        """Once, and not at every poll."""
        if what and what != self.trouble:
            _log.warning("%s", what)
        self.trouble = what

    def _follow(self) -> None:
        stand_back()  # as the executors do, which answer while a version is loaded
        if self.lane.current is None:
            self._safely(self.poll)
        while not self._stopped.wait(self._interval_s * self._jitter()):
            self._safely(self.poll)

    def _heed(self) -> None:
        stand_back()
        while True:
            self._alarmed.wait()
            self._alarmed.clear()
            if self._stopped.is_set():
                return
            self._safely(self.lane.check)

    def _safely(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:  # noqa: BLE001 - the follower outlives whatever a registry may do to it
            _log.exception("following the alias failed in an unexpected way; keeping the version in service")


def _identity(live: Live | None) -> dict[str, str] | None:
    return None if live is None else live.identity()
