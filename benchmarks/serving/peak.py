"""The highest rate that each server keeps, and how long requests take at half of the best peer's."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any, Final, NamedTuple

import msgspec

from benchmarks.openloop.client import ClientJob
from benchmarks.openloop.plan import Plan
from benchmarks.openloop.results import Rate, ServerResult
from benchmarks.openloop.scenarios import connections_for, load_engine, load_url, offer_http
from benchmarks.openloop.search import TRIES
from benchmarks.serving.contest import Contest
from benchmarks.serving.contestants import OURS
from benchmarks.serving.figures import Figure
from serving.choosing import where_pays
from serving.tuning import plain

IN_PROCESS: Final = "in process"
OVER_BEST: Final = 1.5  # times the best peer's peak
OF_IN_PROCESS: Final = 0.85  # of the same engine and batcher without HTTP
OF_BEST_P99: Final = 0.6  # of the best peer's p99 at half of its peak
HEADINGS: Final = ("peak", "requests/s", "of the rounds", "of the best peer's", "rounds", "void")


class Peak(NamedTuple):
    """The median of the rounds lies between the two: they are one where every round that it rests on is whole, and
    `highest` is infinite where nothing is known above."""

    lowest: float
    highest: float

    @property
    def is_known(self) -> bool:
        return self.lowest == self.highest

    def told(self) -> str:
        if self.lowest:
            return f"{'' if self.is_known else 'at least '}{self.lowest:.0f}"
        return f"below {self.highest:.0f}"


class Peaks(msgspec.Struct, frozen=True):
    """By name, a search for each of the `rounds` in which it did not fail."""

    searches: dict[str, tuple[ServerResult, ...]]
    rounds: int

    def peak(self, name: str) -> Peak | None:
        """Of the rounds that found anything; None where none did."""
        known = self._known(name)
        if not known:
            return None
        return Peak(median(each.best_rps or 0.0 for each in known), median(each.at_most_rps for each in known))

    def rps(self, name: str | None) -> float | None:
        """What is known to be kept."""
        peak = self.peak(name) if name else None
        return peak.lowest or None if peak else None

    def best_peer(self) -> str | None:
        """Of those that have half of their rounds at least."""
        peers = {name: rps for name in self._peers() if not self.has_few(name) and (rps := self.rps(name))}
        return max(peers, key=peers.__getitem__) if peers else None

    def has_few(self, name: str) -> bool:
        """Fewer than half of the rounds: too few for a median."""
        return 2 * len(self._known(name)) < self.rounds

    def rows(self) -> tuple[tuple[str, ...], ...]:
        """For people: the median, the spread over the rounds, and beside the best peer's."""
        best = self.peak(self.best_peer() or "")
        return tuple(self._row(name, best) for name in sorted(self.searches, key=lambda each: -(self.rps(each) or 0)))

    def figures(self) -> tuple[Figure, ...]:
        ours, best, floor = self.peak(OURS), self._best(), self.peak(IN_PROCESS)
        over_best = Figure.least("peak over the best peer's", _ratio_of(ours, best, OVER_BEST), OVER_BEST, "x")
        of_floor = Figure.least("peak of that in process", _ratio_of(ours, floor, OF_IN_PROCESS), OF_IN_PROCESS, "x")
        return self._noted(over_best, self.best_peer()), self._noted(of_floor, IN_PROCESS)

    def _noted(self, figure: Figure, beside: str | None) -> Figure:
        names = (OURS, beside) if beside else (OURS,)
        counts = ", ".join(f"{name} {len(self._known(name))}" for name in names)
        return msgspec.structs.replace(figure, note=f"of {self.rounds} rounds: {counts}")

    def _best(self) -> Peak | None:
        """What any peer may keep; None where one with too few rounds kept more in one of them."""
        best = self.peak(self.best_peer() or "")
        if best is None:
            return None
        few = [each.best_rps or 0.0 for name in self._peers() if self.has_few(name) for each in self._known(name)]
        if max(few, default=0.0) > best.lowest:
            return None
        others = [peak for name in self._peers() if not self.has_few(name) and (peak := self.peak(name))]
        return Peak(best.lowest, max(peak.highest for peak in others))

    def _peers(self) -> tuple[str, ...]:
        return tuple(name for name in self.searches if name not in (OURS, IN_PROCESS))

    def _known(self, name: str) -> list[ServerResult]:
        """A search that was void from its start is none."""
        return [
            each for each in self.searches.get(name, ()) if each.best_rps is not None or each.broken_rps is not None
        ]

    def _row(self, name: str, best: Peak | None) -> tuple[str, ...]:
        rates = [each.best_rps for each in self.searches[name] if each.best_rps is not None]
        peak, rounds = self.peak(name), f"{len(self._known(name))} of {self.rounds}"
        ratio = f"{peak.lowest / best.lowest:.2f}" if peak and peak.is_known and best and best.is_known else "-"
        spread = f"{min(rates):.0f} to {max(rates):.0f}" if rates else "-"
        voids = [point.void for each in self.searches[name] for point in each.points if point.void]
        few = ": too few" if self.has_few(name) else ""
        return name, peak.told() if peak else "-", spread, ratio, rounds + few, voids[0] if voids else ""


