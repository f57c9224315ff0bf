"""The page's routes."""

import asyncio
import time

from serving.desk import Desk
from serving.http import Asked, Reply, Route, told
from serving.web.assets import INDEX, SAFE, Asset, assets
from serving.web.evidence import model_of
from serving.web.state import Followed, state_of

_TOLD = ((b"cache-control", b"no-store"), *SAFE)


def routes(desk: Desk, *, following: Followed | None = None) -> list[Route]:
    """Those of this module. `following` tells what serving.shown_versions.state_of does."""
    started_s = time.monotonic()

    async def state(_: Asked) -> Reply:
        """What is counted and followed, now: the page asks every second."""
        now = state_of(desk, following=following, uptime_s=time.monotonic() - started_s)
        return told(now, headers=_TOLD)

    async def model(_: Asked) -> Reply:
        """What the model in service reads and answers, its card and its receipts, for the page."""
        return told(await asyncio.to_thread(model_of, desk.models.current), headers=_TOLD)

    files = [_route("/" if name == INDEX else f"/ui/{name}", asset) for name, asset in assets().items()]
    return [*files, Route("/ui/state", state), Route("/ui/model", model)]


def _route(path: str, asset: Asset) -> Route:
    async def answer(asked: Asked) -> Reply:
        """A file of the page."""
        return asset.reply(asked)

    return Route(path, answer, open=True)
