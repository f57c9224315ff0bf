"""An alias that moves to and fro under load: whether anybody notices.

Clients ask one after the other on connections of their own, while the alias is moved as often as told, each time as
soon as the version it names has answered. Every answer must name one of the versions and be that version's own;
anything else, an error or a connection that ends, is a failure. A server that says it is full (503 and Retry-After) is
counted apart: that is the machine's load and not the alias'.
"""

import http.client
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from typing import Any, Final, NamedTuple

import msgspec

from benchmarks.openloop.messages import parse_url
from benchmarks.serving.asking import PATIENCE_S

CLIENTS: Final = 4
TOLERANCE: Final = 1e-3  # what an answer may be off by for being computed beside others
GIVEN_UP_S: Final = 60.0
_SHOWN: Final = 5
_PAUSE_S: Final = 0.05


class Flips(NamedTuple):
    """How often the alias moved, what each version answered, how many requests were turned away, how many failed and
    the first of them in words, and the seconds from each move to the first answer of the version it named."""

    moved: int
    answers: dict[str, int]
    turned_away: int
    failures: int
    told: tuple[str, ...]
    seconds: tuple[float, ...]


def flip(
    url: str,
    *,
    body: str,
    expected: Mapping[str, Sequence[Any]],
    move: Callable[[str], None],
    flips: int,
    clients: int = CLIENTS,
) -> Flips:
    """Ask `url` (a route of ours) for `body` all the while. `expected` has the results of each version; `move` lets the
    alias name one, beginning with the second. Ends early where a version does not come within GIVEN_UP_S."""
    watch = _Watch(expected)
    threads = [threading.Thread(target=_ask, args=(url, body, watch), daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    seconds: list[float] = []
    try:
        for version in islice(cycle(expected), 1, flips + 1):
            begun = watch.expect(version)
            move(version)
            if not watch.seen.wait(GIVEN_UP_S):
                watch.fail(f"version {version} did not answer within {GIVEN_UP_S:g} s of the alias naming it")
                break
            seconds.append(time.monotonic() - begun)
    finally:
        watch.ended = True
        for thread in threads:
            thread.join(PATIENCE_S)
    return Flips(
        len(seconds), dict(watch.answers), watch.turned_away, watch.failures, tuple(watch.told), tuple(seconds)
    )


class _Watch:
    """What the clients saw, and whether the version that is waited for was among it."""

    def __init__(self, expected: Mapping[str, Sequence[Any]]) -> None:
        self.answers: Counter[str] = Counter()
        self.failures, self.turned_away, self.told, self.ended = 0, 0, list[str](), False
        self.seen = threading.Event()
        self._expected, self._wanted = expected, ""
        self._lock = threading.Lock()

    def expect(self, version: str) -> float:
        """From now on; the time."""
        with self._lock:
            self._wanted = version
            self.seen.clear()
        return time.monotonic()

    def answered(self, status: int, body: bytes) -> None:
        try:
            answer = msgspec.json.decode(body)
            version, results = str(answer["model"]["version"]), answer["results"]
        except (msgspec.MsgspecError, KeyError, TypeError):
            self.fail(f"{status}: {body[:200]!r}")
            return
        if status != 200 or version not in self._expected or not alike(results, self._expected[version]):
            self.fail(f"{status}: not what version {version} answers: {body[:200]!r}")
            return
        with self._lock:
            self.answers[version] += 1
            if version == self._wanted:
                self.seen.set()

    def full(self) -> None:
        with self._lock:
            self.turned_away += 1

    def fail(self, what: str) -> None:
        with self._lock:
            self.failures += 1
            if len(self.told) < _SHOWN:
                self.told.append(what)


def alike(found: Any, wanted: Any) -> bool:
    """Whether two JSON values are the same, numbers to within TOLERANCE."""
    if isinstance(found, float | int) and isinstance(wanted, float | int):
        return math.isclose(found, wanted, rel_tol=0.0, abs_tol=TOLERANCE)
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(alike(found[key], wanted[key]) for key in wanted)
    if isinstance(found, list) and isinstance(wanted, Sequence) and not isinstance(wanted, str):
        return len(found) == len(wanted) and all(alike(*both) for both in zip(found, wanted, strict=True))
    return bool(found == wanted)


def _ask(url: str, body: str, watch: _Watch) -> None:
    to = parse_url(url)
    connection = http.client.HTTPConnection(to.host, to.port, timeout=PATIENCE_S)
    while not watch.ended:
        try:
            connection.request("POST", to.target, body.encode("utf-8"), {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
            if response.status == 503 and response.headers["Retry-After"]:
                watch.full()
                time.sleep(_PAUSE_S)
            else:
                watch.answered(response.status, answer)
        except (OSError, http.client.HTTPException) as error:
            watch.fail(f"no answer: {error!r}")
            connection.close()
            time.sleep(_PAUSE_S)
    connection.close()