def find_peaks(contest: Contest, *, plan: Plan, rounds: int, keep: Callable[[Peaks], None] = lambda _: None) -> Peaks:
    """A fresh server for every search; the schedules of a round are the same for everybody, and others in the next.
    `keep` gets all that is known after every search."""
    found: dict[str, list[ServerResult]] = {name: [] for name in (*contest.names, IN_PROCESS)}

    def known(number: int) -> Peaks:
        return Peaks({name: tuple(each) for name, each in found.items()}, rounds=number + 1)

    def search(name: str, *, number: int) -> None:
        result = _search(contest, name, msgspec.structs.replace(plan, seed=plan.seed + number))
        found[name].append(result)
        keep(known(number))

    for number in range(rounds):
        contest.each(number, partial(search, number=number), beside=(IN_PROCESS,), part="peak")
    return known(rounds - 1)


def _search(contest: Contest, name: str, plan: Plan) -> ServerResult:
    """In process is run as the server that is told its threads."""
    if name == IN_PROCESS:
        return load_engine(
            contest.bundle.path,
            [(text,) for text in contest.texts],
            variant=name,
            plan=plan,
            cores=contest.cores,
            threads=contest.threads,
            setting=where_pays(plain(contest.threads)),
        )
    with contest.server(name) as server:
        return load_url(
            server.url, contest.bodies(name), variant=name, plan=plan, cores=contest.generator, server=server
        )


class Half(msgspec.Struct, frozen=True):
    """At one rate, by name: a point for each of the rounds in which it did not fail."""

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
        ours, peer = self.p99_ms(OURS), self.p99_ms(self.best_peer)
        ratio = ours / peer if ours is not None and peer else None
        figure = Figure.most("p99 of the best peer's at half of its peak", ratio, OF_BEST_P99, "x")
        counts = ", ".join(f"{name} {len(self.points.get(name, ()))}" for name in (OURS, self.best_peer))
        return (msgspec.structs.replace(figure, note=f"rounds: {counts}"),)


def measure_half(contest: Contest, *, rps: float, best_peer: str, seconds: float, rounds: int, bound_ms: float) -> Half:
    """Ours and the best peer, one after the other, in turn; a point that is void is taken again, as in a search."""
    connections = connections_for(rps, bound_ms=bound_ms)

    def offer(name: str, *, number: int) -> Rate:
        with contest.server(name) as server:
            job = ClientJob(name, server.url, contest.bodies(name), rps, seconds, seed=number, connections=connections)
            job = msgspec.structs.replace(job, cores=contest.generator)
            for _ in range(TRIES):
                point = offer_http(job, server=server)
                if not point.void:
                    break
            return point

    two = contest.only((best_peer,))
    found = [two.each(number, partial(offer, number=number), part="half") for number in range(rounds)]
    names = (OURS, best_peer)
    return Half(rps, best_peer, {name: tuple(each[name] for each in found if name in each) for name in names})


def _ratio_of(ours: Peak | None, other: Peak | None, least: float) -> float | None:
    """What is known of the ratio: what it is at least where that suffices, what it is at most where that is too little,
    and else nothing."""
    if ours is None or other is None or not other.lowest:
        return None
    at_least, at_most = ours.lowest / other.highest, ours.highest / other.lowest
    return at_least if at_least >= least else at_most if at_most < least else None


def _percentiles(points: Sequence[Rate]) -> tuple[str, ...]:
    series: Mapping[str, list[Any]] = {
        name: [getattr(each, name) for each in points] for name in ("p50_ms", "p90_ms", "p99_ms")
    }
    return tuple(
        "-" if None in values or not values else f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
        for values in series.values()
    )
