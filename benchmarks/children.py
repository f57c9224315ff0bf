"""Starting one child process and waiting for it, asleep: a busy parent would sit on the core beside the measurement."""

import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Protocol, TypeVar

import msgspec

from serving.errors import BadArtifact, BadRequest, Failure, Transient

CHECKOUT: Final = Path(__file__).resolve().parents[1]
LAST_LINES: Final = 6
_BY_CODE: Final = {kind.exit_code: kind for kind in (BadRequest, BadArtifact, Transient)}
_Result = TypeVar("_Result")


class Job(Protocol):
    """What a module can be asked: a msgspec struct that it reads back, of some variant."""

    @property
    def variant(self) -> str: ...


class _Progress(msgspec.Struct):
    done: int
    total: int


def run_child(
    job: Job,
    *,
    result_type: type[_Result],
    threads: int,
    tell: Callable[[int], None],
    module: str = "benchmarks.worker",
    limit_s: float | None = None,
) -> _Result:
    """Measure in a process of its own; `tell` gets the count of requests done so far. After `limit_s` it is killed.

    Raises:
        Failure: the child died; the message names the variant, the exit code and its last lines. An expected failure of
            the child is raised as what it was (BadArtifact and so on).
    """
    with tempfile.TemporaryDirectory(prefix="retort-measure-") as folder:
        job_file, result_file, errors = (Path(folder) / name for name in ("job.json", "result.json", "stderr.txt"))
        job_file.write_bytes(msgspec.json.encode(job))
        with errors.open("wb") as stderr, _child(_command(module, threads), job_file, result_file, stderr) as process:
            assert process.stdout is not None
            with _ended_after(limit_s, process) as ended:
                for line in process.stdout:
                    tell(msgspec.json.decode(line, type=_Progress).done)
                code = process.wait()
        if ended.is_set():
            raise Failure(f"measuring {job.variant}: the process was not done within {limit_s:g} s and was ended")
        if code or not result_file.is_file():
            raise _failure(job.variant, code, stderr=errors.read_text(encoding="utf-8", errors="replace"))
        return msgspec.json.decode(result_file.read_bytes(), type=result_type)


@contextmanager
def _ended_after(limit_s: float | None, process: subprocess.Popen[bytes]) -> Iterator[threading.Event]:
    """The event is set when the process was killed for its time."""
    ended = threading.Event()

    def end() -> None:
        ended.set()
        process.kill()

    timer = threading.Timer(limit_s or 0, end)
    if limit_s is not None:
        timer.start()
    try:
        yield ended
    finally:
        timer.cancel()


def _command(module: str, threads: int) -> list[str]:
    """`env` adds to the environment without our reading it; both settings must be there before any library loads."""
    settings = [f"OMP_NUM_THREADS={threads}", f"MKL_NUM_THREADS={threads}", "TOKENIZERS_PARALLELISM=false"]
    return ["env", *settings, sys.executable, "-m", module]


@contextmanager
def _child(
    command: list[str], job_file: Path, result_file: Path, stderr: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """The process, killed when the parent leaves early (an error, an interrupt)."""
    arguments = [*command, str(job_file), str(result_file)]
    process = subprocess.Popen(arguments, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def _failure(variant: str, code: int, *, stderr: str) -> Failure:
    lines = [line for line in stderr.splitlines() if line.strip()][-LAST_LINES:]
    told = "\n  ".join(lines) or "(it wrote nothing to stderr)"
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (the kernel's out-of-memory killer does this; free memory and run again)" if name == "SIGKILL" else ""
        return Failure(f"measuring {variant}: the process was ended by {name}{hint}; its last lines:\n  {told}")
    kind = _BY_CODE.get(code, Failure)
    return kind(f"measuring {variant}: the process ended with exit code {code}; its last lines:\n  {told}")
