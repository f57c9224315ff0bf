"""The real server as a process of its own, for tests that talk to it over sockets and by signals."""

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

GOOD = {"texts": ["good"]}
WAIT_S = 30


@dataclass
class Running:
    """A server that has said it is ready."""

    process: "subprocess.Popen[str]"
    line: str
    url: str
    errors: Path

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def metric(self, name: str) -> float:
        """The value of one line of /metrics; 0 where it is not there."""
        lines = httpx.get(f"{self.url}/metrics", timeout=WAIT_S).text.splitlines()
        return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.rsplit(" ", 1)[0] == name), 0.0)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)

    def raw(self, data: bytes) -> bytes:
        """Send bytes as they are, and read until the server closes or has answered once."""
        with self.connect() as connection:
            connection.sendall(data)
            return connection.recv(65536)


@contextlib.contextmanager
def running(
    source: Path,
    *options: str,
    before: tuple[str, ...] = (),
    threads: tuple[str, ...] = ("--threads", "1"),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    errors: Path | None = None,
) -> Iterator[Running]:
    """Serve `source` until the end of the block; its log is kept in `errors`, by default beside it."""
    errors = errors or source.parent / f"{source.name}.err"
    command = [*before, sys.executable, "-m", "serving", str(source), "--port", "0", *threads, *options]
    with (
        errors.open("w") as err,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True, env=env, cwd=cwd) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, errors.read_text()
            yield Running(process=process, line=line, url=line.split(" on ")[1].strip(), errors=errors)
        finally:
            if process.poll() is None:
                process.kill()
