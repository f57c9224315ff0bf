"""Recording a run for its tracking server: events are put into an outbox as they happen, and a process beside the run
sends them. Nothing here waits for a network, but for a bounded while when the run is over.

The outbox is opened when the first step begins: a run with nothing to do records nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.artifact import Artifact
from pipeline.data.digests import json_digest
from pipeline.errors import Failure
from pipeline.events import PARENT, Closed, Tags
from pipeline.outbox import open_outbox, reopen_outbox
from pipeline.outbox_session import TROUBLE, OutboxSession
from pipeline.progress import MEASURE_END, MEASURE_START, Reporter
from pipeline.recorded import begun, sealed
from pipeline.recorded_run import KILLED, Done, end_of, lineage, measured, opening, pages, steps_of, unsaid
from pipeline.sharing import shareable
from pipeline.told_before import ERROR, FINISHED, STEPS
from pipeline.tracking.sender_process import SenderProcess

if TYPE_CHECKING:
    from pipeline.graph import Step

END_WAIT_S: Final = 15.0
INTERRUPTED_WAIT_S: Final = 5.0  # who presses ctrl-C wants it to end


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

    @property
    def digest(self) -> str:
        """What a run that goes on is found by."""
        return json_digest([self.name, self.config])


class Recorder:
    """A Reporter that hands on to another, and records. For a `with`: its end is the run's.

    As a record it raises nothing: what cannot be told is said in a line, and the run ends as it would without.
    """

    def __init__(
        self, reporter: Reporter, asked: Asked, *, start: Callable[[Path], SenderProcess] = SenderProcess
    ) -> None:
        self._reporter, self._asked, self._start = reporter, asked, start
        self._session: OutboxSession | None = None
        self._done: dict[str, Done] = {}
        self._said_untold = False

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
        if session is not None and kind == MEASURE_START and not session.rest():
            self.line("tracking: the process that sends this run is still at work, and may disturb what is measured")
        self._reporter.event(kind, **fields)
        if session is not None and kind == MEASURE_END:
            session.go()

    def metrics(self, part: str, *, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step of training, of the step of the run that is under way: one write, and no more."""
        if self._session is not None:
            self._session.metrics(part, step=step, values=values)

    # -- as a Record ---------------------------------------------------------------------------------------------------

    @property
    def outbox(self) -> Path | None:
        """Where the events lie; None before the first step begins."""
        return None if self._session is None else self._session.folder

    def started(self, step: "Step", key: str, digests: Mapping[str, str]) -> None:
        """A step begins."""
        with self._going_on():
            session = self._session or self._open()
            session.begin(step.label, key)
            session.put(*begun(step, key, digests))
            session.sync()

    def sealed(self, step: "Step", artifact: Artifact, digests: Mapping[str, str]) -> None:
        """A step is done: what people look at, what it read, what came out."""
        session = self._session
        if session is None:  # which was said
            return
        with self._going_on():
            if step.label not in session.running:  # no outbox could be opened by then
                session.put(*begun(step, artifact.manifest.key, digests))
            self._tell_sealed(session, Done(step, artifact, digests))

    def done(self, step: "Step", artifact: Artifact, digests: Mapping[str, str]) -> None:
        """A step's artifact is there, made now or before."""
        done = self._done[step.label] = Done(step, artifact, digests)
        session = self._session
        if session is None:
            return
        with self._going_on():
            if session.lacks(step.label, artifact):
                self._tell_sealed(session, done)
            session.put(Tags(of=PARENT, values=lineage({step.label: done})))

    # -- as a `with` ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *raised: Any) -> None:
        """End the run and wait, for a while, until that is sent. Where nothing was executed, what an earlier process
        was killed before it could say of this run is said now."""
        kind, error, _ = raised
        status, whole = _status(kind), False
        with self._going_on():
            if self._session is None and error is None:
                status = self._go_on_with_what_was_left()
        session = self._session
        if session is None:
            return
        try:
            with self._going_on():
                whole = self._close(session, status, error)
        finally:
            self._session = None
            session.end(INTERRUPTED_WAIT_S if status == KILLED else END_WAIT_S, whole=whole)

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """For a `with`: what cannot be told is said once, and stops nothing."""
        try:
            yield
        except TROUBLE as error:
            if self._session is not None:
                self._session.trouble(error)
            elif not self._said_untold:
                self._said_untold = True
                self.line(f"tracking: this run is not told to its tracking server ({error}); it goes on")

    def _open(self) -> OutboxSession:
        """The session of a run that executes something."""
        asked = self._asked
        outbox = open_outbox(
            asked.root, name=asked.name, experiment=asked.experiment, uri=asked.uri, asked=asked.digest
        )
        self._session = session = OutboxSession(outbox, self.line)
        self._begin(session, anew=True)
        return session

    def _go_on_with_what_was_left(self) -> str:
        """Open the outbox that a run of this config left, where it lacks anything; how the run ends."""
        outbox = reopen_outbox(self._asked.root, asked=self._asked.digest)
        if outbox is None:
            return FINISHED
        session = OutboxSession(outbox, self.line)
        before = session.before
        end = end_of(before, self._done, self._asked.labels)
        if end is None:
            session.close(whole=self._is_whole())
            return FINISHED
        late = (before.sealed_at(each.step.label, each.artifact) for each in unsaid(before, self._done))
        session.at = max([before.last_at, *late]) or None
        self._session = session
        self._begin(session, anew=False)
        session.put(Tags(of=PARENT, values=lineage(self._done)))
        return end

    def _begin(self, session: OutboxSession, *, anew: bool) -> None:
        """Have it sent, and say what those who went before could not."""
        asked, late = self._asked, unsaid(session.before, self._done)
        session.send_by(self._start)
        left = set(session.before.left).difference(each.step.label for each in late)
        session.put(*(Closed(of=label, status=KILLED) for label in sorted(left)))
        if anew or PARENT not in session.before.opened:
            session.put(*opening(asked.name, asked.config, self._done))
        for each in late:
            self._tell_sealed(session, each)

    def _tell_sealed(self, session: OutboxSession, done: Done) -> None:
        label, late = done.step.label, session.lacks(done.step.label, done.artifact)
        at = session.before.sealed_at(label, done.artifact) if late else None
        session.running.pop(label, None)
        session.finished.add(label)
        try:
            session.put(*sealed(*done, keep=session.keep, first=self._asked.first), at=at)
        except TROUBLE as error:
            session.trouble(error)
            session.put(Closed(of=label, status=FINISHED), at=at)
        session.sync()

    def _close(self, session: OutboxSession, status: str, error: BaseException | None) -> bool:
        """The end of the run, then its pages; whether all that was asked for is done and told."""
        ends = session.outbox.ends_the_run()
        why = {} if error is None else {ERROR: _told(error)}
        if error is None and ends and session.failed_before():
            why = {ERROR: ""}
        steps = {STEPS: steps_of(self._done, self._asked.labels)}
        left = [Closed(of=label, status=status) for label in session.running]
        session.put(*left, Tags(of=PARENT, values=steps | why), *([Closed(of=PARENT, status=status)] if ends else []))
        session.sync()
        if error is not None:
            return False
        shown = measured(session.before, self._done, session.finished)
        session.put(*pages(self._asked.name, shown, self._done, session=session, say=self.line))
        session.sync()
        return self._is_whole() and session.told_all

    def _is_whole(self) -> bool:
        return len(self._done) == len(self._asked.labels)


def _status(kind: type[BaseException] | None) -> str:
    if kind is None:
        return FINISHED
    return KILLED if issubclass(kind, (KeyboardInterrupt, SystemExit)) else "FAILED"


def _told(error: BaseException) -> str:
    """A failure often names what could not be read, by its URL."""
    return str(shareable(str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"))
