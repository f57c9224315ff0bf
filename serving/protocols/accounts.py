"""One account per request for the ways in beside HTTP: counted as the application counts those over HTTP, and what it
failed with as a fault."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serving.desk import Desk
from serving.faults import Fault, fault_of
from serving.metrics import Outcome


class Refused(Exception):  # noqa: N818  (the tree is named by what happened)
    """A request that has no answer, and what its client is to be told."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


@contextmanager
def account(desk: Desk, *, infers: bool = True, late: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Count a request that `infers` from its admission to its end; raises Refused for whatever it fails with.

    Raises:
        CancelledError: nobody waits for it any more; it is counted as dropped, or, where it was `late`, as expired.
    """
    outcome: Outcome = "dropped"
    if infers:
        desk.metrics.requests.begun += 1
    try:
        if infers:
            desk.admit()
        yield
        outcome = "ok"
    except asyncio.CancelledError:
        outcome = "expired" if late() else "dropped"
        raise
    except Exception as error:
        fault = fault_of(error)
        outcome = fault.outcome
        raise Refused(fault) from error
    finally:
        if infers:
            desk.metrics.count(outcome)
