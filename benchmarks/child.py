"""A measuring process's side of children.py: it reads a job, waits for its turns, tells how far it is, and ends with
the one who asked. `python -m benchmarks.child MODULE ARGUMENT...` runs any other module so that it ends with its
parent."""

import ctypes
import errno
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.pinning import pin
from serving.errors import Failure, Transient

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def child_main(arguments: Sequence[str], job_type: Any, measure: Callable[[Any], Any]) -> int:
    """Read a job, pin this process to its cores, write what `measure` finds; the exit code."""
    end_with_parent()
    job_file, result_file = map(Path, arguments)
    job = msgspec.json.decode(job_file.read_bytes(), type=job_type)
    try:
        pin(job.cores)
        result_file.write_bytes(msgspec.json.encode(measure(job)))
    except Failure as failure:
        sys.stderr.write(f"{failure}\n")
        return failure.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.stderr.write(f"no space left on the disk of {error.filename or result_file.parent}; free some\n")
        return Transient.exit_code
    return 0


def end_with_parent() -> None:
    """Be killed when the parent is, however it ends: what measures on for nobody disturbs the next session. Only Linux
    can; elsewhere a process ends at its next turn."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def await_turn() -> None:
    """Sleep until the parent says so.

    Raises:
        Transient: it never will, for it has ended.
    """
    if not sys.stdin.readline():
        raise Transient("the session has ended: nobody waits for this process's times")


def tell(done: int, total: int) -> None:
    """A line of progress for the parent."""
    sys.stdout.write(f'{{"done": {done}, "total": {total}}}\n')
    sys.stdout.flush()


if __name__ == "__main__":
    end_with_parent()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
