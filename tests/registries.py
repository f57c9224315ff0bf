"""Real registries on loopback: MLflow over sqlite, over PostgreSQL and S3, behind a password, or no server at all.

Each server is a process group of its own that ends with the tests, however they end (registry/guard.py). What a machine
has not raises NotHere: the tests' fixtures skip then, or fail where CI says that everything must be there.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import httpx

GUARD = Path(__file__).parent / "registry" / "guard.py"
START_S = 90.0
BUCKET = "models"
ADMIN, PASSWORD = "admin", "a password for tests"
POSTGRES_USER = "postgres"  # PostgreSQL refuses to run as root
S3_KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1"}


class NotHere(Exception):  # noqa: N818  (it says what is missing)
    """This machine lacks what a server needs; the message says what and how to get it."""


class NotAllowed(NotHere):
    """A right that even a CI which can install everything may not have."""


@contextmanager
def or_absent() -> Iterator[None]:
    """Skip with the reason where something cannot be had; in CI, which has everything that is allowed there, fail."""
    import pytest

    try:
        yield
    except NotHere as missing:
        if os.environ.get("RETORT_CI") and not isinstance(missing, NotAllowed):
            pytest.fail(f"CI must have everything: {missing}", pytrace=False)
        pytest.skip(str(missing))


@dataclass(frozen=True)
class Registry:
    """Where a registry answers, and what stands in the environment of its clients."""

    uri: str
    environment: Mapping[str, str] = field(default_factory=dict)
    s3: str | None = None  # the store that clients talk to themselves

    def seen_at(self, uri: str, s3: str | None) -> "Registry":
        """The same registry, reached by other addresses."""
        environment = {**self.environment, **({"MLFLOW_S3_ENDPOINT_URL": s3} if s3 else {})}
        return replace(self, uri=uri, s3=s3, environment=environment)


@dataclass(frozen=True)
class Server:
    """A running server: the guard's process, and what the server wrote."""

    guard: "subprocess.Popen[bytes]"
    log: Path

    def stop(self) -> None:
        """End the server and all its processes; it may have ended before."""
        assert self.guard.stdin
        self.guard.stdin.close()
        self.guard.wait()

    def require_running(self) -> None:
        assert self.guard.poll() is None, f"{self.log} ends with: {self.log.read_text()[-2000:]}"


@contextmanager
def running(
    command: Sequence[str],
    *,
    log: Path,
    end: int,
    environment: Mapping[str, str] | None = None,
    user: str = "-",
    scratch: str = "-",
) -> Iterator[Server]:
    """Run `command` in a process group of its own, as `user`, until the block or the tests end; `end` is the signal.
    After that the folder `scratch` is removed."""
    guard = [sys.executable, "-S", str(GUARD), str(int(end)), user, scratch, *command]
    with log.open("wb") as out:
        process = subprocess.Popen(
            guard, stdin=subprocess.PIPE, stdout=out, stderr=out, env={**clean_environment(), **(environment or {})}
        )
    server = Server(process, log)
    try:
        yield server
    finally:
        server.stop()


def clean_environment() -> dict[str, str]:
    """This process's, without what would lead MLflow or boto elsewhere; nothing is reported to anyone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "AWS_"))}
    return {**kept, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def await_answer(url: str, server: Server) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        server.require_running()
        try:
            if httpx.get(url, timeout=5.0).status_code < 500:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"{url} did not answer in {START_S:g} s; {server.log} says: {server.log.read_text()[-2000:]}")


# -- MLflow ------------------------------------------------------------------------------------------------------------


@contextmanager
def mlflow_server(
    folder: Path, backend: str, *options: str, environment: Mapping[str, str] | None = None, workers: int = 1
) -> Iterator[tuple[str, Server]]:
    """`mlflow server` on the database `backend`, its log in `folder`: (where it answers, its process)."""
    port = free_port()
    address = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
    command = [sys.executable, "-m", "mlflow", "server", *address, "--backend-store-uri", backend, *options]
    with running(command, log=folder / "mlflow.log", environment=environment, end=signal.SIGKILL) as server:
        await_answer(f"http://127.0.0.1:{port}/health", server)
        yield f"http://127.0.0.1:{port}", server


@contextmanager
def sqlite_server(folder: Path, database: Path) -> Iterator[tuple[str, Server]]:
    """Served artifacts in `folder`, versions in `database`, a file of `embedded`'s."""
    served = ["--serve-artifacts", "--artifacts-destination", str(folder / "artifacts")]
    with mlflow_server(folder, f"sqlite:///{database}", *served) as found:
        yield found


