"""A request's place in the queue, and what can become of it other than an answer."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from serving.engine import Given
from serving.errors import Transient

R = TypeVar("R")
_log = logging.getLogger(__name__)


class Overloaded(Transient):
    """No room in the queue; `retry_after_s` is when the work ahead should be done."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Expired(Transient):
    """The client's time was up before the work began."""


class ExecutorLost(Transient):
    """The thread that computed this ended; the same request may succeed."""


class Ticket(Generic[R]):
    """One request in the queue. `done` is called once with it, in another thread, when there is a result or an error;
    `note` is whatever the caller wants to find in it again. `lane` says which model answers: all jobs of a call are of
    one lane."""

    __slots__ = (
        *(
            "admitted_s",
            "cancelled",
            "cost_s",
            "count",
            "done",
            "error",
            "expires_s",
            "items",
            "lane",
            "length",
            "note",
        ),
        *("queue_ms", "result", "told"),
    )

    def __init__(
        self,
        items: Sequence[Given],
        *,
        done: "Callable[[Ticket[R]], None]",
        expires_s: float,
        lane: str = "",
        note: Any = None,
    ) -> None:
        self.items, self.done, self.expires_s, self.lane, self.note = items, done, expires_s, lane, note
        self.admitted_s = self.cost_s = self.queue_ms = 0.0
        self.count, self.length = len(items), 0  # what it is for the model: items, and tokens of the longest
        self.result: R | None = None
        self.error: Exception | None = None
        self.cancelled = self.told = False

    def cancel(self) -> None:
        """Nobody waits for it any more: it is not begun, and `done` is not called where it was not."""
        self.cancelled = True

    @property
    def is_over(self) -> bool:
        """Nothing is to be done for it any more."""
        return self.cancelled or self.told

    def tell(self) -> None:
        """Call `done`, once; a thread that is killed in here leaves room for a second call, better than none. What
        `done` raises is a bug of the asker's own: the others of its call, and the thread, go on."""
        if not self.told:
            try:
                self.done(self)
            except Exception:  # noqa: BLE001 - whatever it is
                _log.exception("a request's answer could not be handed over")
            self.told = True
