"""The models in memory: loading one, holding the one that answers, and following an alias to the next.

A version is loaded, warmed and checked against its golden inputs before the one reference that each request reads is
replaced; whatever fails on the way, the old version keeps serving.
"""

import logging
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from serving.answers import results
from serving.bundle import Bundle, Item, ServingSpec, read_bundle
from serving.cpu import usable_threads
from serving.engine import Answer
from serving.errors import BadArtifact, BadRequest, Transient
from serving.instances import Instances, Varies, open_instances
from serving.registry import Resolved
from serving.tuning import Alone, Setting, plain

Choose = Callable[[Bundle], Setting]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Live:
    """A loaded model and its name; answers carry it."""

    engine: Instances
    name: str
    version: str
    digest: str

    @property
    def setting(self) -> Setting:
        return self.engine.setting

    @property
    def spec(self) -> ServingSpec:
        return self.engine.bundle.spec

    def identity(self) -> dict[str, str]:
        return {"name": self.name, "version": self.version, "digest": self.digest}


@dataclass(frozen=True)
class Served:
    """An answer, as the client is told it and with its timing, and the model that gave it."""

    answer: Answer
    results: list[dict[str, object]]
    live: Live


class Models:
    """Holds the model that answers now; replacing one reference is the whole swap."""

    def __init__(self, live: Live) -> None:
        self.current = live

    def answer(self, items: Sequence[Item]) -> Served:
        """Called by the executors, so that wording a long answer does not hold up the thread that talks HTTP."""
        live = self.current
        answer = live.engine.answer(items)
        told = results(answer.scores, spec=live.spec, items=items, offsets=answer.offsets)
        return Served(answer=answer, results=told, live=live)


class Observer(Protocol):
    """What a follower reports; serving.metrics.Metrics is one."""

    def registry_is_up(self, reachable: bool) -> None: ...
    def serving(self, *, name: str, version: str, digest: str) -> None: ...
    def swapped(self) -> None: ...
    def refused(self) -> None: ...


def load(resolved: Resolved, *, threads: int | None = None, choose: Choose | None = None) -> Live:
    """Load, warm and check a bundle; what this returns is fit to answer. `choose` says how it is run; without it one
    session has `threads`, by default all that this process may use."""
    bundle = read_bundle(resolved.path)
    setting = choose(bundle) if choose else plain(threads or usable_threads())
    engine = _opened(bundle, setting)
    return Live(engine=engine, name=resolved.name, version=resolved.version, digest=resolved.digest)


def _opened(bundle: Bundle, setting: Setting) -> Instances:
    """A tuning may ask for items together; where that moves answers it is not followed, and the model serves."""
    try:
        return open_instances(bundle, setting=setting)
    except Varies as varies:
        _log.warning("each item is computed alone: %s", varies)
        return open_instances(bundle, setting=msgspec.structs.replace(setting, batch=Alone()))


class Follower:
    """Polls `find` and, when it names another version, swaps in what `fetch` returns for it.

    A version that fails is quarantined: it is not tried again until the alias has moved. A registry that is away, or a
    download cut short, is tried again at the next poll.
    """

    def __init__(
        self,
        models: Models,
        *,
        find: Callable[[], str],
        fetch: Callable[[str], Live],
        observer: Observer,
        interval_s: float = 5.0,
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2),  # noqa: S311 spreads polls, guards nothing
    ) -> None:
        self.quarantined: str | None = None
        self._models = models
        self._find = find
        self._fetch = fetch
        self._observer = observer
        self._interval_s = interval_s
        self._jitter = jitter
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Poll no more; a download under way is left to the end of the process."""
        self._stopped.set()

    def poll(self) -> None:
        """Look once, and swap if there is something new and good."""
        try:
            version = self._find()
            self._observer.registry_is_up(True)
            if version != self.quarantined:
                self.quarantined = None
                self._advance(version)
        except Transient as away:
            self._observer.registry_is_up(False)
            _log.warning("keeping version %s: %s", self._models.current.version, away)
        except BadRequest as gone:
            self._observer.registry_is_up(True)
            _log.warning("keeping version %s: %s", self._models.current.version, gone)

    def _advance(self, version: str) -> None:
        if version == self._models.current.version:
            return
        try:
            live = self._fetch(version)
        except (Transient, BadRequest):
            raise
        except Exception as unfit:  # noqa: BLE001 - a version that breaks in a new way is as unfit as any other
            self._quarantine(version, reason=unfit)
            return
        self._models.current = live
        self._observer.serving(**live.identity())
        self._observer.swapped()
        _log.info("serving %s version %s (digest %s)", live.name, live.version, live.digest[:12])

    def _quarantine(self, version: str, *, reason: Exception) -> None:
        self.quarantined = version
        self._observer.refused()
        trace = None if isinstance(reason, BadArtifact) else reason
        old = self._models.current.version
        _log.warning("keeping version %s; version %s is refused: %s", old, version, reason, exc_info=trace)

    def _follow(self) -> None:
        while not self._stopped.wait(self._interval_s * self._jitter()):
            try:
                self.poll()
            except Exception:  # noqa: BLE001 - the follower outlives whatever a registry may do to it
                _log.exception("following the alias failed in an unexpected way; keeping the version in service")
