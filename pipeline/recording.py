"""Recording a run for its tracking server: events are put into an outbox as they happen, and a process beside the run
sends them. Nothing here waits for a network, but for a bounded while when the run is over.

The outbox is opened when the first step begins: a run with nothing to do records nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from pipeline.artifact import Artifact
from pipeline.data.digests import json_digest
from pipeline.errors import Failure
from pipeline.events import PARENT, Closed, Event, Files, Opened, Params, Tags
from pipeline.naming import BENCHMARK
from pipeline.outbox import Outbox, open_outbox
from pipeline.progress import MEASURE_END, MEASURE_START, Reporter
from pipeline.recorded import LINEAGE, Reached, begun, left_in, metrics, origin_tags, sealed, shareable
from pipeline.telling import write_told
from pipeline.tracking.sender_process import SenderProcess
from pipeline.tracking.sent import LOG, REFUSED, read_state, waiting

if TYPE_CHECKING:
    from pipeline.graph import Step

END_WAIT_S: Final = 15.0
INTERRUPTED_WAIT_S: Final = 5.0  # who presses ctrl-C wants it to end
REGISTER: Final = "register"


@dataclass(frozen=True)
class Asked:
    """What is recorded: the run's config as plain values, its experiment and server (None: the workspace's registry),
    the target whose figures need no name, and the steps it has when it is whole."""

    root: Path
    name: str
    config: Mapping[str, Any]
    experiment: str
    uri: str | None
    first: str
    labels: Sequence[str]


@dataclass
class _Session:
    """The outbox, its sender, the steps that are under way with their keys, those that were sealed, and how far metrics
    had come before."""

    outbox: Outbox
    sender: SenderProcess
    running: dict[str, str] = field(default_factory=dict)
    sealed: dict[str, Artifact] = field(default_factory=dict)
    reached: Reached = field(default_factory=dict)


class Recorder:
    """A Reporter that hands on to another, and records. For a `with`: its end is the run's."""

    def __init__(
        self, reporter: Reporter, asked: Asked, *, start: Callable[[Path], SenderProcess] = SenderProcess
    ) -> None:
        self._reporter, self._asked, self._start = reporter, asked, start
        self._session: _Session | None = None
        self._lineage: dict[str, str] = {}

    # -- as a Reporter -------------------------------------------------------------------------------------------------

    def bar(self, title: str, *, total: float | None, unit: str, start: float = 0) -> Any:
        """A bar of the other reporter."""
        return self._reporter.bar(title, total=total, unit=unit, start=start)

    def line(self, text: str) -> None:
        """One line for people."""
        self._reporter.line(text)

    def show(self, table: Any) -> None:
        """A table for people."""
        self._reporter.show(table)

    def event(self, kind: str, **fields: Any) -> None:
        """An event for machines; while times are measured the sender sleeps."""
        session = self._session
        if session is not None and kind == MEASURE_START and not session.sender.rest():
            self.line("tracking: the process that sends this run is still at work, and may disturb what is measured")
        self._reporter.event(kind, **fields)
        if session is not None and kind == MEASURE_END:
            session.sender.go()

    def metrics(self, part: str, *, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step of training, of the step of the run that is under way: one write, and no more."""
        session = self._session
        if session is None:
            return
        label = _label_of(part, session.running)
        new = {name: value for name, value in values.items() if name != "step"}
        if reached := session.reached:
            of = (label, session.running.get(label, ""))
            new = {name: value for name, value in new.items() if step > reached.get((*of, name), -1)}
        if new:
            session.outbox.put(metrics(label, new, step=step))

    # -- as a Record ---------------------------------------------------------------------------------------------------

    @property
    def outbox(self) -> Path | None:
        """Where the events lie; None before the first step begins."""
        return None if self._session is None else self._session.outbox.folder

    def started(self, step: "Step", key: str, digests: Mapping[str, str]) -> None:
        """A step begins."""
        session = self._session or self._open()
        session.running[step.label] = key
        self._put(*begun(step, key, digests))
        session.outbox.sync()

    def sealed(self, step: "Step", artifact: Artifact, digests: Mapping[str, str]) -> None:
        """A step is done: what people look at, what it read, what came out."""
        session = self._session
        assert session is not None, "it was started"
        session.sealed[step.label] = artifact
        session.running.pop(step.label, None)
        self._put(*sealed(step, artifact, digests, keep=session.outbox.keep, first=self._asked.first))
        session.outbox.sync()

    def done(self, label: str, artifact: Artifact) -> None:
        """A step's artifact is there, made now or before."""
        self._lineage[f"{LINEAGE}{label}"] = artifact.digest
        if self._session is not None:
            self._put(Tags(of=PARENT, values={f"{LINEAGE}{label}": artifact.digest}))

    # -- as a `with` ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *raised: Any) -> None:
        """End the run and wait, for a while, until that is sent."""
        session = self._session
        if session is None:
            return
        kind, error, _ = raised
        status, whole = _status(kind), kind is None and len(self._lineage) == len(self._asked.labels)
        try:
            self._close(session, status, error)
        finally:  # also where the disk is full
            self._session = None
            code = session.sender.end(INTERRUPTED_WAIT_S if status == "KILLED" else END_WAIT_S)
            session.outbox.close(whole=whole)
            self._tell_what_is_left(session.outbox.folder, code)

    def _open(self) -> _Session:
        asked = self._asked
        outbox = open_outbox(
            asked.root,
            name=asked.name,
            experiment=asked.experiment,
            uri=asked.uri,
            asked=json_digest([asked.name, asked.config]),
        )
        left, reached = left_in(outbox.folder)
        self._session = session = _Session(outbox, self._start(outbox.folder), reached=reached)
        self._put(
            *(Closed(of=label, status="KILLED") for label in left if label != PARENT),
            Opened(of=PARENT, name=asked.name, tags=origin_tags() | {"retort.name": asked.name} | self._lineage),
            Params(of=PARENT, values=shareable(asked.config)),
        )
        return session

    def _close(self, session: _Session, status: str, error: BaseException | None) -> None:
        why = {} if error is None else {"retort.error": _told(error)}
        left = [Closed(of=label, status=status) for label in session.running]
        steps = {"retort.steps": f"{len(self._lineage)} of {len(self._asked.labels)}"}
        ends = [] if session.outbox.target.joins else [Closed(of=PARENT, status=status)]
        report = self._report(session) if error is None else []
        self._put(*left, *report, Tags(of=PARENT, values=steps | why), *ends)
        session.outbox.sync()

    def _report(self, session: _Session) -> list[Event]:
        """The page about each measuring session of this run."""
        told: list[Event] = []
        for label, artifact in session.sealed.items():
            if artifact.manifest.stage == BENCHMARK and not artifact.manifest.facts.get("skipped"):
                with TemporaryDirectory(dir=session.outbox.folder) as place:
                    paths = write_told(self._asked.name, artifact, session.sealed.get(REGISTER), Path(place))
                    folder = session.outbox.keep({path.name: path for path in paths})
                told.append(Files(of=PARENT, folder=folder, to=label))
        return told

    def _put(self, *events: Event) -> None:
        assert self._session is not None, "only what was opened is put into"
        for event in events:
            self._session.outbox.put(event)

    def _tell_what_is_left(self, folder: Path, code: int | None) -> None:
        left, state = waiting(folder), read_state(folder)
        if left:
            at_it = "the process that sends them is still at it"
            why = state.why or (at_it if code is None else f"it ended with {code}; its log is {folder / LOG}")
            self.line(f"tracking: {left} events wait in {folder} ({why}); the next run or `retort sync` sends them")
        if state.refused:
            self.line(
                f"tracking: the server refused {state.refused} events of this run; they are kept in {folder / REFUSED}"
            )


def _label_of(part: str, running: Mapping[str, str]) -> str:
    """The step that a part of a training belongs to: the one under way, or of a group the one that ends with its name
    (graph.py calls them STAGE-PART)."""
    if len(running) == 1:
        return next(iter(running))
    return next((label for label in running if label.partition("-")[2] == part), PARENT)


def _status(kind: type[BaseException] | None) -> str:
    if kind is None:
        return "FINISHED"
    return "KILLED" if issubclass(kind, (KeyboardInterrupt, SystemExit)) else "FAILED"


def _told(error: BaseException) -> str:
    """A failure often names what could not be read, by its URL."""
    return str(shareable(str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"))
