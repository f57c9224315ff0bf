"""The two server scenarios of one bundle, each from start to result. The caller's thread sleeps meanwhile."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from benchmarks.children import run_child
from benchmarks.openloop.client import ClientJob
from benchmarks.openloop.engine import EngineJob
from benchmarks.openloop.messages import body_of
from benchmarks.openloop.plan import Plan
from benchmarks.openloop.results import Rate, ServerResult
from benchmarks.openloop.running import real_server
from benchmarks.openloop.trace import Trace
from serving.bundle import Item, read_bundle
from serving.errors import BadRequest, Failure
from serving.options import DEFAULT_QUEUE
from serving.schema import ROUTES
from serving.tuning import Setting, plain

QUEUE: Final = DEFAULT_QUEUE  # what the server lets wait unless it is told otherwise
_FEWEST_CONNECTIONS: Final = 64
Tell = Callable[[int], None]  # how many rates have been asked about


class Alive(Protocol):
    """A server that we started."""

    def require_alive(self) -> None: ...  # a Failure where it has ended


def load_bundle(
    bundle: Path,
    items: Sequence[Item],
    *,
    variant: str,
    plan: Plan,
    cores: Sequence[int],
    threads: int | None = None,
    queue: int = QUEUE,
    tell: Tell = lambda _: None,
) -> ServerResult:
    """Over HTTP against the real server: the generator on the last of `cores`, the server on the others, with a thread
    on each unless `threads` says otherwise. Every request asks about one item.

    Raises:
        BadRequest: fewer than two cores, or a plan that cannot be carried out.
        Failure: the server or the generator ended; its own message.
    """
    plan.require()
    generator, others = split_cores(cores)
    route = ROUTES[read_bundle(bundle).spec.task]
    with real_server(bundle, threads=threads or len(others), queue=queue, cores=others) as server:
        bodies = [body_of([item]) for item in items]
        return load_url(
            server.url + route, bodies, variant=variant, plan=plan, cores=generator, tell=tell, server=server
        )


def load_url(
    url: str,
    bodies: Sequence[str],
    *,
    variant: str,
    plan: Plan,
    cores: Sequence[int] = (),
    tell: Tell = lambda _: None,
    server: Alive | None = None,
    headers: Sequence[tuple[str, str]] = (),
    connections: int | None = None,
) -> ServerResult:
    """Over HTTP against whatever listens at `url`; a generator process for each rate, on `cores`, over `connections`,
    by default as many as the rate needs."""
    asked = 0

    def measure(rps: float, seconds: float) -> Rate:
        nonlocal asked
        job = ClientJob(
            variant=variant,
            url=url,
            bodies=tuple(bodies),
            rps=rps,
            seconds=seconds,
            warm_s=plan.warm_s,
            seed=plan.seed,
            connections=connections or connections_for(rps, bound_ms=plan.bound_ms),
            cores=tuple(cores),
            headers=tuple(headers),
        )
        rate = offer_http(job, server=server)
        asked += 1
        tell(asked)
        return rate

    return plan.search(measure, scenario="http")


def offer_http(job: ClientJob, *, server: Alive | None = None) -> Rate:
    """One rate, by a generator process of its own. Where the server is ours and has ended, that is the failure."""
    return trace_http(job, server=server).rate()


def trace_http(job: ClientJob, *, server: Alive | None = None) -> Trace:
    """The same, raw."""
    module = "benchmarks.openloop.client"
    try:
        trace = run_child(job, result_type=Trace, threads=1, tell=lambda _: None, module=module)
    except Failure:
        if server:
            server.require_alive()
        raise
    if server:
        server.require_alive()
    return trace


def load_engine(
    bundle: Path,
    items: Sequence[Item],
    *,
    variant: str,
    plan: Plan,
    cores: Sequence[int],
    threads: int,
    setting: Setting | None = None,
    queue: int = QUEUE,
    tell: Tell = lambda _: None,
) -> ServerResult:
    """In process, on `cores`; run by `setting`, by default one session of so many threads that computes each request
    alone. A server that is told its threads runs `where_pays(plain(threads))`."""
    job = EngineJob(
        variant=variant,
        path=str(bundle.resolve()),
        requests=tuple((item,) for item in items),
        plan=plan,
        setting=setting or plain(threads),
        queue=queue,
        cores=tuple(cores),
    )
    return run_child(job, result_type=ServerResult, threads=1, tell=tell, module="benchmarks.openloop.engine")


def connections_for(rps: float, *, bound_ms: float) -> int:
    """Twice what is under way on average when every answer takes as long as the bound: a server that has more
    unanswered does not keep it."""
    return max(_FEWEST_CONNECTIONS, math.ceil(2 * rps * bound_ms / 1e3))


def split_cores(cores: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The generator's core, and the server's."""
    if len(cores) < 2:
        raise BadRequest(
            f"load over HTTP needs a core for the generator beside the server's; here is {len(cores)}: "
            "use another machine, or load the engine in process"
        )
    return (cores[-1],), tuple(cores[:-1])
