"""`python -m pipeline.tracking.sender OUTBOX`: the process beside a run that sends what it tells, so that the run never
waits for a network.

Its parent holds the other end of its stdin: a line REST asks it to sleep (it answers RESTING and does nothing until
GO), and the end of the file says that the run has ended, or its process has: then it sends what there is and ends too.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from pipeline.errors import Failure, Transient
from pipeline.events import PARENT, Metrics, line_of
from pipeline.outbox import EVENTS, outboxes, read_target, writer_is_alive
from pipeline.tracking.machine_use import MachineUse
from pipeline.tracking.sender_process import GO, REST, RESTING
from pipeline.tracking.sending import send
from pipeline.tracking.sent import read_state, settled, waiting

POLL_S: Final = 0.5
LONGEST_WAIT_S: Final = 30.0  # between two tries while the server is away
LOOK_EVERY_S: Final = 10.0
LAST_TRIES, LAST_WAIT_S = 3, 1.0
AT_MOST_S: Final = 60  # after the run has ended, whatever a server does
NICER: Final = 5


class Parent:
    """What the run says through a pipe."""

    def __init__(self, pipe: int, answers: int) -> None:
        self._pipe, self._answers = pipe, answers
        self._said = b""
        self.gone = False

    def listen(self, wait_s: float) -> None:
        """Wait for a word, no longer than this; where it is REST, until there is another one."""
        if self.gone or not self._hear(wait_s):
            return
        while REST in self._said and not self.gone:
            self._said = self._said.partition(REST)[2]
            with suppress(BrokenPipeError):
                os.write(self._answers, RESTING)
            while GO not in self._said and not self.gone:
                self._hear(None)
            self._said = self._said.partition(GO)[2]

    def _hear(self, wait_s: float | None) -> bool:
        if not select.select([self._pipe], [], [], wait_s)[0]:
            return False
        said = os.read(self._pipe, 4096)
        self._said += said
        if not said:
            self.gone = True
            signal.alarm(AT_MOST_S)  # what is not sent by then waits on disk
        return True


class Sender:
    """Sends an outbox while its run goes on, and once what other runs of the workspace left."""

    def __init__(self, folder: Path, parent: Parent, look: Callable[[], dict[str, float]]) -> None:
        self._folder, self._parent, self._look = folder, parent, look
        self._made_at = read_target(folder).made_at
        self._look_at = time.monotonic() + 1.0  # also of a run that is soon over
        self._others = True
        self._told = ""

    def run(self) -> int:
        """Until the run has ended; the exit code: 0 where all was sent, else that of what prevented it."""
        wait_s = POLL_S
        while not self._parent.gone:
            code = self._try(self._folder)
            if code == 0 and self._others:
                self._others = False
                self._send_others()
            wait_s = POLL_S if code == 0 else min(2 * wait_s, LONGEST_WAIT_S)
            self._pause(wait_s)
        return self._finish()

    def _finish(self) -> int:
        """Of a run that was killed the lock may be freed a moment after the pipe."""
        code = Transient.exit_code
        for attempt in range(LAST_TRIES):
            time.sleep(LAST_WAIT_S if attempt else 0.0)
            code = self._try(self._folder)
            if code == 0 and not waiting(self._folder) and not read_state(self._folder).opened:
                return 0
        return code or Transient.exit_code

    def _pause(self, wait_s: float) -> None:
        end = time.monotonic() + wait_s
        while not self._parent.gone and (left := end - time.monotonic()) > 0:
            self._parent.listen(min(left, POLL_S))
            if not self._parent.gone and time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + LOOK_EVERY_S
                self._put(self._look())

    def _put(self, seen: dict[str, float]) -> None:
        """With the run's events: they wait with them where the server is away."""
        event = Metrics(of=PARENT, step=0, values=dict(seen))
        seconds = (event.at - self._made_at) // 1000
        descriptor = os.open(self._folder / EVENTS, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, line_of(Metrics(of=PARENT, at=event.at, step=seconds, values=event.values)))
        finally:
            os.close(descriptor)

    def _send_others(self) -> None:
        for folder in outboxes(self._folder.parent.parent):
            left = not writer_is_alive(folder) and not settled(folder)
            if self._parent.gone or (left and self._try(folder)):
                return  # this run comes first, and where one server is away the next one may be it

    def _try(self, folder: Path) -> int:
        try:
            send(folder, rest=lambda: self._parent.listen(0.0))
        except Failure as failure:
            if self._told != str(failure):
                self._told = str(failure)
                sys.stderr.write(f"{failure}\n")
                sys.stderr.flush()
            return failure.exit_code
        return 0


def main(arguments: Sequence[str]) -> int:
    """Send an outbox until its run has ended; the exit code."""
    os.nice(NICER)
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is for the log
    parent = Parent(sys.stdin.fileno(), answers)
    return Sender(Path(arguments[0]), parent, MachineUse(os.getppid()).look).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
