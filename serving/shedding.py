"""When a request is turned away although there is room: CoDel (Nichols and Jacobson 2012, RFC 8289) at the door.

A burst is let in; a queue that stands is not. CoDel watches the time that work spends in a queue and drops where it has
been over `target_s` for `interval_s`, then ever more often (interval / sqrt(n)) until it is not. Here the time that a
request would wait is known when it comes, so it is told at once instead of after it has waited in vain.
"""

import math
from typing import Final

TARGET_S: Final = 0.005
INTERVAL_S: Final = 0.1


class CoDel:
    """One queue's state; not safe from several threads by itself."""

    def __init__(self, *, target_s: float = TARGET_S, interval_s: float = INTERVAL_S) -> None:
        self.target_s, self.interval_s = target_s, interval_s
        self._above_since: float | None = None
        self._dropping = False
        self._next_s = 0.0
        self._count = 0
        self._left_s = -math.inf

    def refuses(self, wait_s: float, *, now_s: float) -> bool:
        """Whether a request that would wait so long is turned away."""
        if wait_s < self.target_s:
            self._leave(now_s)
            return False
        if self._above_since is None:
            self._above_since = now_s
        if self._dropping:
            return self._is_due(now_s)
        if now_s - self._above_since < self.interval_s:
            return False
        self._enter(now_s)
        return True

    def _leave(self, now_s: float) -> None:
        self._above_since = None
        if self._dropping:
            self._dropping, self._left_s = False, now_s

    def _enter(self, now_s: float) -> None:
        """Where it was dropping not long ago, it goes on about as often as it did."""
        recent = now_s - self._left_s < 16 * self.interval_s
        self._count = max(self._count - 2, 1) if recent and self._count > 2 else 1
        self._dropping = True
        self._next_s = now_s + self.interval_s / math.sqrt(self._count)

    def _is_due(self, now_s: float) -> bool:
        if now_s < self._next_s:
            return False
        self._count += 1
        self._next_s += self.interval_s / math.sqrt(self._count)
        return True
