"""How long each server takes until it says that it is ready, and whether its first answer is as fast as those that
follow."""

import time
from collections.abc import Iterator
from statistics import median
from typing import Final

import msgspec

from benchmarks.serving.asking import answer_of
from benchmarks.serving.contest import Contest, best_score
from benchmarks.serving.contestants import OURS
from benchmarks.serving.figures import Figure
from benchmarks.serving.running import Served
from serving.errors import Transient

READY_S: Final = 5.0
FIRST: Final = 1.5  # times the steady p50
APART: Final = 1e-3  # more, and they would not run the same model
WARM: Final = 50
STEADY: Final = 100


class Start(msgspec.Struct, frozen=True):
    """Seconds until the server said that it is ready, what the first answer took then, the median of later ones to the
    same text, asked in the same way (each on a connection of its own), and the best label's score in it, which shows
    that all run the same model."""

    ready_s: float
    first_ms: float
    steady_p50_ms: float
    score: float


class Starts(msgspec.Struct, frozen=True):
    """By name, a start a round; ours are known where none of the rounds failed."""

    found: dict[str, tuple[Start, ...]]
    rounds: int

    def rows(self) -> tuple[tuple[str, ...], ...]:
        return tuple(
            (name, *(f"{median(getattr(one, field) for one in each):.4g}" for field in Start.__struct_fields__))
            for name, each in self.found.items()
        )

    def figures(self) -> tuple[Figure, ...]:
        ours = self.found.get(OURS, ())
        whole = len(ours) == self.rounds
        ready_s = median(one.ready_s for one in ours) if whole else None
        first = median(one.first_ms / one.steady_p50_ms for one in ours) if whole else None
        scores = [one.score for each in self.found.values() for one in each]
        apart = max(scores) - min(scores) if len(self.found) > 1 else None
        return (
            Figure.most("ready", ready_s, READY_S, "s"),
            Figure.most("first answer, of the steady p50", first, FIRST, "x"),
            Figure.most("best scores of one text, apart", apart, APART),
        )


def measure_starts(contest: Contest, *, rounds: int) -> Starts:
    """Everybody, in turn."""

    def start(name: str) -> Start:
        with contest.server(name) as server:
            steady = list(_latencies_ms(server, contest.bodies(name)[0], count=WARM + STEADY))[WARM:]
            server.require_alive()
            return Start(server.ready_s, server.first_ms, median(steady), best_score(server.first))

    found: dict[str, list[Start]] = {}
    for number in range(rounds):
        for name, one in contest.each(number, start).items():
            found.setdefault(name, []).append(one)
    return Starts({name: tuple(each) for name, each in found.items()}, rounds)


def _latencies_ms(server: Served, body: str, *, count: int) -> Iterator[float]:
    """One after the other, as the first answer was asked for: how long each took.

    Raises:
        Transient: one is no good answer.
    """
    for number in range(count):
        begun = time.perf_counter()
        found = answer_of(server.url, body)
        took_ms = (time.perf_counter() - begun) * 1e3
        if not found.ok:
            raise Transient(f"{server.name} gave no good answer to request {number + 1} after its first ({found.told})")
        yield took_ms
