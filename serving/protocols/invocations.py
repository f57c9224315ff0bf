"""What MLflow's scoring server and SageMaker's containers answer to, so that their clients need no change.

GET  /ping, /health  200 where a real inference comes back, else 503
GET  /version        this server's version
POST /invocations    frames.py says in which forms; {"predictions": [...]} as `mlflow models serve` gives of this model
                     (none of a frame without rows),
                     or {"error_code": ..., "message": ...}
"""

from functools import partial
from typing import Final

import orjson

from serving.bundle import Item, ServingSpec
from serving.desk import Desk
from serving.faults import Fault, OtherMedia
from serving.http import Asked, Reply, Route, refusal, told
from serving.protocols.frames import items_of_csv, items_of_json
from serving.protocols.health import why_not_ready
from serving.protocols.naming import VERSION, require_same
from serving.protocols.reading import body_of
from serving.protocols.telling import headers, model_headers

CODES: Final = {
    401: "UNAUTHENTICATED",
    404: "RESOURCE_DOES_NOT_EXIST",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""MLflow's names; what is not among them is BAD_REQUEST."""
_READERS: Final = {
    "": items_of_json,
    "application/json": items_of_json,
    "text/csv": items_of_csv,
}


def routes(desk: Desk) -> list[Route]:
    """Those of this module."""
    return [
        Route("/ping", partial(_ping, desk), open=True),
        Route("/health", partial(_ping, desk), open=True),
        Route("/version", _version, open=True),
        Route("/invocations", partial(_invocations, desk), method="POST", infers=True, refuse=_refusal),
    ]


async def _ping(desk: Desk, _: Asked) -> Reply:
    """Whether a real inference comes back."""
    why = await why_not_ready(desk)
    return told({"error": why}, status=503) if why is not None else told({"ready": True})


async def _version(_: Asked) -> Reply:
    """This server's version."""
    return Reply(200, VERSION.encode(), b"text/plain; charset=utf-8")


async def _invocations(desk: Desk, asked: Asked) -> Reply:
    """Answers in MLflow's shape."""
    expires_s = desk.deadline(asked.header(b"x-request-timeout-ms"), passed_s=asked.passed_s)
    body, live = await body_of(asked, desk=desk, expires_s=expires_s), desk.models.current
    spec = live.spec
    items = _items(asked.header(b"content-type") or "", body, spec=spec)
    if not items:
        return told({"predictions": []}, headers=model_headers(live))
    done = await desk.ask(items, expires_s=expires_s, check=partial(require_same, version="", spec=spec))
    reply = told({"predictions": done.result.results})
    reply.headers = headers(desk.metrics, asked.started_s, done, scope=asked.scope)
    return reply


def _items(content_type: str, body: bytes, *, spec: ServingSpec) -> list[Item]:
    media, _, parameters = content_type.partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    read = _READERS.get(media.strip().lower())
    if read is None or charset not in ("", "utf-8", "utf8"):
        raise OtherMedia(f"the body is {content_type[:60]!r}; send application/json or text/csv, as UTF-8")
    return read(body, spec=spec)


def _refusal(fault: Fault) -> Reply:
    reply = refusal(fault)
    reply.status = 400 if fault.status == 422 else fault.status
    reply.body = orjson.dumps({"error_code": CODES.get(fault.status, "BAD_REQUEST"), "message": fault.message})
    return reply