@contextmanager
def guarded_server(folder: Path, database: Path) -> Iterator[str]:
    """One that wants the name ADMIN and PASSWORD."""
    if find_spec("flask_wtf") is None:
        raise NotHere("MLflow's authentication needs flask-wtf; pip install flask-wtf")
    config = folder / "auth.ini"
    users = f"default_permission = READ\ndatabase_uri = sqlite:///{folder}/users.db\n"
    config.write_text(f"[mlflow]\n{users}auth_cache_ttl_seconds = 60\n")  # a password's hash takes a while each time
    environment = {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of tests",
    }
    options = ["--artifacts-destination", str(folder / "artifacts"), "--app-name", "basic-auth"]
    with mlflow_server(folder, f"sqlite:///{database}", *options, environment=environment) as (uri, _):
        yield uri


def migrated(database: Path) -> Path:
    """A sqlite file with MLflow's tables, whose making takes seconds: copy it where a test wants one of its own."""
    making = "import sys; from mlflow import MlflowClient; MlflowClient(tracking_uri=sys.argv[1]).search_experiments()"
    uri = f"sqlite:///{database}"
    subprocess.run([sys.executable, "-c", making, uri], check=True, env=clean_environment(), capture_output=True)
    return database


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


def postgres_binary(name: str) -> str:
    """Debian keeps them out of PATH, a folder for each version."""
    places = [str(folder) for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(places))
    if found is None or find_spec("psycopg2") is None:
        missing = "psycopg2-binary; pip install it" if found else f"{name}; apt-get install postgresql"
        raise NotHere(f"PostgreSQL needs {missing}")
    return found


@contextmanager
def postgres() -> Iterator[str]:
    """A cluster of its own, no password, nothing synced to disk: the URI of its databases, without their names.

    Its folder lies in the system's temporary one: pytest's own is closed to the user that PostgreSQL must run as.
    """
    initdb, program = postgres_binary("initdb"), postgres_binary("postgres")
    user = POSTGRES_USER if os.geteuid() == 0 else "-"
    folder = tempfile.mkdtemp(prefix="retort-pg-")
    if user != "-":
        shutil.chown(folder, user, user)
    _make_cluster(initdb, folder, user=user)
    port = free_port()
    settings = ["listen_addresses=127.0.0.1", f"port={port}", "fsync=off", f"unix_socket_directories={folder}"]
    command = [program, "-D", f"{folder}/data", *(word for setting in settings for word in ("-c", setting))]
    with running(command, log=Path(folder) / "log", user=user, scratch=folder, end=signal.SIGQUIT) as server:
        _await_postgres(port, server)
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}"


def _make_cluster(initdb: str, folder: str, *, user: str) -> None:
    who = {} if user == "-" else {"user": user, "group": user, "extra_groups": []}
    command = [initdb, "-D", f"{folder}/data", "-A", "trust", "-U", "mlflow", "-E", "UTF8", "--no-sync"]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, **who)
    assert made.returncode == 0, made.stderr


def _await_postgres(port: int, server: Server) -> None:
    import psycopg2

    end = time.monotonic() + START_S
    while time.monotonic() < end:
        server.require_running()
        try:
            psycopg2.connect(host="127.0.0.1", port=port, user="mlflow", dbname="postgres").close()
        except psycopg2.OperationalError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(server.log.read_text()[-2000:])


def execute(cluster: str, *statements: str, database: str = "postgres") -> None:
    """Run SQL in a database of a cluster that `postgres` started."""
    import psycopg2

    connection = psycopg2.connect(f"{cluster.replace('+psycopg2', '')}/{database}")
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    finally:
        connection.close()


# -- disks -------------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, *, size_kib: int) -> Iterator[Callable[[int], None]]:
    """A disk of that size, mounted on `folder`; what it gives makes it another size."""
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "none", str(folder)]
    folder.mkdir(parents=True, exist_ok=True)
    tried = subprocess.run(mounting, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        raise NotAllowed(f"a small disk needs the right to mount one ({tried.stderr.strip()}); run the tests as root")
    try:
        yield lambda kib: subprocess.run(["mount", "-o", f"remount,size={kib}k", str(folder)], check=True) and None
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def without_root_s_powers() -> None:
    """From here on this thread may write what its user may write: root too is bound by the permissions of files."""
    import ctypes

    version_3_of_this_thread, no_capabilities = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(version_3_of_this_thread, no_capabilities) == 0


# -- S3 ----------------------------------------------------------------------------------------------------------------


@contextmanager
def s3_store(folder: Path) -> Iterator[str]:
    """An S3 store in memory with an empty BUCKET: where it answers."""
    if find_spec("moto") is None or find_spec("boto3") is None:
        raise NotHere("the S3 store needs moto and boto3; pip install 'moto[server]' boto3")
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, log=folder / "moto.log", end=signal.SIGKILL) as server:
        await_answer(f"http://127.0.0.1:{port}/moto-api/", server)
        httpx.put(f"http://127.0.0.1:{port}/{BUCKET}").raise_for_status()
        yield f"http://127.0.0.1:{port}"


def s3_environment(endpoint: str) -> dict[str, str]:
    return {**S3_KEYS, "MLFLOW_S3_ENDPOINT_URL": endpoint}
