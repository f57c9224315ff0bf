"""A server on its cores from start to end: ours, or a peer in its own environment and folder."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from benchmarks.child import end_with_parent
from benchmarks.children import CHECKOUT, failure_of, last_lines
from benchmarks.openloop.running import on_cores, stop
from benchmarks.serving.asking import Answered, answer_of
from benchmarks.serving.contestants import CLASSIFIER, Peer
from benchmarks.serving.processes import strays
from serving.bundle import Bundle
from serving.errors import Failure, Transient

READY_S: Final = 120.0  # a server that answers nothing by then is given up
LOG: Final = "server.log"
_PAUSE_S: Final = 0.02
# Said to every peer as our own server says it to itself.
ONE_THREAD: Final = ("OMP_NUM_THREADS=1", "MKL_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "TOKENIZERS_PARALLELISM=false")


@dataclass(frozen=True)
class Served:
    """A server that has answered: how long after its start it said that it is ready, its first answer then, and how
    long that took."""

    name: str
    url: str  # where a request goes
    pid: int
    ready_s: float
    first_ms: float
    first: Any
    process: "subprocess.Popen[bytes]"
    log: Path

    def require_alive(self) -> None:
        """Raises a Failure with its last lines where it has ended."""
        if (code := self.process.poll()) is not None:
            raise failure_of(code)(f"{self.name} ended with exit code {code} while it was measured; {told(self.log)}")


@contextmanager
def peer_server(peer: Peer, *, programs: Path, bundle: Bundle, cores: Sequence[int], text: str) -> Iterator[Served]:
    """Started in a folder with its own files, the classifier's and peer.json.

    Raises:
        Failure: it, or what prepares it, ended; its last lines.
        Transient: it gave no good answer within READY_S.
    """
    with tempfile.TemporaryDirectory(prefix=f"retort-{peer.name}-", ignore_cleanup_errors=True) as name:
        folder, port = Path(name), free_port()
        _fill(folder, peer, bundle=bundle, port=port)
        if (folder / "prepare.py").is_file():
            _prepare(peer, folder, programs)
        command = in_environment(programs, peer.argv(bin_folder=programs, port=port))
        at, body = f"http://127.0.0.1:{port}", peer.bodies([text])[0]
        start = _Start(peer.name, folder, folder / LOG, at + peer.ready, at + peer.path, body)
        with _answering(start, command, cores=cores) as served:
            yield served


MANY: Final = ("--max-connections", "65536")  # an open loop has one for each request that is not answered yet


@contextmanager
def our_server(
    bundle: Bundle, *, arguments: Sequence[str], cores: Sequence[int], body: str, path: str, ready: str, python: str
) -> Iterator[Served]:
    """`python -m serving` with these arguments, as peers are started."""
    with tempfile.TemporaryDirectory(prefix="retort-ours-", ignore_cleanup_errors=True) as name:
        port = free_port()
        command = [python, "-m", "serving", str(bundle.path.resolve()), "--port", str(port), *MANY, *arguments]
        at = f"http://127.0.0.1:{port}"
        start = _Start("retort", CHECKOUT, Path(name) / LOG, at + ready, at + path, body)
        with _answering(start, command, cores=cores) as served:
            yield served


def in_environment(programs: Path, command: Sequence[str]) -> list[str]:
    """With the peer's programs before all others, as an activated environment has them, and one thread a library."""
    settings = (*ONE_THREAD, "ORT_DISABLE_TELEMETRY=1")  # our server sets it for itself
    return ["sh", "-c", 'PATH="$0:$PATH" exec "$@"', str(programs), "env", *settings, *command]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def told(log: Path) -> str:
    """The end of a message."""
    return f"its last lines:\n  {last_lines(log.read_text(encoding='utf-8', errors='replace'))}"


def _fill(folder: Path, peer: Peer, *, bundle: Bundle, port: int) -> None:
    for path in (CLASSIFIER, *(each for each in peer.folder.iterdir() if each.is_file())):
        shutil.copyfile(path, folder / path.name)
    spec = bundle.spec
    of_peer: Mapping[str, Any] = {
        "bundle": str(bundle.path.resolve()),
        "checkout": str(CHECKOUT),
        "labels": spec.labels,
        "max_length": spec.max_length,
        "port": port,
    }
    (folder / "peer.json").write_bytes(msgspec.json.encode(of_peer))


def _prepare(peer: Peer, folder: Path, programs: Path) -> None:
    command = in_environment(programs, [str(programs / "python"), "prepare.py"])
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"{peer.name} cannot be prepared; its last lines:\n  {last_lines(done.stderr)}")


class _Start(NamedTuple):
    """Where a server is started, and what it is asked then."""

    name: str
    folder: Path
    log: Path
    ready_url: str
    url: str
    body: str


@contextmanager
def _answering(start: _Start, command: Sequence[str], *, cores: Sequence[int]) -> Iterator[Served]:
    with ExitStack() as stack, start.log.open("wb") as output:
        with on_cores(cores):
            begun = time.perf_counter()
            process = subprocess.Popen(
                command,
                cwd=start.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        stack.callback(_stop, process)
        _until_good(start, process, url=start.ready_url, body=None)
        ready = time.perf_counter()
        first = _until_good(start, process, url=start.url, body=start.body)
        ended = time.perf_counter()
        _require_on(cores, start.name, process.pid)
        times = {"ready_s": ready - begun, "first_ms": (ended - ready) * 1e3}
        yield Served(start.name, start.url, process.pid, **times, first=first.json(), process=process, log=start.log)


def _require_on(cores: Sequence[int], name: str, pid: int) -> None:
    if cores and (away := strays(pid, cores)):
        had = ", ".join(map(str, cores))
        raise Failure(
            f"{name} has threads that may leave its cores ({len(away)} of them, it has {had}): what they take is not "
            "measured, and disturbs others"
        )


def _until_good(start: _Start, process: "subprocess.Popen[bytes]", *, url: str, body: str | None) -> Answered:
    until, last = time.perf_counter() + READY_S, "it listens nowhere"
    while time.perf_counter() < until:
        if (code := process.poll()) is not None:
            raise failure_of(code)(f"{start.name} ended with exit code {code} before it served; {told(start.log)}")
        found = answer_of(url, body)
        if found.ok:
            return found
        last = found.told
        time.sleep(_PAUSE_S)
    raise Transient(f"{start.name} gave no good answer within {READY_S:g} s ({last}); {told(start.log)}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """It, and whatever it has started."""
    stop(process)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # nothing was left
