"""Authors at one registry who take turns, request by request: every order of two of them can be had, and had again."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
TOLD_S = 60.0


class Turns:
    """Whose request is next: names in order; a name that is done, or not named any more, is passed over."""

    def __init__(self, order: Sequence[str], authors: Sequence[str]) -> None:
        self._order: Iterator[str] = iter(order)
        self._working = set(authors)
        self._changed = threading.Condition()
        self._now: str | None = None
        self._next()

    def take(self, author: str, request: Callable[[], T]) -> T:
        """Answer the author's request when it is its turn."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._now in (author, None), TOLD_S)
            try:
                return request()
            finally:
                self._next()
                self._changed.notify_all()

    def leave(self, author: str) -> None:
        """The author asks no more."""
        with self._changed:
            self._working.discard(author)
            if self._now == author:
                self._next()
            self._changed.notify_all()

    def _next(self) -> None:
        self._now = next((each for each in self._order if each in self._working), None)


class Author:
    """A client whose every request waits for its turn."""

    def __init__(self, client: Any, name: str, turns: Turns) -> None:
        self._client, self._name, self._turns = client, name, turns

    def __getattr__(self, called: str) -> Any:
        found = getattr(self._client, called)
        if not callable(found):
            return found
        return lambda *given, **named: self._turns.take(self._name, lambda: found(*given, **named))


def take_turns(order: Sequence[str], client: Any, acts: dict[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """Let every author act in a thread of its own, in that order of requests; what each returned, or raised."""
    turns, ended = Turns(order, list(acts)), dict[str, Any]()

    def work(name: str, act: Callable[[Any], Any]) -> None:
        try:
            ended[name] = act(Author(client, name, turns))
        except Exception as error:  # noqa: BLE001  (the test looks at it)
            ended[name] = error
        finally:
            turns.leave(name)

    threads = [threading.Thread(target=work, args=each) for each in acts.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TOLD_S)
    return ended
