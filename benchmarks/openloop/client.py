"""The generator over HTTP, one offered rate in a process of its own:

    python -m benchmarks.openloop.client JOB.json RESULT.json

A job is a `ClientJob`, the result a `Trace`, raw. Before anything is timed all connections are opened and one request
is answered. It must be the only thing on its cores; a run in which it lagged is void (see trace.py).
"""

import gc
import sys
import time
from collections.abc import Sequence

import msgspec

from benchmarks.child import child_main
from benchmarks.openloop.connection import address_of
from benchmarks.openloop.generator import Offer, drive_here
from benchmarks.openloop.http_wire import HttpWire
from benchmarks.openloop.messages import parse_url
from benchmarks.openloop.schedule import poisson_ns
from benchmarks.openloop.trace import Trace
from serving.errors import BadRequest


class Stretch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rate, held for so long."""

    rps: float
    seconds: float


class ClientJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Offer `rps` for `warm_s + seconds`; `bodies` are JSON, sent in turn to `url`, over at most `connections`.

    `cores` are those to stay on; () for wherever the system puts it. `variant` is what messages call this. After that
    comes what is in `then`, without a pause, and belongs to the same trace. With `timed` the trace has what answers say
    of their own times.
    """

    variant: str
    url: str
    bodies: tuple[str, ...]
    rps: float
    seconds: float
    warm_s: float = 0.5
    seed: int = 0
    connections: int = 64
    cores: tuple[int, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    then: tuple[Stretch, ...] = ()
    timed: bool = False


def run(job: ClientJob) -> Trace:
    """Offer the load, from this thread.

    Raises:
        BadRequest: the job cannot be done: its numbers, its url, what the server answers.
        Transient: no server there, or not ready.
    """
    due_ns = _schedule_ns(job)
    wire = _wire(job)
    collected = gc.isenabled()
    try:
        wire.open(job.connections)
        wire.first_answer()
        gc.disable()
        trace = drive_here(wire, Offer(job.rps, job.warm_s, job.seconds, due_ns))
        told = [wire.timings.get(number, "") for number in range(len(due_ns))] if job.timed else []
        return msgspec.structs.replace(trace, timing=told)
    finally:
        wire.close()
        if collected:
            gc.enable()


def require_answer(job: ClientJob) -> None:
    """Ask once, from this process.

    Raises:
        BadRequest: the job cannot be done: its numbers, its url, what the server answers.
        Transient: no server there, or not ready.
    """
    _schedule_ns(job)
    wire = _wire(job)
    try:
        wire.open(1)
        wire.first_answer()
    finally:
        wire.close()


def _wire(job: ClientJob) -> HttpWire:
    if not job.bodies or job.connections < 1:
        raise BadRequest(f"load needs bodies and connections: got {len(job.bodies)} and {job.connections}")
    url = parse_url(job.url)
    messages = [url.post(body.encode("utf-8"), headers=job.headers) for body in job.bodies]
    return HttpWire(address_of(url.host, url.port), messages, clock=time.perf_counter_ns, timed=job.timed)


def _schedule_ns(job: ClientJob) -> list[int]:
    due_ns: list[int] = poisson_ns(job.rps, seconds=job.warm_s + job.seconds, seed=job.seed).tolist()
    begun_s = job.warm_s + job.seconds
    for number, stretch in enumerate(job.then, start=1):
        later_ns = poisson_ns(stretch.rps, seconds=stretch.seconds, seed=job.seed + number)
        due_ns += (later_ns + round(begun_s * 1e9)).tolist()
        begun_s += stretch.seconds
    return due_ns


def main(arguments: Sequence[str]) -> int:
    return child_main(arguments, ClientJob, run)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
