"""A run's hold on its sender (sender.py): started, put to sleep while times are measured, and waited for at the end."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from pipeline.tracking.sent import LOG
from pipeline.tracking.taking_turns import Measuring, taken_for_a_sender

REST_WAIT_S: Final = 60.0  # a file that is being uploaded is not interrupted
AT_MOST_S: Final = 60.0  # after the run has ended, whatever a server does
_AT_WORK: Final[list["subprocess.Popen[bytes]"]] = []  # Python warns of a process that runs and is forgotten
CHECKOUT: Final = Path(__file__).resolve().parents[2]


class SenderProcess:
    """A process that sends one outbox. It is in a session of its own: ctrl-C is for the run, which says when to end."""

    def __init__(self, folder: Path, *, at_most_s: float = AT_MOST_S) -> None:
        # `env` adds to the environment without our reading it.
        command = ["env", "MLFLOW_DISABLE_TELEMETRY=true", sys.executable, "-m", "pipeline.tracking.sender"]
        self._measuring = Measuring(folder.parent)
        turn = taken_for_a_sender(folder.parent)
        try:
            with (folder / LOG).open("ab") as log:
                self._process = subprocess.Popen(
                    [*command, str(folder), str(turn), f"{at_most_s:g}"],
                    cwd=CHECKOUT,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=(turn,),
                    start_new_session=True,
                )
        finally:
            os.close(turn)  # the process has its own copy

    def rest(self, wait_s: float = REST_WAIT_S) -> bool:
        """Have every sender of the workspace sleep; False where one was still at work after `wait_s`, as in a request
        that nobody answers. It sleeps then as soon as that is over."""
        return self._measuring.begin(wait_s)

    def go(self) -> None:
        """Have them go on."""
        self._measuring.end()

    def end(self, wait_s: float) -> int | None:
        """Say that the run has ended, and wait for its exit code, which is 0 where all was sent. None: what it has not
        done by now it goes on with for a while."""
        assert self._process.stdin is not None
        self.go()
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            return self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            _AT_WORK.append(self._process)
            return None
