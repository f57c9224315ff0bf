"""Servers to be loaded, each in a process of its own on cores of its own: the real one, and whatever else says where it
listens."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.children import CHECKOUT, failure_of, last_lines
from benchmarks.pinning import pin
from serving.errors import Failure

_STOP_S: Final = 40  # the server gives requests under way 30 s


@dataclass
class Running:
    """A server that has said where it listens."""

    url: str
    process: "subprocess.Popen[str]"
    log: Path

    def require_alive(self) -> None:
        """Raises a Failure with its last lines where the server has ended."""
        if self.process.poll() is not None:
            raise _ended(self.process.wait(), "while it was measured", log=self.log)


@contextmanager
def real_server(bundle: Path, *, threads: int, queue: int, cores: Sequence[int]) -> Iterator[Running]:
    """`python -m serving` on a free port.

    Raises:
        Failure: it did not start; its own message.
    """
    command = ["serving", str(bundle.resolve()), "--port", "0", "--threads", str(threads), "--queue", str(queue)]
    command += ["--max-connections", "65536"]  # an open loop has one for each request that is not answered yet
    with running(command, cores=cores) as server:
        yield server


@contextmanager
def running(arguments: Sequence[str], *, cores: Sequence[int]) -> Iterator[Running]:
    """A Python module (and its arguments) whose first line names its http:// address, until the block ends, or this
    process."""
    with tempfile.TemporaryDirectory(prefix="retort-server-") as folder:
        log = Path(folder) / "stderr.txt"
        with log.open("w") as stderr, _started(arguments, cores=cores, stderr=stderr.fileno()) as process:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            if not found:
                raise _ended(process.wait(), "before it served", log=log)
            yield Running(url=found.group(), process=process, log=log)


@contextmanager
def _started(arguments: Sequence[str], *, cores: Sequence[int], stderr: int) -> "Iterator[subprocess.Popen[str]]":
    with on_cores(cores):
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.child", *arguments],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        yield process
    finally:
        stop(process)


@contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """What this thread starts meanwhile inherits its cores, from the first instruction on."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    pin(cores)
    try:
        yield
    finally:
        pin(tuple(before))


def stop(process: "subprocess.Popen[Any]") -> None:
    """Ask it to end, and then make it."""
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()


def _ended(code: int, when: str, *, log: Path) -> Failure:
    told = last_lines(log.read_text(encoding="utf-8", errors="replace"))
    return failure_of(code)(f"the server ended with exit code {code} {when}; its last lines:\n  {told}")
