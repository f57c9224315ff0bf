"""Processes that register and are killed at a chosen moment. Light: each is forked from one that has MLflow loaded."""

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any, Final

from pipeline.errors import Failure
from pipeline.tracking.registering import Offer, register

FORKS: Final = get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "mlflow.store.model_registry.sqlalchemy_store",
        "mlflow.store.tracking.sqlalchemy_store",
        "mlflow.tracking.client",
        "pipeline.promotion",
        "pipeline.tracking.registering",
        "serving.bundle",
        "sqlalchemy.dialects.sqlite",
    ]
)
CHANGES: Final = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")


def pool(processes: int) -> ProcessPoolExecutor:
    """Forked processes that end with this one, however it ends: left alone they would wait for work for ever."""
    return ProcessPoolExecutor(processes, mp_context=FORKS, initializer=_end_with_parent)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


def register_in_child(offer: Offer, uri: str, workspace: Path, environment: Mapping[str, str]) -> str:
    """Register and give the version back: the target of a pool's process. What it leaves in the folder for temporary
    files when it is killed lies beside the workspace."""
    os.environ.update(environment)
    tempfile.tempdir = str(workspace.parent)
    return register(offer, uri=uri, workspace=workspace).version


def register_or_say_why(offer: Offer, uri: str, workspace: Path, environment: Mapping[str, str]) -> None:
    """The target of a process that may be killed: it ends with the failure's code."""
    try:
        register_in_child(offer, uri, workspace, environment)
    except Failure as failure:
        sys.stderr.write(f"{failure}\n")
        raise SystemExit(failure.exit_code) from failure


@dataclass
class Moments:
    """The moments at which a process changes what is on disk under `below`: files, and commits of a database that was
    written to, counted from 1. At number `last` the process is killed, before the change is made."""

    below: Path
    last: int | None
    seen: list[str] = field(default_factory=list)
    _written: set[int] = field(default_factory=set)  # connections with something to commit

    def watch(self) -> None:
        from sqlalchemy import event
        from sqlalchemy.engine import Engine

        event.listen(Engine, "before_cursor_execute", self._execute)
        event.listen(Engine, "commit", self._commit)
        sys.addaudithook(self._hear)

    def _pass_by(self, what: str) -> None:
        self.seen.append(what)
        if len(self.seen) == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def _execute(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.split(maxsplit=1)[0] in ("INSERT", "UPDATE", "DELETE"):
            self._written.add(id(connection))

    def _commit(self, connection: Any) -> None:
        if id(connection) in self._written:
            self._written.discard(id(connection))
            self._pass_by("commit")

    def _hear(self, happening: str, arguments: tuple[Any, ...]) -> None:
        if happening not in (*CHANGES, "open") or (happening == "open" and not _writes(*arguments[1:])):
            return
        path = os.fspath(arguments[0]) if isinstance(arguments[0], str | os.PathLike) else ""
        if path.startswith(f"{self.below}/"):
            self._pass_by(f"{happening} {path.removeprefix(str(self.below))}")


def _writes(mode: str | None, flags: int) -> bool:
    return bool(flags & (os.O_WRONLY | os.O_RDWR)) if mode is None else any(letter in mode for letter in "wax+")


def call_with_moments(
    call: Callable[..., object], below: Path, last: int | None, told: Connection, *given: Any
) -> None:
    """The target of a process: make the call, be killed at moment `last`, else tell the moments that there were."""
    moments = Moments(below, last)
    moments.watch()
    call(*given)
    told.send(moments.seen)


def moments_of(call: Callable[..., object], *given: Any, below: Path, last: int | None = None) -> list[str] | None:
    """The moments of a call in a process of its own; None where it was killed at `last`."""
    heard, told = FORKS.Pipe(duplex=False)
    with heard:
        process = FORKS.Process(target=call_with_moments, args=(call, below, last, told, *given))
        process.start()
        told.close()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            return None
        assert process.exitcode == 0, f"the process ended with {process.exitcode}"
        return list(heard.recv())
