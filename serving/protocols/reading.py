"""The body of a request that infers, for as long as its client waits."""

import asyncio
import math
from collections.abc import Awaitable

from serving.desk import Desk
from serving.exchange import ARRIVAL
from serving.http import Asked
from serving.tickets import Expired


def body_of(asked: Asked, *, desk: Desk, expires_s: float) -> Awaitable[bytes]:
    """As `Asked.body`; `expires_s` is as `Desk.deadline` says.

    Raises:
        Expired: the client's time was up before its body was here.
    """
    if expires_s == math.inf or _is_whole(asked):
        return asked.body()
    return _body_within(asked, desk=desk, expires_s=expires_s)


async def _body_within(asked: Asked, *, desk: Desk, expires_s: float) -> bytes:
    try:
        async with asyncio.timeout(expires_s - desk.clock()):
            return await asked.body()
    except TimeoutError as error:
        raise Expired("the request's time was up before its body was here; allow more or retry") from error


def _is_whole(asked: Asked) -> bool:
    """Whether there is nothing to wait for."""
    arrival = asked.scope.get(ARRIVAL)
    return arrival is not None and arrival.whole
