"""How much of requests the server holds at a time, so that many large ones cannot take its memory.

What counts is what has come and is held, until the request is answered: to announce a large body takes nobody's place.
The first OWN_BYTES of a body are its connection's own, whose number is bounded, so small requests are always read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from serving.options import DEFAULT_BODY_BYTES
from serving.tickets import Overloaded

MOST_BYTES: Final = 64 * 2**20
OWN_BYTES: Final = 65536
RETRY_AFTER_S: Final = 1


class Room:
    """Of one server, for all its protocols; asked in the event loop alone. `body_bytes`: the largest body of one
    request, for which there is room where nothing else is held."""

    def __init__(self, *, most_bytes: int = MOST_BYTES, body_bytes: int = DEFAULT_BODY_BYTES) -> None:
        self.most_bytes, self.body_bytes, self.held_bytes = most_bytes, body_bytes, 0

    @classmethod
    def for_bodies(cls, body_bytes: int) -> "Room":
        """For bodies of at most so many bytes: MOST_BYTES, or one of them where that is more."""
        return cls(most_bytes=max(MOST_BYTES, body_bytes), body_bytes=body_bytes)

    def require(self, size_bytes: int) -> None:
        """Raise Overloaded where a body of this size would not be taken."""
        if size_bytes > OWN_BYTES:
            self._require(size_bytes)

    def grow(self, before_bytes: int, size_bytes: int) -> int:
        """A body of which `before_bytes` are held has come to `size_bytes`; what is held of it now.

        Raises:
            Overloaded: it is not taken; what is held of it stays so.
        """
        if size_bytes <= OWN_BYTES:
            return before_bytes
        self._require(size_bytes - before_bytes)
        self.held_bytes += size_bytes - before_bytes
        return size_bytes

    def free(self, size_bytes: int) -> None:
        """So much is held no more."""
        self.held_bytes -= size_bytes

    def _require(self, more_bytes: int) -> None:
        if self.held_bytes + more_bytes > self.most_bytes:
            raise Overloaded(
                f"the server holds {self.held_bytes} bytes of large requests, {self.most_bytes} at most; "
                f"retry after {RETRY_AFTER_S} s",
                retry_after_s=RETRY_AFTER_S,
            )

    @contextmanager
    def holding(self, size_bytes: int) -> Iterator[None]:
        """Hold a body that is whole until the end of the block; raises Overloaded."""
        held = self.grow(0, size_bytes)
        try:
            yield
        finally:
            self.free(held)
