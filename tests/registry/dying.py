"""MLflow's server on a file of sqlite, killed before a chosen commit. Light: each is forked from a process that has
it loaded, and all of them answer at one address."""

import os
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
from registries import START_S, Registry, free_port
from registry.children import FORKS, Moments

NO_FILES = Path("/nowhere")
# Its connections are cut a moment before a killed process can be waited for, so that whoever asks then whether it is
# dead yet may hear no. The first fatal signal is the one a process is said to have died of.
ENDED_BY_US = signal.SIGUSR1


class Servers:
    """One after the other, of one database."""

    def __init__(self, port: int, line: Connection) -> None:
        self.registry, self._line = Registry(f"http://127.0.0.1:{port}"), line

    @contextmanager
    def killed_at(self, moment: int | None) -> Iterator[list[bool]]:
        """A server that is killed before it commits that often (None: whatever it does), and at the end of the block at
        the latest; whether it was before that is in the list afterwards."""
        died: list[bool] = []
        self._line.send(moment)
        end = time.monotonic() + START_S
        while not self._answers():
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.02)
        try:
            yield died
        finally:
            self._line.send("end")
            died.append(self._line.recv())

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.registry.uri}/health", timeout=5.0).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def servers(database: Path, artifacts: Path) -> Iterator[Servers]:
    """Of a database that has its tables."""
    port = free_port()
    ours, theirs = FORKS.Pipe()
    process = FORKS.Process(target=_serve_when_asked, args=(database, artifacts, port, theirs))
    process.start()
    theirs.close()
    try:
        yield Servers(port, ours)
    finally:
        ours.close()
        process.join()


def _serve_when_asked(database: Path, artifacts: Path, port: int, line: Connection) -> None:
    """The target of a process, which ends, with its server, when the other end of its line does."""
    os.environ |= {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{database}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(artifacts),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.server.fastapi_app  # noqa: F401  (what each child goes on from)

    while True:
        try:
            moment = line.recv()
        except EOFError:
            return
        child = os.fork()
        if not child:
            _serve(port, moment)
        try:
            line.recv()
        except EOFError:
            os.kill(child, signal.SIGKILL)
            return
        os.kill(child, ENDED_BY_US)
        _, status = os.waitpid(child, 0)
        line.send(os.WTERMSIG(status) == signal.SIGKILL)


def _serve(port: int, moment: int | None) -> None:
    import uvicorn
    from mlflow.server.fastapi_app import app

    Moments(NO_FILES, moment).watch()
    try:
        uvicorn.run(app, host="127.0.0.1", port=port, log_level="critical")
    finally:
        os._exit(1)
