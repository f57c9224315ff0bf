"""The process: take the port, load the model, serve, and on SIGTERM drain and return.

uvicorn runs in a thread and the main thread waits for signals. uvicorn's own handlers would end the process by the
signal that stopped it, which as PID 1 does not even work; here a drained server returns, and the process exits with 0.
"""

import contextlib
import errno
import logging
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import uvicorn

from serving.app import Service, build
from serving.batcher import Batcher
from serving.choosing import choose_setting, succeeding_setting
from serving.errors import BadRequest, Transient
from serving.metrics import Metrics
from serving.models import Follower, Live, Models, load
from serving.registry import find_version, is_followed, resolve

BACKLOG = 128
POLL_S = 5.0
_KEEP_ALIVE_S = 65
_FINISH_S = 30
_SIGTERM_EXIT = 143
_log = logging.getLogger(__name__)


def run(
    source: str,
    *,
    host: str,
    port: int,
    tracking_uri: str | None,
    cache: Path,
    threads: int | None,
    queue: int,
    drain_s: float = 0.0,
    key: Path | None = None,
) -> None:
    """Serve `source` until SIGTERM or SIGINT; `drain_s` is how long requests are still taken after the signal. With a
    public `key` only versions that its owner signed are served, later ones too.

    Told `threads`, one session has them; else the bundle's tuning for this machine decides, or a calibration.

    Raises:
        Failure: the port, the source or the model is not fit; nothing was served.
    """
    _stop_at_once_on_sigterm()
    with bind(host, port) as listener:
        resolved = resolve(source, tracking_uri=tracking_uri, cache=cache, key=key)
        models = Models(load(resolved, choose=partial(choose_setting, threads=threads)))
        metrics = Metrics()
        metrics.serving(**models.current.identity())

        def fetch(version: str) -> Live:
            found = resolve(f"models:/{resolved.name}/{version}", tracking_uri=tracking_uri, cache=cache, key=key)
            return load(found, choose=partial(succeeding_setting, threads=threads, current=models.current.setting))

        find = partial(find_version, source, tracking_uri=tracking_uri)
        follower = Follower(models, find=find, fetch=fetch, observer=metrics, interval_s=POLL_S)
        with _service(models, metrics=metrics, queue=queue) as service:
            if is_followed(source):
                metrics.registry_is_up(True)
                follower.start()
            _serve(service, listener=listener, drain_s=drain_s)
            follower.stop()


def bind(host: str, port: int) -> socket.socket:
    """Take the port without listening yet.

    Raises:
        Transient: somebody else has it.
        BadRequest: it cannot be had here at all.
    """
    way_out = "choose another with --port, or 0 for any that is free"
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        if listener is not None:
            listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise Transient(f"port {port} on {host} is taken; stop what holds it, or {way_out}") from error
        raise BadRequest(f"port {port} on {host} cannot be used: {error}; {way_out}") from error
    return listener


@contextlib.contextmanager
def _service(models: Models, *, metrics: Metrics, queue: int) -> Iterator[Service]:
    """The executors stay when another version comes: `succeeding_setting` keeps to their number."""
    batcher = Batcher(models.answer, executors=models.current.setting.executors, limit=queue)
    metrics.watch_queue(lambda: batcher.waiting, limit=queue)
    try:
        yield Service(models=models, batcher=batcher, metrics=metrics)
    finally:
        batcher.close()


def _serve(service: Service, *, listener: socket.socket, drain_s: float) -> None:
    events: SimpleQueue[str] = SimpleQueue()  # its put is safe inside a signal handler
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: events.put(signal.Signals(received).name))
    _listen(listener)
    app = build(service, on_start=lambda: _announce(service.models.current, listener))
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_FINISH_S,
    )
    server = uvicorn.Server(config)
    failures: list[BaseException] = []
    thread = threading.Thread(target=_run, args=(server, listener, events, failures), name="http")
    thread.start()
    _log.info("stopping: %s", events.get())
    service.draining = True
    thread.join(drain_s)  # requests are still taken
    server.should_exit = True
    thread.join()
    for failure in failures:
        raise failure


def _run(
    server: uvicorn.Server, listener: socket.socket, events: "SimpleQueue[str]", failures: list[BaseException]
) -> None:
    try:
        server.run(sockets=[listener])
    except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
        failures.append(error)
    finally:
        events.put("the HTTP thread ended")


def _listen(listener: socket.socket) -> None:
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise Transient(f"port {port} on {host} was taken meanwhile; choose another with --port") from error


def _announce(live: Live, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(
        f"serving {live.name} version {live.version} (digest {live.digest[:12]}) on http://{shown}:{port}", flush=True
    )


def _stop_at_once_on_sigterm() -> None:
    """Until requests are taken there is nothing to drain; as PID 1 the default would be to ignore the signal."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_SIGTERM_EXIT))
