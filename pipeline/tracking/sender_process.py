"""A run's hold on its sender (sender.py): started, put to sleep while times are measured, and waited for at the end."""

import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from pipeline.tracking.sent import LOG

REST, GO, RESTING = b"rest\n", b"go\n", b"resting\n"
REST_WAIT_S: Final = 60.0  # a file that is being uploaded is not interrupted
_AT_WORK: Final[list["subprocess.Popen[bytes]"]] = []  # Python warns of a process that runs and is forgotten
CHECKOUT: Final = Path(__file__).resolve().parents[2]


class SenderProcess:
    """A process that sends one outbox. It is in a session of its own: ctrl-C is for the run, which says when to end."""

    def __init__(self, folder: Path) -> None:
        # `env` adds to the environment without our reading it.
        command = ["env", "MLFLOW_DISABLE_TELEMETRY=true", sys.executable, "-m", "pipeline.tracking.sender"]
        with (folder / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                [*command, str(folder)],
                cwd=CHECKOUT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def rest(self, wait_s: float = REST_WAIT_S) -> bool:
        """Have it sleep; False where it did not say within `wait_s` that it does."""
        assert self._process.stdout is not None
        if not self._tell(REST):
            return True  # it has ended, and sleeps well
        end, said = time.monotonic() + wait_s, b""
        while RESTING not in said:
            if not select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                return False
            heard = os.read(self._process.stdout.fileno(), 4096)
            if not heard:
                return True
            said += heard
        return True

    def go(self) -> None:
        """Have it go on."""
        self._tell(GO)

    def end(self, wait_s: float) -> int | None:
        """Say that the run has ended, and wait for its exit code, which is 0 where all was sent. None: what it has not
        done by now it goes on with for a while."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            return self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            _AT_WORK.append(self._process)
            return None
        finally:
            self._process.stdout.close()

    def _tell(self, word: bytes) -> bool:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(word)
            self._process.stdin.flush()
        except BrokenPipeError:
            return False
        return True
