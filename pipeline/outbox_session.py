"""One process's part in what an outbox is told, and the process that sends it. What cannot be written, or started, is
said once and never raised: training goes on."""

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from pipeline.artifact import Artifact
from pipeline.errors import Failure
from pipeline.events import PARENT, Event
from pipeline.outbox import Outbox
from pipeline.outbox_reading import outboxes_of
from pipeline.recorded import metrics
from pipeline.sharing import shareable_file
from pipeline.told_before import told_before
from pipeline.tracking.sender_process import SenderProcess
from pipeline.tracking.sent import LOG, REFUSED, read_state, waiting

TROUBLE: Final = (OSError, Failure, ValueError)  # a full disk, a folder that went, what no event can say


class OutboxSession:
    """Steps under way are `running`, by label with their keys; those that were told to have ended are in `finished`.
    What could not be written is owed, and comes before what is next; numbers of training are lost. `at`: when all of it
    happened, of a run that is over."""

    def __init__(self, outbox: Outbox, say: Callable[[str], None]) -> None:
        self.outbox, self._say = outbox, say
        self.before = told_before(outbox.folder)
        self.at: int | None = None
        self.running: dict[str, str] = {}
        self.finished: set[str] = set()
        self._owed: deque[Event] = deque()
        self._lost, self._why, self._lacks_a_page = 0, "", False
        self._sender: SenderProcess | None = None

    @property
    def folder(self) -> Path:
        """Where the events lie."""
        return self.outbox.folder

    @property
    def told_all(self) -> bool:
        """Whether all but numbers of training, and files of steps, was written."""
        return not self._owed and not self._lacks_a_page

    def failed_before(self) -> bool:
        """Whether a process that ended told an error of this run, in whichever of its outboxes."""
        others = (each for each in outboxes_of(self.folder.parent, self.outbox.target.run) if each != self.folder)
        return self.before.failed or any(told_before(each).failed for each in others)

    # -- events --------------------------------------------------------------------------------------------------------

    def begin(self, label: str, key: str) -> None:
        """A step is under way; how far others of the same run had come with it is known."""
        self.running[label] = key
        reached, run = self.before.reached, self.outbox.target.run
        for other in outboxes_of(self.folder.parent, run):
            if other != self.folder:
                found = told_before(other).reached
                reached |= {place: max(step, reached.get(place, -1)) for place, step in found.items()}

    def put(self, *events: Event, at: int | None = None) -> None:
        """Hand over events, in order; `at`: when they happened, where that is over."""
        at = at or self.at
        self._owed.extend(events if at is None else (msgspec.structs.replace(event, at=at) for event in events))
        self._settle()

    def metrics(self, part: str, *, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a part of a training, of the step under way: one write, and no more."""
        label = _label_of(part, self.running)
        new = {name: value for name, value in values.items() if name != "step"}
        if reached := self.before.reached:
            of = (label, self.running.get(label, ""))
            new = {name: value for name, value in new.items() if step > reached.get((*of, name), -1)}
        if not new:
            return
        try:
            if not self._owed or self._settle():
                self.outbox.put(metrics(label, new, step=step))
            else:
                self._lost += 1
        except TROUBLE as error:
            self._lose(error)

    def keep(self, files: Mapping[str, Path]) -> str | None:
        """`take`; None where there is no room."""
        try:
            return self.take(files)
        except OSError as error:
            self._lose(error)
            return None

    def take(self, files: Mapping[str, Path]) -> str:
        """Take files in, less the secrets in them. Raises OSError where there is no room."""
        return self.outbox.keep({name: shareable_file(path) for name, path in files.items()})

    def lack_a_page(self, error: OSError) -> None:
        """There is no room for one: the next run tells it."""
        self._lacks_a_page = True
        self.trouble(error)

    def sync(self) -> None:
        """Have what was put survive a power cut."""
        try:
            self.outbox.sync()
        except OSError as error:
            self.trouble(error)

    def lacks(self, label: str, artifact: Artifact) -> bool:
        """Whether a process that ended made this artifact and could not say so."""
        return label not in self.finished and label not in self.running and self.before.lacks(label, artifact)

    def trouble(self, error: BaseException) -> None:
        """Say it, the first time."""
        if not self._why:
            self._why = _told(error)
            self._say(
                f"tracking: {self.folder} cannot be written ({self._why}); the run goes on, and until that works the "
                "numbers and files of its steps are lost to its tracking server"
            )

    def _settle(self) -> bool:
        """Write what is owed; whether that is all of it."""
        while self._owed:
            try:
                self.outbox.put(self._owed[0])
            except OSError as error:
                self.trouble(error)
                return False
            except ValueError as error:  # it will never be a line
                self._lose(error)
            self._owed.popleft()
        return True

    def _lose(self, error: BaseException) -> None:
        self._lost += 1
        self.trouble(error)

    # -- the sender ----------------------------------------------------------------------------------------------------

    def send_by(self, start: Callable[[Path], SenderProcess]) -> None:
        """Have a process send what is put."""
        try:
            self._sender = start(self.folder)
        except OSError as error:
            self._say(
                f"tracking: the process that sends this run cannot be started ({_told(error)}); its events are kept in "
                f"{self.folder}, and the next run or `retort sync` sends them"
            )

    def rest(self) -> bool:
        """Have the sender sleep; whether it does."""
        try:
            return self._sender is None or self._sender.rest()
        except OSError:
            return False

    def go(self) -> None:
        """Have it go on."""
        with suppress(OSError):  # it has ended, and says so when it is waited for
            if self._sender is not None:
                self._sender.go()

    def end(self, wait_s: float, *, whole: bool) -> None:
        """Wait for the sender, for a while, let go of the outbox, and say what is left."""
        try:
            code = None if self._sender is None else self._sender.end(wait_s)
            self._tell_what_is_left(code)
        except OSError as error:
            self.trouble(error)
        finally:
            self.close(whole=whole)

    def close(self, *, whole: bool) -> None:
        """Let go of the outbox."""
        try:
            self.outbox.close(whole=whole)
        except OSError as error:
            self.trouble(error)

    def _tell_what_is_left(self, code: int | None) -> None:
        folder, left, state = self.folder, waiting(self.folder), read_state(self.folder)
        if left and self._sender is not None:
            at_it = "the process that sends them is still at it"
            why = state.why or (at_it if code is None else f"it ended with {code}; its log is {folder / LOG}")
            self._say(f"tracking: {left} events wait in {folder} ({why}); the next run or `retort sync` sends them")
        if state.refused:
            self._say(
                f"tracking: the server refused {state.refused} events of this run; they are kept in {folder / REFUSED}"
            )
        if self._lost:
            self._say(
                f"tracking: {self._lost} events of this run were lost, as they could not be written ({self._why})"
            )
        if self._owed:
            self._say("tracking: the end of this run could not be written; `retort run` of the same config tells it")
        elif self._lacks_a_page:
            self._say("tracking: a page of this run could not be written; `retort run` of the same config tells it")


def _label_of(part: str, running: Mapping[str, str]) -> str:
    """The step that a part of a training belongs to: the one under way, or of a group the one that ends with its name
    (graph.py calls them STAGE-PART)."""
    if len(running) == 1:
        return next(iter(running))
    return next((label for label in running if label.partition("-")[2] == part), PARENT)


def _told(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
