"""The highest rate that each server keeps, and how long requests take at half of the best peer's."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

import msgspec

from benchmarks.openloop.client import ClientJob
from benchmarks.openloop.plan import Plan
from benchmarks.openloop.results import Rate, ServerResult
from benchmarks.openloop.scenarios import connections_for, load_engine, load_url, offer_http
from benchmarks.serving.contest import Contest
from benchmarks.serving.contestants import OURS
from benchmarks.serving.figures import Figure

IN_PROCESS: Final = "in process"
OVER_BEST: Final = 1.5  # times the best peer's peak
OF_IN_PROCESS: Final = 0.85  # of the same engine and batcher without HTTP
OF_BEST_P99: Final = 0.6  # of the best peer's p99 at half of its peak


class Peaks(msgspec.Struct, frozen=True):
    """By name, a search a round."""

    searches: dict[str, tuple[ServerResult, ...]]

    def rps(self, name: str) -> float | None:
        """The median of the rounds; None where one did not find any."""
        found = [each.best_rps for each in self.searches.get(name, ())]
        known = [rps for rps in found if rps is not None]
        return median(known) if known and len(known) == len(found) else None

    def best_peer(self) -> str | None:
        peers = {name: rps for name in self.searches if name not in (OURS, IN_PROCESS) and (rps := self.rps(name))}
        return max(peers, key=peers.__getitem__) if peers else None

    def rows(self) -> tuple[tuple[str, ...], ...]:
        """For people: the median, the spread over the rounds, and beside the best peer's."""
        best = self.rps(self.best_peer() or "")
        return tuple(self._row(name, best) for name in sorted(self.searches, key=lambda each: -(self.rps(each) or 0)))

    def figures(self) -> tuple[Figure, ...]:
        ours, best, floor = (self.rps(name) for name in (OURS, self.best_peer() or "", IN_PROCESS))
        return (
            Figure.least("peak over the best peer's", _ratio(ours, best), OVER_BEST, "x"),
            Figure.least("peak of that in process", _ratio(ours, floor), OF_IN_PROCESS, "x"),
        )

    def _row(self, name: str, best: float | None) -> tuple[str, ...]:
        rates = [each.best_rps for each in self.searches[name] if each.best_rps is not None]
        middle, ratio = self.rps(name), _ratio(self.rps(name), best)
        spread = f"{min(rates):.0f} to {max(rates):.0f}" if rates else "-"
        voids = [point.void for each in self.searches[name] for point in each.points if point.void]
        cells = ("-" if middle is None else f"{middle:.0f}", spread, "-" if ratio is None else f"{ratio:.2f}")
        return name, *cells, voids[0] if voids else ""


def find_peaks(contest: Contest, *, plan: Plan, rounds: int) -> Peaks:
    """A fresh server for every search."""

    def search(name: str) -> ServerResult:
        if name == IN_PROCESS:
            items = [(text,) for text in contest.texts]
            return load_engine(
                contest.bundle.path, items, variant=name, plan=plan, cores=contest.cores, threads=contest.threads
            )
        with contest.server(name) as server:
            return load_url(
                server.url, contest.bodies(name), variant=name, plan=plan, cores=contest.generator, server=server
            )

    found: dict[str, list[ServerResult]] = {}
    for number in range(rounds):
        for name, result in contest.each(number, search, beside=(IN_PROCESS,)).items():
            found.setdefault(name, []).append(result)
    return Peaks({name: tuple(each) for name, each in found.items()})


class Half(msgspec.Struct, frozen=True):
    """At one rate, by name: a point a round."""

    rps: float
    best_peer: str
    points: dict[str, tuple[Rate, ...]]

    def p99_ms(self, name: str) -> float | None:
        """The median over the rounds; None where one is void or has no such figure."""
        found = [None if each.void else each.p99_ms for each in self.points.get(name, ())]
        known = [each for each in found if each is not None]
        return median(known) if known and len(known) == len(found) else None

    def rows(self) -> tuple[tuple[str, ...], ...]:
        return tuple((name, *_percentiles(each)) for name, each in self.points.items())

    def figures(self) -> tuple[Figure, ...]:
        ratio = _ratio(self.p99_ms(OURS), self.p99_ms(self.best_peer))
        return (Figure.most("p99 of the best peer's at half of its peak", ratio, OF_BEST_P99, "x"),)


def measure_half(contest: Contest, *, rps: float, best_peer: str, seconds: float, rounds: int, bound_ms: float) -> Half:
    """Ours and the best peer, one after the other, in turn."""
    connections = connections_for(rps, bound_ms=bound_ms)

    def offer(name: str) -> Rate:
        with contest.server(name) as server:
            job = ClientJob(name, server.url, contest.bodies(name), rps, seconds, connections=connections)
            return offer_http(msgspec.structs.replace(job, cores=contest.generator), server=server)

    two = contest.only((best_peer,))
    found = [two.each(number, offer) for number in range(rounds)]
    names = (OURS, best_peer)
    return Half(rps, best_peer, {name: tuple(each[name] for each in found if name in each) for name in names})


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def _percentiles(points: Sequence[Rate]) -> tuple[str, ...]:
    series: Mapping[str, list[Any]] = {
        name: [getattr(each, name) for each in points] for name in ("p50_ms", "p90_ms", "p99_ms")
    }
    return tuple(
        "-" if None in values or not values else f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
        for values in series.values()
    )
