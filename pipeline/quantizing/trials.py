"""A process of its own for one piece of a search, and waiting for it, asleep: what it found, or why there is nothing.

Both halves stand here: `in_process` starts `python -m MODULE JOB.json RESULT.json`, whose last line is `child_main`.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from benchmarks.children import CHECKOUT, last_lines
from pipeline.errors import BadArtifact, BadRequest, Failure, GateFailed, Transient

MARK: Final = "retort: "  # before an expected failure's message, the last on stderr
_BY_CODE: Final = {kind.exit_code: kind for kind in (BadRequest, BadArtifact, GateFailed, Transient)}
_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


def in_process(
    module: str,
    job: Any,
    *,
    result_type: type[_Result],
    threads: int,
    scratch: Path,
    seconds: float | None = None,
) -> _Result:
    """Run the module's main over the job.

    Raises:
        Failure: there is no result. An expected failure of the child is raised as what it was, with its message;
            otherwise the message has the signal or exit code and the child's last lines, or the `seconds` it had.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        job_file, result_file = Path(folder) / "job.json", Path(folder) / "result.json"
        job_file.write_bytes(msgspec.json.encode(job))
        code, stderr = _wait([*_command(module, threads), str(job_file), str(result_file)], seconds)
        if code or not result_file.is_file():
            raise _failure(code, stderr=stderr)
        try:
            return msgspec.json.decode(result_file.read_bytes(), type=result_type)
        except msgspec.DecodeError as error:
            raise Failure(f"what the process wrote cannot be read: {error}") from error


def child_main(arguments: Sequence[str], job_type: type[_Job], work: Callable[[_Job], object]) -> int:
    """Read the job, write what `work` returns; the exit code. It ends with its parent."""
    from pipeline.store import trouble_is_transient

    _end_with_parent()
    job_file, result_file = map(Path, arguments)
    job = msgspec.json.decode(job_file.read_bytes(), type=job_type)
    try:
        with trouble_is_transient(result_file.parent):
            result_file.write_bytes(msgspec.json.encode(work(job)))
    except Failure as failure:
        sys.stderr.write(f"\n{MARK}{failure}\n")
        return failure.exit_code
    return 0


def _end_with_parent() -> None:
    """The parent holds the other end of stdin and writes nothing: when it ends, however it does, reading does too."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def _command(module: str, threads: int) -> list[str]:
    """`env` adds to the environment without our reading it; the settings must be there before any library loads."""
    settings = [f"OMP_NUM_THREADS={threads}", f"MKL_NUM_THREADS={threads}", "TOKENIZERS_PARALLELISM=false"]
    return ["env", *settings, sys.executable, "-m", module]


def _wait(command: list[str], seconds: float | None) -> tuple[int, str]:
    """The exit code and stderr of a process that is killed when this one leaves early; at the end of ours, however it
    comes, its stdin closes, which ends it too."""
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=CHECKOUT, stdin=pipe, stdout=nothing, stderr=pipe)
    assert process.stdin is not None
    assert process.stderr is not None
    kept_open, process.stdin = process.stdin, None  # which communicate() would close
    try:
        _, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise Failure(f"not done within the {seconds:.0f} s that were left of the search; give it more") from error
    finally:
        process.kill()
        process.wait()
        kept_open.close()
        process.stderr.close()
    return process.returncode, stderr.decode(errors="replace")


def _failure(code: int, *, stderr: str) -> Failure:
    kind, (before, mark, said) = _BY_CODE.get(code, Failure), stderr.rpartition(f"\n{MARK}")
    if mark and code in _BY_CODE:
        return kind(said.strip())
    told = last_lines(before + said)
    if code >= 0:
        return kind(f"the process ended with exit code {code}; its last lines:\n  {told}")
    name = signal.Signals(-code).name
    hint = " (the kernel's out-of-memory killer does this; free memory and run again)" if name == "SIGKILL" else ""
    return Failure(f"the process was ended by {name}{hint}; its last lines:\n  {told}")
