"""The ways in: each module says which routes it has, and all of them ask one desk."""

from serving import web
from serving.desk import Desk
from serving.http import Route
from serving.protocols import health, invocations, open_inference, openapi, plain


def every_route(desk: Desk, *, page: bool = True) -> list[Route]:
    """Those of every protocol over HTTP; `page`: also those of the page for people."""
    found = [*plain.routes(desk), *health.routes(desk), *open_inference.routes(desk), *invocations.routes(desk)]
    if page:
        found += web.routes(desk, following=desk.following)
    return [*found, *openapi.routes(desk, found)]
