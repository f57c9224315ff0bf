"""The process: take the port, load the model, serve, and on SIGTERM drain and return.

On the first SIGTERM or SIGINT /v2/health/ready says 503 at once, and all else is served on for `drain_s`. Then nobody
is let in, what is under way is finished, and the process ends with 0. A second signal ends it at once. The handlers are
our own: as PID 1 a process has no default ones.
"""

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from serving.alarm import Thresholds
from serving.app import build
from serving.batcher import Batcher
from serving.connection_metrics import ConnectionMetrics
from serving.connections import Connections
from serving.desk import Desk
from serving.exchange import App
from serving.following import Followed, Following, build_following
from serving.front import TURN_S, Front
from serving.heads import Limits
from serving.listening import address_of, allow_files, bind, listen
from serving.metrics import Metrics
from serving.models import PROBE, Live, Served
from serving.options import Options
from serving.room import Room
from serving.security.given import keeping
from serving.security.guard import Guard
from serving.security.keys import Keys
from serving.security.notes import Requests
from serving.settling import settle_down

if TYPE_CHECKING:
    from serving.tracing import Tracer

REHEARSALS: Final = 20
_STDERR: Final = 2
_log = logging.getLogger(__name__)


def run(options: Options) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        Failure: the port, the keys, the source or the model is not fit; nothing was served.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(bind(options.host, options.port))
        guard = stack.enter_context(_guard(options))
        metrics = Metrics()
        following = build_following(_followed(options), metrics=metrics)
        desk = stack.enter_context(_desk(following, metrics=metrics, options=options))
        tracer = stack.enter_context(_tracer(options))
        _serve(desk, listener=listener, guard=guard, tracer=tracer, options=options)


def _followed(options: Options) -> Followed:
    alarm = Thresholds(
        share=options.rollback_share / 100, requests=options.rollback_requests, window_s=options.rollback_window_s
    )
    told = {name: getattr(options, name) for name in ("source", "tracking_uri", "cache", "key", "threads")}
    return Followed(**told, canary=options.canary, shadow=options.shadow, alarm=alarm)


@contextlib.contextmanager
def _guard(options: Options) -> Iterator[Guard]:
    requests = Requests(every=options.access_log)
    if options.api_keys is None:
        yield Guard(keys=None, requests=requests)
        return
    keys = Keys(options.api_keys)
    keys.start()
    try:
        yield Guard(keys=keys, requests=requests)
    finally:
        keys.stop()


@contextlib.contextmanager
def _tracer(options: Options) -> Iterator["Tracer | None"]:
    if not options.traces:
        yield None
        return
    from serving.tracing import Tracer

    tracer = Tracer()
    try:
        yield tracer
    finally:
        tracer.close()


@contextlib.contextmanager
def _desk(following: Following, *, metrics: Metrics, options: Options) -> Iterator[Desk]:
    """The executors stay when another version comes: `succeeding_setting` keeps to their number."""
    live = following.models.current
    batcher: Batcher[Served] = Batcher(
        following.models.answer_jobs,
        executors=live.setting.executors,
        limit=options.queue,
        costs=live.costs,
        max_wait_s=None if options.max_wait_ms is None else options.max_wait_ms / 1e3,
    )
    metrics.watch_queue(lambda: batcher.waiting, limit=options.queue, saturation=lambda: batcher.queue.saturation)
    try:
        router, state = following.join(batcher), following.state
        desk = Desk(following.models, batcher, metrics, router=router, following=state)
        following.start()
        yield desk
    finally:
        following.stop()
        batcher.close()


def _serve(desk: Desk, *, listener: socket.socket, guard: Guard, tracer: "Tracer | None", options: Options) -> None:
    events: SimpleQueue[str] = SimpleQueue()  # its put is safe inside a signal handler
    _hear(events.put)
    listen(listener)
    allow_files(options.max_connections * (1 if options.grpc_port is None else 2))
    room = Room.for_bodies(options.max_body_bytes)
    app: App = build(desk, guard=guard, room=room, page=options.page)
    if tracer is not None:
        app = tracer.traced(app)
    counted = ConnectionMetrics(desk.metrics.registry)
    connections = Connections(
        keeping(app) if options.log_texts else app,
        limits=Limits(connections=options.max_connections),
        refused=counted.refused,
    )
    counted.watch(lambda: len(connections))
    grpc = partial(_start_grpc, desk, guard=guard, tracer=tracer, room=room, options=options)
    front = Front(
        connections,
        listener=listener,
        others=grpc if options.grpc_port is not None else None,
        ready=partial(_announce, desk.models.current, listener),
        ended=partial(events.put, "a thread that talks to clients ended"),
    )
    rehearse(desk)
    settle_down()
    front.start()
    _log.info("stopping: %s", _next(events))
    desk.draining = True
    front.join(options.drain_s)  # requests are still taken
    front.stop()
    front.join()


def rehearse(desk: Desk, *, within_s: float = 0.25) -> None:
    """Have the executors answer golden inputs, so that the first client waits no longer than the others: caches,
    allocations and Python's own warming up made a first answer take 1.6 times the usual. Nobody is counted for it, and
    what fails is left to the sign of life."""
    golden = [tuple(item) for item in desk.models.current.engine.bundle.golden.items]
    end_s = time.monotonic() + within_s
    for number in range(REHEARSALS):
        told: SimpleQueue[object] = SimpleQueue()
        desk.batcher.probe([golden[number % len(golden)]], done=told.put, lane=PROBE)
        try:
            told.get(timeout=max(0.0, end_s - time.monotonic()))
        except Empty:
            return


def _next(events: "SimpleQueue[str]") -> str:
    """Wait, in turns: Python calls a signal's handler between two instructions of the main thread, and a signal that
    comes just before a wait, or to another thread, does not end that wait."""
    while True:
        with contextlib.suppress(Empty):
            return events.get(timeout=TURN_S)


def _hear(told: Callable[[str], None]) -> None:
    """Tell of the first SIGTERM or SIGINT; at the second one the process ends, whatever it is doing."""
    heard: list[int] = []

    def hear(number: int, _: Any) -> None:
        if heard:
            try:
                if select.select([], [_STDERR], [], 0)[1]:  # whoever reads it may be slow
                    os.write(_STDERR, f"ended at once by a second signal ({signal.Signals(number).name})\n".encode())
            finally:
                os._exit(128 + number)
        heard.append(number)
        told(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hear)


async def _start_grpc(desk: Desk, *, guard: Guard, tracer: "Tracer | None", room: Room, options: Options) -> Any:
    from serving.protocols.grpc_server import start_grpc

    host, port = options.host, options.grpc_port or 0
    started = await start_grpc(
        desk, host=host, port=port, guard=guard, tracer=tracer, room=room, connections=options.max_connections
    )
    _log.info("gRPC on port %d", started.port)
    return started


def _announce(live: Live, listener: socket.socket) -> None:
    """Say that requests are taken; who started the server may have gone without waiting for that."""
    told = f"serving {live.name} version {live.version} (digest {live.digest[:12]}) on {address_of(listener)}"
    try:
        print(told, flush=True)
    except OSError as error:
        with Path(os.devnull).open("w") as nowhere:  # what was not written would fail again at the end
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        _log.warning("stdout cannot be written to (%s): %s", error, told)
