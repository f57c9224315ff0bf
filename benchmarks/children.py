"""Starting one child process and waiting for it, asleep: a busy parent would sit on the core beside the measurement."""

import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from serving.errors import BadArtifact, BadRequest, Failure, Transient

CHECKOUT: Final = Path(__file__).resolve().parents[1]
LAST_LINES: Final = 6
GO: Final = b"\n"  # a line on stdin: it is your turn
OUT_OF_MEMORY: Final = (
    "the kernel's out-of-memory killer does this; free memory, or measure fewer variants: those of a repeat are all "
    "loaded at once"
)
_BY_CODE: Final = {kind.exit_code: kind for kind in (BadRequest, BadArtifact, Transient)}
_Result = TypeVar("_Result")


class Job(Protocol):
    """What a module can be asked: a msgspec struct that it reads back, of some variant."""

    @property
    def variant(self) -> str: ...


class _Progress(msgspec.Struct):
    done: int
    total: int


class _Files(NamedTuple):
    job: Path
    result: Path
    errors: Path


class Child(Generic[_Result]):
    """A process that measures, and says after each step how many requests it has done; closed, it is ended."""

    def __init__(self, job: Job, process: subprocess.Popen[bytes], files: _Files, result_type: type[_Result]) -> None:
        self._job, self._process, self._files, self._result_type = job, process, files, result_type

    def counts(self) -> Iterator[int]:
        """The requests done so far, each time it says so, until it ends."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield msgspec.json.decode(line, type=_Progress).done

    def ready(self) -> int:
        """Wait until it says so once more."""
        for done in self.counts():
            return done
        raise self._failure()

    def turn(self) -> None:
        """Let it go on."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(GO)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def step(self) -> None:
        """A turn that is not the last one; returns when it is over."""
        self.turn()
        self.ready()

    def last(self) -> _Result:
        """Its last turn."""
        self.turn()
        return self.result()

    def result(self) -> _Result:
        """Wait for its end, and read what it found.

        Raises:
            Failure: it died; the message names the variant, the exit code and its last lines. An expected failure of
                the child is raised as what it was (BadArtifact and so on).
        """
        if self._process.wait() or not self._files.result.is_file():
            raise self._failure()
        return msgspec.json.decode(self._files.result.read_bytes(), type=self._result_type)

    def kill(self) -> None:
        self._process.kill()

    def _failure(self) -> Failure:
        told = self._files.errors.read_text(encoding="utf-8", errors="replace")
        return _failure(self._job.variant, self._process.wait(), stderr=told)


@contextmanager
def child(
    job: Job, *, result_type: type[_Result], threads: int, module: str, turns: bool = False
) -> Iterator[Child[_Result]]:
    """Start `module` on the job; ended when the parent leaves early (an error, an interrupt). With `turns` it waits for
    `Child.turn`, and ends when nobody can tell it any more."""
    with tempfile.TemporaryDirectory(prefix="retort-measure-") as folder:
        files = _Files(*(Path(folder) / name for name in ("job.json", "result.json", "stderr.txt")))
        files.job.write_bytes(msgspec.json.encode(job))
        stdin = subprocess.PIPE if turns else subprocess.DEVNULL
        with files.errors.open("wb") as stderr, _process(_command(module, threads), files, stdin, stderr) as process:
            yield Child(job, process, files, result_type)


def run_child(
    job: Job,
    *,
    result_type: type[_Result],
    threads: int,
    tell: Callable[[int], None],
    module: str = "benchmarks.worker",
    limit_s: float | None = None,
) -> _Result:
    """Measure in a process of its own, from start to end; `tell` gets the count of requests done so far. After
    `limit_s` it is killed.

    Raises:
        Failure: as `Child.result`, or it was not done in time.
    """
    started = child(job, result_type=result_type, threads=threads, module=module)
    with started as one, _ended_after(limit_s, one) as ended:
        for done in one.counts():
            tell(done)
        try:
            return one.result()
        except Failure:
            if not ended.is_set():
                raise
            told = f"measuring {job.variant}: the process was not done within {limit_s:g} s and was ended"
            raise Failure(told) from None


@contextmanager
def _ended_after(limit_s: float | None, one: Child[Any]) -> Iterator[threading.Event]:
    """The event is set when the process was killed for its time."""
    ended = threading.Event()

    def end() -> None:
        ended.set()
        one.kill()

    timer = threading.Timer(limit_s or 0, end)
    if limit_s is not None:
        timer.start()
    try:
        yield ended
    finally:
        timer.cancel()


def _command(module: str, threads: int) -> list[str]:
    """`env` adds to the environment without our reading it; all settings must be there before any library loads."""
    settings = [f"OMP_NUM_THREADS={threads}", f"MKL_NUM_THREADS={threads}", "TOKENIZERS_PARALLELISM=false"]
    return ["env", *settings, "ORT_DISABLE_TELEMETRY=1", sys.executable, "-m", module]


@contextmanager
def _process(command: list[str], files: _Files, stdin: int, stderr: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The process, killed when the parent leaves early."""
    arguments = [*command, str(files.job), str(files.result)]
    process = subprocess.Popen(arguments, cwd=CHECKOUT, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


def _failure(variant: str, code: int, *, stderr: str) -> Failure:
    told = last_lines(stderr)
    if code < 0:
        name = signal.Signals(-code).name
        hint = f" ({OUT_OF_MEMORY})" if name == "SIGKILL" else ""
        return Failure(f"measuring {variant}: the process was ended by {name}{hint}; its last lines:\n  {told}")
    return failure_of(code)(f"measuring {variant}: the process ended with exit code {code}; its last lines:\n  {told}")


def last_lines(stderr: str) -> str:
    """What a process said before it ended, for the end of a message."""
    lines = [line for line in stderr.splitlines() if line.strip()][-LAST_LINES:]
    return "\n  ".join(lines) or "(it wrote nothing to stderr)"


def failure_of(code: int) -> type[Failure]:
    """What a process of ours that ended with this exit code raised."""
    return _BY_CODE.get(code, Failure)
