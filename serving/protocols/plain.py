"""Retort's own way in.

POST /classify           {"texts": [...]} -> {"model": {name, version, digest}, "results": [...]}
POST /tag, /embed        the same for token-classification, for embedding; serving.answers shows the results
"""

from functools import partial

from serving.desk import Desk, Done
from serving.http import Asked, Reply, Route, told
from serving.models import Live
from serving.protocols.amounts import require_few_values
from serving.protocols.reading import body_of
from serving.protocols.telling import headers
from serving.schema import ROUTES, check_route, parse_items


def routes(desk: Desk) -> list[Route]:
    """Those of this module."""
    paths = sorted(set(ROUTES.values()))
    return [Route(path, partial(_infer, desk, path), method="POST", infers=True) for path in paths]


async def _infer(desk: Desk, path: str, asked: Asked) -> Reply:
    expires_s = desk.deadline(asked.header(b"x-request-timeout-ms"), passed_s=asked.passed_s)
    body = await body_of(asked, desk=desk, expires_s=expires_s)
    spec = desk.models.current.spec
    check_route(path, task=spec.task)
    require_few_values(body, most=(1 + spec.texts_per_item) * spec.max_items)
    items = parse_items(body, spec=spec)
    done = await desk.ask(items, expires_s=expires_s, check=lambda live: _check(live, path))
    return _told(desk, asked, done)


def _check(live: Live, path: str) -> None:
    """Another model may have come while the request waited."""
    check_route(path, task=live.spec.task)


def _told(desk: Desk, asked: Asked, done: Done) -> Reply:
    served = done.result
    reply = told({"model": served.live.identity(), "results": served.results})
    reply.headers = headers(desk.metrics, asked.started_s, done, scope=asked.scope)
    return reply
