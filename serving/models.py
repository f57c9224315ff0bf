"""The models in memory: loading one, and holding those that answer.

A version is loaded, warmed and checked against its golden inputs before the one reference that each request reads is
replaced; whatever fails on the way, the old version keeps serving.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import msgspec

from serving.answers import results
from serving.bundle import Bundle, ServingSpec, read_bundle
from serving.cache import Claim
from serving.choosing import COPIES, where_pays
from serving.costs import Costs, calibrated
from serving.cpu import ROOT, usable_threads
from serving.engine import Answer, Given
from serving.errors import BadArtifact, BadRequest
from serving.instances import Instances, Varies, open_instances
from serving.machine import available_bytes
from serving.registry import Resolved
from serving.tallies import End, Tally
from serving.tuning import Alone, Setting, plain

Choose = Callable[[Bundle], Setting]
PROBE: Final = "probe"  # and a lane: who only asks whether its model lives; no client's requests
_IDS: Final = "ids of "  # and a vocabulary: the lane of token ids for the model in service
_log = logging.getLogger(__name__)


class NoMemory(BadArtifact):
    """The bundle is larger than the memory that is left."""


@dataclass(frozen=True)
class Live:
    """A loaded model and its name, which answers carry; what its calls cost, and what it has done so far in its lane.
    `files` is as the registry has it, for who would load it again; `memory_bytes` is about what it takes; models of one
    `vocabulary` have the same tokenizer; `claim` keeps its files in the cache."""

    engine: Instances
    name: str
    version: str
    digest: str
    costs: Costs
    files: str | None = None
    memory_bytes: int = 0
    vocabulary: str = ""
    claim: Claim | None = field(default=None, compare=False, repr=False)
    tally: Tally = field(default_factory=Tally, compare=False, repr=False)

    def in_another_lane(self) -> "Live":
        """The same engine for another lane; what it does there is counted there."""
        return replace(self, tally=Tally())

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

    @property
    def took_ms(self) -> float:
        """Its own phases; that it waited is no model's fault."""
        return self.answer.tokenize_ms + self.answer.infer_ms


Failed = Callable[[Live, Sequence[Sequence[Given]]], None]


class Models:
    """Holds the models that answer now, one a lane; replacing one reference is the whole swap.

    The lane "" has the model in service, `current`; another lane may have none, and is answered by that. So is
    `ids_lane`. PROBE and a lane is that lane, but in no tally. `on_failed` is told of requests that a model failed on,
    in the thread that computed them.
    """

    def __init__(self, live: Live) -> None:
        self.current = live
        self.on_failed: Failed = lambda *_: None
        self._others: dict[str, Live] = {}

    def at(self, lane: str) -> Live | None:
        """The lane's own model."""
        return self._others.get(lane) if lane else self.current

    def put(self, lane: str, live: Live | None) -> None:
        """Have `live` answer a lane from now on; None: the lane has no model of its own any more."""
        if not lane:
            assert live is not None, "there is always a model in service"
            self.current = live
        elif live is None:
            self._others.pop(lane, None)
        else:
            self._others[lane] = live

    def of(self, lane: str) -> Live:
        """The model that answers a lane's requests; read once a batch, so that no batch is of two."""
        return self._others.get(lane.removeprefix(PROBE), self.current) if lane else self.current

    def answer(self, items: Sequence[Given]) -> Served:
        """One request by itself; raises what it failed with."""
        (outcome,) = self.answer_jobs("", [items])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def answer_jobs(self, lane: str, jobs: Sequence[Sequence[Given]]) -> list[Served | Exception]:
        """Called by the executors, so that wording a long answer does not hold up the thread that talks HTTP.

        Raises:
            Exception: the call for several failed; each may be asked for by itself, and is counted then.
        """
        live = self.of(lane)
        try:
            outcomes = _outcomes(live, jobs) if _reads(live, lane) else _read_for_another(live, count=len(jobs))
        except Exception as error:
            if len(jobs) > 1:
                raise
            outcomes = [error]
        if not lane.startswith(PROBE):
            self._count(live, jobs, outcomes)
        return outcomes

    def _count(self, live: Live, jobs: Sequence[Sequence[Given]], outcomes: Sequence[Served | Exception]) -> None:
        live.tally.count(jobs, [_end(outcome) for outcome in outcomes])
        failed = [job for job, outcome in zip(jobs, outcomes, strict=True) if _end(outcome) == "failed"]
        if failed:
            self.on_failed(live, failed)


