"""`python -m pipeline.tracking.sender OUTBOX LOCK SECONDS`: the process beside a run that sends what it tells, so that
the run never waits for a network.

Its parent holds the other end of its stdin: the end of that file says that the run has ended, or its process has. Then
it sends what there is and ends too, at the latest after SECONDS. LOCK is the descriptor of its turn (taking_turns.py):
while a run of the workspace measures, it sleeps.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Final

from pipeline.errors import Failure, Transient
from pipeline.events import PARENT, Metrics, line_of
from pipeline.outbox import append_line
from pipeline.outbox_reading import EVENTS, outboxes, read_target, writer_is_alive
from pipeline.tracking.machine_use import MachineUse
from pipeline.tracking.sending import send
from pipeline.tracking.sent import Busy, read_state, settled, waiting
from pipeline.tracking.taking_turns import Turn

POLL_S: Final = 0.5
LONGEST_WAIT_S: Final = 30.0  # between two tries while the server is away
LOOK_EVERY_S: Final = 10.0
LAST_TRIES, LAST_WAIT_S = 3, 1.0
NICER: Final = 5


class _RunEnded(Exception):  # noqa: N818
    """What other runs left is left to another one."""


def watch(pipe: int, *, at_most_s: float) -> Event:
    """What is set when a pipe's other end is closed. That is seen whatever the rest of this process hangs in, and from
    then on it has `at_most_s`: the kernel ends it by SIGALRM, and what is not sent by then waits on disk."""
    ended = Event()

    def wait() -> None:
        while os.read(pipe, 4096):
            pass
        signal.setitimer(signal.ITIMER_REAL, at_most_s)
        ended.set()

    Thread(target=wait, daemon=True).start()
    return ended


class Sender:
    """Sends an outbox while its run goes on, and once what other runs of the workspace left."""

    def __init__(self, folder: Path, *, ended: Event, turn: Turn, look: Callable[[], dict[str, float]]) -> None:
        self._folder, self._ended, self._turn, self._look = folder, ended, turn, look
        self._made_at = read_target(folder).made_at
        self._look_at = time.monotonic() + 1.0  # also of a run that is soon over
        self._wait_s, self._due = POLL_S, 0.0
        self._told: dict[Path, str] = {}

    def run(self) -> int:
        """Until the run has ended; the exit code: 0 where all was sent, else that of what prevented it."""
        self._turn.give_way()
        others = True
        while not self._ended.is_set():
            if self._send_own() == 0 and others:
                others = False
                self._send_others()
            self._pause()
        return self._finish()

    def _finish(self) -> int:
        """Of a run that was killed the lock may be freed a moment after the pipe."""
        code = Transient.exit_code
        for attempt in range(LAST_TRIES):
            if attempt:
                with self._turn.idle():
                    time.sleep(LAST_WAIT_S)
            code = self._try(self._folder, rest=self._turn.give_way, wait_s=None)
            if code == 0 and not waiting(self._folder) and not read_state(self._folder).opened:
                return 0
        return code or Transient.exit_code

    def _send_own(self) -> int:
        code = self._try(self._folder, rest=self._between)
        self._wait_s = POLL_S if code == 0 else min(2 * self._wait_s, LONGEST_WAIT_S)
        self._due = time.monotonic() + self._wait_s
        return code

    def _send_others(self) -> None:
        with suppress(_RunEnded):
            for folder in outboxes(self._folder.parent.parent):
                left = not writer_is_alive(folder) and not settled(folder)
                if left and self._try(folder, rest=self._between_others):
                    return  # where one server is away the next one may be it

    def _pause(self) -> None:
        while not self._ended.is_set() and (left := self._due - time.monotonic()) > 0:
            with self._turn.idle():
                self._ended.wait(min(left, POLL_S))
            self._between()

    def _between(self) -> None:
        """Between two requests."""
        self._turn.give_way()
        if not self._ended.is_set() and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_EVERY_S
            self._put_a_look()

    def _between_others(self) -> None:
        """Between two requests for another run: what this one has told meanwhile comes first."""
        self._between()
        if self._ended.is_set():
            raise _RunEnded
        if time.monotonic() >= self._due:
            self._send_own()

    def _put_a_look(self) -> None:
        """With the run's events: they wait with them where the server is away. A full disk costs a look, and so does
        a machine that answers what nobody expects: the run is sent whatever comes of it."""
        path = self._folder / EVENTS
        try:
            event = Metrics(of=PARENT, step=0, values=dict(self._look()))
            seconds = (event.at - self._made_at) // 1000
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
            try:
                append_line(descriptor, line_of(Metrics(of=PARENT, at=event.at, step=seconds, values=event.values)))
            finally:
                os.close(descriptor)
        except Exception as error:  # noqa: BLE001
            told = error if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            self._say(path, f"what the run takes of its machine is not told ({told})")

    def _try(self, folder: Path, *, rest: Callable[[], None], wait_s: float | None = 0.0) -> int:
        try:
            send(folder, rest=rest, wait_s=wait_s)
        except Failure as failure:
            if isinstance(failure, Busy) and folder != self._folder:
                return 0  # its own sender is still at it
            self._say(folder, str(failure))
            return failure.exit_code
        except OSError as error:  # how far it came cannot be noted: what was sent is sent again, which doubles nothing
            self._say(folder, f"{folder} cannot be sent ({error})")
            return Transient.exit_code
        return 0

    def _say(self, about: Path, text: str) -> None:
        """Once, in the log, which a full disk may not take."""
        if self._told.get(about) != text:
            self._told[about] = text
            _log(text)


def _log(text: str) -> None:
    with suppress(OSError):
        os.write(sys.stderr.fileno(), f"{text}\n".encode())


def looks_at(process: int, folder: Path) -> Callable[[], dict[str, float]]:
    """`MachineUse.look`, or what raises each time why there is none."""
    try:
        return MachineUse(process, folder, say=_log).look
    except Exception as error:  # noqa: BLE001  (as in Sender)
        return partial(_raise, error)


def _raise(error: Exception) -> dict[str, float]:
    raise error


def main(arguments: Sequence[str]) -> int:
    """Send an outbox until its run has ended; the exit code."""
    folder, lock, at_most_s = Path(arguments[0]), int(arguments[1]), float(arguments[2])
    os.nice(NICER)
    os.set_inheritable(lock, False)
    ended = watch(sys.stdin.fileno(), at_most_s=at_most_s)
    turn = Turn(folder.parent, lock)
    return Sender(folder, ended=ended, turn=turn, look=looks_at(os.getppid(), folder)).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
