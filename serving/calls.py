"""The calls of the model that are under way: until when each is expected to last, and which one does not end."""

import threading
from typing import Final, Generic, NamedTuple, TypeVar

from serving.tickets import Ticket

R = TypeVar("R")
STALLED_S: Final = 10.0  # without an end: more than any call takes
STALLED_TIMES: Final = 20.0  # what it was predicted to take


class Call(NamedTuple, Generic[R]):
    """Of the jobs in `batch`, predicted to cost `cost_s`, and expected to end at `ends_s` by the queue's clock;
    `aside`: nobody waits for it."""

    batch: list[Ticket[R]]
    cost_s: float
    started_s: float
    ends_s: float
    stalled_s: float
    aside: bool


class Calls(Generic[R]):
    """One a thread. Under the queue's lock."""

    def __init__(self) -> None:
        self._by_thread: dict[int, Call[R]] = {}

    def __len__(self) -> int:
        return len(self._by_thread)

    def begin(
        self, batch: list[Ticket[R]], *, cost_s: float, takes_s: float, now_s: float, aside: bool = False
    ) -> None:
        """This thread begins with it."""
        stalled_s = now_s + max(STALLED_S, STALLED_TIMES * takes_s)
        self._by_thread[threading.get_ident()] = Call(batch, cost_s, now_s, now_s + takes_s, stalled_s, aside)

    def end(self) -> Call[R] | None:
        """This thread is done with what it was at, if it was at anything."""
        return self._by_thread.pop(threading.get_ident(), None)

    def first_end_s(self, now_s: float) -> float:
        """How long until one of them should end; 0 where one is late, or there is none."""
        return max(0.0, min((call.ends_s for call in self._by_thread.values()), default=now_s) - now_s)

    def all_left_s(self, now_s: float) -> float:
        """Of all together."""
        return sum(max(0.0, call.ends_s - now_s) for call in self._by_thread.values())

    def stalled(self, now_s: float) -> bool:
        """Whether one of them should have ended long ago, and somebody waits for it."""
        return any(now_s > call.stalled_s and not call.aside for call in self._by_thread.values())

    def all_aside(self) -> bool:
        """Whether nobody waits for any of them, as where there is none."""
        return not self._by_thread or all(call.aside for call in self._by_thread.values())