def _outcomes(live: Live, jobs: Sequence[Sequence[Given]]) -> list[Served | Exception]:
    outcomes = live.engine.answer_jobs(jobs, packing=live.costs)
    return [
        outcome if isinstance(outcome, Exception) else _served(live, items, outcome)
        for items, outcome in zip(jobs, outcomes, strict=True)
    ]


def ids_lane(live: Live) -> str:
    """The lane of token ids that were read for this model in service: one of another vocabulary that comes while they
    wait must not compute them."""
    return _IDS + live.vocabulary


def _reads(live: Live, lane: str) -> bool:
    return not lane.startswith(_IDS) or lane == ids_lane(live)


def _read_for_another(live: Live, *, count: int) -> list[Served | Exception]:
    told = (
        f"version {live.version} came into service while this request waited, and its token ids are others; send it "
        "again with those of its tokenizer"
    )
    return [BadRequest(told) for _ in range(count)]


def _served(live: Live, items: Sequence[Given], answer: Answer) -> Served:
    told = results(answer.scores, spec=live.spec, items=items, offsets=answer.offsets)
    return Served(answer=answer, results=told, live=live)


def _end(outcome: Served | Exception) -> End:
    """A BadRequest is the request's own fault, anything else the model's."""
    if isinstance(outcome, Served):
        return outcome.took_ms
    return "refused" if isinstance(outcome, BadRequest) else "failed"


def load(
    resolved: Resolved,
    *,
    threads: int | None = None,
    choose: Choose | None = None,
    gently: bool = False,
    root: Path = ROOT,
) -> Live:
    """Load, warm, check and time a bundle; what this returns is fit to answer. `choose` says how it is run; without it
    one session has `threads`, by default all that this process may use. `gently`: others are answering meanwhile.

    Raises:
        NoMemory: there is not enough for it.
        BadArtifact: it is altered, not for this machine, or computes something else than was measured.
    """
    bundle = read_bundle(resolved.path)
    if bundle.digest != resolved.digest:
        told = f"is {bundle.digest[:12]}, not the {resolved.digest[:12]} that was verified"
        raise BadArtifact(f"{bundle.path}: the bundle {told}: it was replaced meanwhile; load it again")
    memory_bytes = require_memory(bundle, sessions=1, root=root)
    setting = choose(bundle) if choose else where_pays(plain(threads or usable_threads()))
    if setting.sessions > 1:
        memory_bytes = require_memory(bundle, sessions=setting.sessions, root=root)
    engine = _opened(bundle, setting, gently=gently)
    return Live(
        engine,
        resolved.name,
        resolved.version,
        resolved.digest,
        costs=calibrated(engine, gently=gently),
        files=resolved.files,
        claim=resolved.claim,
        memory_bytes=memory_bytes,
        vocabulary=hashlib.sha256((bundle.path / "tokenizer.json").read_bytes()).hexdigest(),
    )


def require_memory(bundle: Bundle, *, sessions: int, root: Path = ROOT) -> int:
    """About how many bytes so many sessions take, each with the weights COPIES times; NoMemory where fewer are left."""
    needed, available = sessions * COPIES * (bundle.path / "model.onnx").stat().st_size, available_bytes(root)
    if available is not None and needed > available:
        count = "1 session" if sessions == 1 else f"{sessions} sessions"
        raise NoMemory(
            f"{bundle.path}: {count} of this model needs about {needed / 2**20:.0f} MB of memory and "
            f"{available / 2**20:.0f} MB are free; give the process more, or serve a smaller variant"
        )
    return needed


def _opened(bundle: Bundle, setting: Setting, *, gently: bool) -> Instances:
    """A tuning may ask for items together; where that moves answers it is not followed, and the model serves."""
    try:
        return open_instances(bundle, setting=setting, gently=gently)
    except Varies as varies:
        _log.warning("each item is computed alone: %s", varies)
        return open_instances(bundle, setting=msgspec.structs.replace(setting, batch=Alone()), gently=gently)
