"""Signs of life, and what is counted.

GET /v2/health/live     the process turns, and work is being finished
GET /v2/health/ready    a real inference came back just now; 503 from the moment draining begins
GET /metrics            Prometheus text
"""

import asyncio
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST

from serving.desk import Desk
from serving.errors import Failure
from serving.http import Asked, Reply, Route, told

PROBE_TIMEOUT_S: Final = 2.0


def routes(desk: Desk) -> list[Route]:
    """Those of this module; no key is needed for them."""

    async def live(_: Asked) -> Reply:
        if desk.stalled():
            return told({"error": "nothing is finished any more although requests wait"}, status=503)
        return told({"live": True})

    async def ready(_: Asked) -> Reply:
        why = await why_not_ready(desk)
        if why is not None:
            return told({"error": why}, status=503)
        return told({"ready": True, "model": desk.models.current.identity()})

    async def metrics(_: Asked) -> Reply:
        return Reply(200, desk.metrics.text(), CONTENT_TYPE_LATEST.encode())

    return [
        Route("/v2/health/live", live, open=True),
        Route("/v2/health/ready", ready, open=True),
        Route("/metrics", metrics, open=True),
    ]


async def why_not_ready(desk: Desk, lane: str = "") -> str | None:
    """None where a real inference of the lane's model comes back in time."""
    if desk.draining:
        return "the server is draining; send requests elsewhere"
    probing = asyncio.ensure_future(desk.probe(lane))
    try:
        # Not wait_for: since Python 3.12 it needs a task, and a request that is all here has none.
        if not (await asyncio.wait((probing,), timeout=PROBE_TIMEOUT_S))[0]:
            return f"no inference came back within {PROBE_TIMEOUT_S:g} s"
        probing.result()
    except Failure as failure:
        return str(failure)
    finally:
        probing.cancel()
    return None
