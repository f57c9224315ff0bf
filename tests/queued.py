"""Asking a batcher from a test: a future of what became of a ticket."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from serving.batcher import Batcher
from serving.engine import Given
from serving.tickets import Ticket

R = TypeVar("R")


def asked(batcher: Batcher[R], items: Sequence[Given], **how: Any) -> "Future[Ticket[R]]":
    """Submit items; the future has the ticket when it is done, or what it failed with."""
    return _asked(partial(batcher.submit, items, **how))


def probed(batcher: Batcher[R], items: Sequence[Given]) -> "Future[Ticket[R]]":
    """The same of a probe."""
    return _asked(partial(batcher.probe, items))


def _asked(ask: Callable[..., Ticket[R]]) -> "Future[Ticket[R]]":
    future: Future[Ticket[R]] = Future()

    def done(ticket: Ticket[R]) -> None:
        if ticket.error is not None:
            future.set_exception(ticket.error)
        else:
            future.set_result(ticket)

    future.ticket = ask(done=done)  # type: ignore[attr-defined]
    return future
