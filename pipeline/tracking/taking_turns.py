"""Who measures and who sends in a workspace: while one measures, no sender does anything, whichever run it is of.

    WORKSPACE/outbox/measuring.lock    shared by those who measure
    WORKSPACE/outbox/sending.lock      shared by the senders that are at work

Who measures takes the first and then waits until nobody has the second; a sender takes the second and then looks
whether somebody has the first: one of two that begin at once sees the other. The kernel frees both at a kill -9.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

MEASURING, SENDING = "measuring.lock", "sending.lock"
POLL_S: Final = 0.01


class Measuring:
    """A run's part: all senders of its workspace rest between `begin` and `end`. Several may measure at once."""

    def __init__(self, area: Path) -> None:
        self._area = area
        self._held: int | None = None

    def begin(self, wait_s: float) -> bool:
        """From now on no sender begins with anything; False where one was still at something after `wait_s`, or where
        the file system has no locks."""
        end = time.monotonic() + wait_s
        try:
            if self._held is None:
                self._held = _open(self._area / MEASURING)
            return _take(self._held, fcntl.LOCK_SH, end) and self._all_rest(end)
        except OSError:
            return False

    def end(self) -> None:
        """Senders may go on, as far as it depends on this run."""
        if self._held is not None:
            fcntl.flock(self._held, fcntl.LOCK_UN)  # also of a worker process that was forked meanwhile
            os.close(self._held)
            self._held = None

    def _all_rest(self, end: float) -> bool:
        senders = _open(self._area / SENDING)
        try:
            return _take(senders, fcntl.LOCK_EX, end)
        finally:
            os.close(senders)


class Turn:
    """A sender's part: it is at work but for the blocks of `idle`."""

    def __init__(self, area: Path, held: int) -> None:
        """`held` is from `taken_for_a_sender`."""
        self._measuring, self._sending = _open(area / MEASURING), held

    def give_way(self) -> None:
        """Between two requests: sleep for as long as somebody measures."""
        if self._is_measured():
            with self.idle():
                pass

    @contextmanager
    def idle(self) -> Iterator[None]:
        """For a `with` around what disturbs nobody; its end waits until nobody measures."""
        fcntl.flock(self._sending, fcntl.LOCK_UN)
        yield
        while True:
            fcntl.flock(self._measuring, fcntl.LOCK_EX)  # in the kernel: who waits here uses no CPU
            fcntl.flock(self._measuring, fcntl.LOCK_UN)
            fcntl.flock(self._sending, fcntl.LOCK_SH)
            if not self._is_measured():
                return
            fcntl.flock(self._sending, fcntl.LOCK_UN)

    def _is_measured(self) -> bool:
        try:
            fcntl.flock(self._measuring, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._measuring, fcntl.LOCK_UN)
        return False


def taken_for_a_sender(area: Path) -> int:
    """A descriptor for a process that is about to be started: it counts as at work from its birth on, and with its last
    copy the kernel frees it."""
    descriptor = _open(area / SENDING)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def _take(descriptor: int, how: int, end: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(POLL_S)
        else:
            return True
