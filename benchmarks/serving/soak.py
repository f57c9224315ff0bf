"""Whether our server's memory stays as it is: requests at a steady rate for an hour, its resident size once a second.

    python -m benchmarks.serving.soak BUNDLE --texts FILE.jsonl [--seconds 3600] [--rps 200] [--out FILE.json]

slope       MB an hour over what was resident after the warm-up (a tenth of the time, from 30 s to 5 min): the median of
            the slopes between all pairs of readings (Theil and Sen), which a step or a spike does not bend
interval    the slope's, of 95 % (Sen), from the medians of BLOCKS equal parts of the time: readings a second apart are
            not independent, parts of minutes nearly are. Only of LEAST_S and more: in less the allocator hides it
growth      the median of the last fifth less that of the first fifth, APART of the time from each other: shows a step
verdict     NO: the interval lies above BOUND_MB an hour, or it grew by more than NOISE_MB and by more than BOUND_MB an
            hour. yes: the interval lies within BOUND_MB an hour, and ANSWERED of the requests got a good answer, for
            the memory of a server that refuses is that of one at rest. "not known": neither. `shows` is the slowest
            leak that this run would have been called one for.

Memory is that of the server and all that it started. It ends with 1 unless the verdict is yes and no request was lost.
The last line is JSON.
"""

import argparse
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.machine import affinity, read
from benchmarks.openloop.client import ClientJob
from benchmarks.openloop.scenarios import connections_for, split_cores, trace_http
from benchmarks.serving.contest import Contest
from benchmarks.serving.contestants import OURS
from benchmarks.serving.figures import Figure, Kept
from benchmarks.serving.processes import rss_bytes
from benchmarks.serving.running import Served
from benchmarks.serving.texts import texts_of
from serving.bundle import read_bundle

BOUND_MB: Final = 1.0  # an hour
NOISE_MB: Final = 2.0  # by which arenas of the allocator move what is resident, and no leak
EVERY_S: Final = 1.0
HELD_MS: Final = 1000.0  # a machine that stands still for so long loses no request for want of a connection
PIECE_S: Final = 60.0  # the load is offered in pieces: the generator keeps every request's times
APART: Final = 0.8
BLOCKS: Final = 20
LEAST_S: Final = 1800.0
ANSWERED: Final = 0.999
_SIGMAS: Final = 1.96
_MOST_READINGS: Final = 1000  # of which all pairs are compared


class Reading(msgspec.Struct, frozen=True):
    """Resident bytes so long after the load began."""

    at_s: float
    rss_bytes: int


class Soak(msgspec.Struct, frozen=True):
    """What a run found; `lost` requests got no answer, or one that is neither good nor a refusal. `low` and `high` are
    the slope's interval, None of a run that is too short; `readings` are all of them, the warm-up's first."""

    seconds: float
    warm_s: float
    rps: float
    sent: int
    answered: int
    lost: int
    slope_mb_per_hour: float
    low_mb_per_hour: float | None
    high_mb_per_hour: float | None
    growth_mb: float
    resident_mb: float
    readings: tuple[Reading, ...]

    @property
    def hours(self) -> float:
        return (self.seconds - self.warm_s) / 3600

    @property
    def shows_mb_per_hour(self) -> float:
        """The slowest leak that is called one, by its growth or, beside as much noise as there was, by its interval."""
        by_growth = max(BOUND_MB, NOISE_MB / (APART * self.hours))
        if self.low_mb_per_hour is None:
            return by_growth
        return min(by_growth, BOUND_MB + max(0.0, self.slope_mb_per_hour - self.low_mb_per_hour))

    @property
    def verdict(self) -> Kept:
        low, high = self.low_mb_per_hour, self.high_mb_per_hour
        if self._has_grown or (low is not None and low > BOUND_MB):
            return "NO"
        loaded = self.answered >= ANSWERED * self.sent > 0
        return "yes" if high is not None and high <= BOUND_MB and loaded else "not known"

    @property
    def _has_grown(self) -> bool:
        return self.growth_mb > max(NOISE_MB, BOUND_MB * APART * self.hours)

    def figures(self) -> tuple[Figure, ...]:
        """The memory's value is what the verdict was found by: the slope, or where that hides a step, the growth."""
        grown = self.growth_mb / (APART * self.hours)
        value = max(grown, self.slope_mb_per_hour) if self._has_grown else self.slope_mb_per_hour
        return Figure.most("memory", value, BOUND_MB, "MB/h", verdict=self.verdict), Figure.lost("soak", self.lost)

    def told(self) -> str:
        """A line for people."""
        low, high = self.low_mb_per_hour, self.high_mb_per_hour
        interval = f"not known in less than {LEAST_S:g} s" if low is None else f"{low:+.2f} to {high:+.2f}"
        return (
            f"{self.slope_mb_per_hour:+.2f} MB/h ({interval}) over {self.seconds - self.warm_s:.0f} s at {self.rps:g}"
            f"/s ({self.answered:,} of {self.sent:,} answered, {self.lost:,} lost), grown by {self.growth_mb:+.2f} MB "
            f"to {self.resident_mb:.0f} MB; flat: {self.verdict} (a leak of {self.shows_mb_per_hour:.3g} MB/h would "
            "have been seen)"
        )


def soak(contest: Contest, *, rps: float, seconds: float, bound_ms: float) -> Soak:
    """Ours."""
    with contest.server(OURS) as server:
        return soak_server(
            server, contest.bodies(OURS), rps=rps, seconds=seconds, bound_ms=bound_ms, cores=contest.generator
        )


def soak_server(
    server: Served, bodies: Sequence[str], *, rps: float, seconds: float, bound_ms: float, cores: Sequence[int] = ()
) -> Soak:
    """Whatever listens there."""
    readings: list[Reading] = []
    sent = answered = lost = number = 0
    left_s = seconds
    with _watched(lambda: rss_bytes(server.pid), readings):
        while left_s > 0:
            piece_s = min(PIECE_S, left_s) if left_s >= 2 * PIECE_S else left_s
            job = ClientJob(
                server.name,
                server.url,
                tuple(bodies),
                rps,
                piece_s,
                warm_s=0.0,
                seed=number,
                connections=connections_for(rps, bound_ms=bound_ms),
                cores=tuple(cores),
            )
            rate = trace_http(job, server=server).rate()
            sent, answered, lost = sent + rate.sent, answered + rate.answered, lost + rate.failed
            number, left_s = number + 1, left_s - piece_s
    return soaked(readings, rps=rps, sent=sent, answered=answered, lost=lost)


def soaked(readings: Sequence[Reading], *, rps: float, sent: int, answered: int, lost: int) -> Soak:
    """The figures of the readings."""
    seconds = readings[-1].at_s
    warm_s = min(300.0, max(30.0, seconds / 10), seconds / 2)
    kept = [each for each in readings if each.at_s >= warm_s]
    at_s, rss_mb = np.array([each.at_s for each in kept]), np.array([each.rss_bytes / 1e6 for each in kept])
    fifth = max(1, len(kept) // 5)
    low, high = interval(at_s / 3600, rss_mb) if seconds - warm_s >= LEAST_S else (None, None)
    return Soak(
        seconds=seconds,
        warm_s=warm_s,
        rps=rps,
        sent=sent,
        answered=answered,
        lost=lost,
        slope_mb_per_hour=slope(at_s / 3600, rss_mb),
        low_mb_per_hour=low,
        high_mb_per_hour=high,
        growth_mb=float(np.median(rss_mb[-fifth:]) - np.median(rss_mb[:fifth])),
        resident_mb=float(np.median(rss_mb[-fifth:])),
        readings=tuple(readings),
    )


def slope(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """The median of the slopes between all pairs; 0 of fewer than two points."""
    thin = slice(None, None, -(-len(x) // _MOST_READINGS))
    between = _slopes(x[thin], y[thin])
    return float(np.median(between)) if len(between) else 0.0


def interval(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Of the slope, from the medians of BLOCKS parts; there are enough points. Sen (1968), by Kendall's variance."""
    parts_x, parts_y = (np.array([np.median(part) for part in np.array_split(each, BLOCKS)]) for each in (x, y))
    between = np.sort(_slopes(parts_x, parts_y))
    around = _SIGMAS * np.sqrt(BLOCKS * (BLOCKS - 1) * (2 * BLOCKS + 5) / 18)
    beyond = int((len(between) - around) / 2)
    return float(between[beyond]), float(between[-1 - beyond])


def _slopes(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Between all pairs."""
    first, second = np.triu_indices(len(x), k=1)
    slopes: npt.NDArray[np.float64] = (y[second] - y[first]) / (x[second] - x[first])
    return slopes


@contextmanager
def _watched(look: Callable[[], int], readings: list[Reading]) -> Iterator[None]:
    """Read once a second while the block lasts, in a thread that sleeps, and once at its end."""
    ended, begun_s = threading.Event(), time.monotonic()

    def read_now() -> None:
        readings.append(Reading(time.monotonic() - begun_s, look()))

    def watch() -> None:
        while not ended.wait(EVERY_S):
            read_now()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    read_now()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, tell, and end with a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--texts", type=Path, help="default: the bundle's golden ones")
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--rps", type=float, default=200.0)
    parser.add_argument("--bound-ms", type=float, default=HELD_MS, help="connections for answers that take so long")
    parser.add_argument("--out", type=Path, help="where to keep the JSON too")
    asked = parser.parse_args(arguments)
    if min(asked.seconds, asked.rps, asked.bound_ms) <= 0:
        parser.error("--seconds, --rps and --bound-ms must be above 0")
    bundle, (generator, others) = read_bundle(asked.bundle), split_cores(affinity())
    contest = Contest(bundle, texts_of(bundle, asked.texts), {}, others[:1], generator)
    found = soak(contest, rps=asked.rps, seconds=asked.seconds, bound_ms=asked.bound_ms)
    told = msgspec.json.encode({"verdict": found.verdict, "digest": bundle.digest, "soak": found, "machine": read()})
    print(found.told())
    if asked.out:
        asked.out.write_bytes(told + b"\n")
    print(told.decode("utf-8"))
    return int(any(each.kept != "yes" for each in found.figures()))


if __name__ == "__main__":
    raise SystemExit(main())
