"""The readings taken around what one process times; noise.py judges them.

`Watch` reads, in the process that is measured, what counters.py finds; nothing here knows what is too much.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.counters import Clock, Counters, calibrate, read_counters
from benchmarks.machine import affinity
from serving.cpu import ROOT


class Readings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One process's timed block; what cannot be read here is None (see `unknown`).

    `calibration_ns` are runs of a fixed kernel before and after it, `preempted` counts involuntary switches, `seconds`
    is the wall time of its turns, `span_seconds` that from the first to the last of them, `cpu_seconds` what the
    process itself computed in that span, over all its threads. Of the cores to which it was pinned, in that span,
    `steal_ms` went to other machines of the host, and `others_busy` is the share that other processes (but those it
    took turns with) and the system took.
    """

    calibration_ns: tuple[tuple[int, ...], tuple[int, ...]]
    preempted: int
    seconds: float
    span_seconds: float
    cpu_seconds: float
    steal_ms: int | None
    throttled_periods: int | None
    others_busy: float | None


class Watch:
    """Takes the readings of one process: `calibrate()`, `begin()`, blocks of `active()` work with others' work between
    them, `end()`, `calibrate()` again; then there are `readings()`.

    Each is a step of its own so that processes which take turns can all take one before any takes the next: then the
    kernel of one is in no other's counters. `clock` and `cpu_clock` give nanoseconds (of the wall; of this process on
    all its threads); `cores` are the pinned ones, by default those allowed at the beginning.
    """

    def __init__(
        self,
        *,
        clock: Clock = time.perf_counter_ns,
        cpu_clock: Clock = time.process_time_ns,
        root: Path = ROOT,
        cores: Sequence[int] = (),
    ) -> None:
        self._clock, self._cpu_clock, self._root = clock, cpu_clock, root
        self._cores = tuple(cores) or affinity()
        self._calibrations: list[tuple[int, ...]] = []
        self._counters: list[Counters] = []
        self._active_ns = 0

    def calibrate(self) -> None:
        """Time the fixed kernel."""
        self._calibrations.append(calibrate(self._clock))

    def begin(self) -> None:
        self._count()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Around what is timed, and what belongs to it."""
        begun_ns = self._clock()
        yield
        self._active_ns += self._clock() - begun_ns

    def end(self) -> None:
        self._count()

    def readings(self) -> Readings:
        (then, now), (before, after) = self._counters, self._calibrations
        return Readings(
            calibration_ns=(before, after),
            preempted=now.preempted - then.preempted,
            seconds=self._active_ns / 1e9,
            span_seconds=(now.wall_ns - then.wall_ns) / 1e9,
            cpu_seconds=(now.cpu_ns - then.cpu_ns) / 1e9,
            steal_ms=_steal_ms(then, now),
            throttled_periods=_throttled_periods(then, now),
            others_busy=_others_busy(then, now, cores=len(self._cores)),
        )

    def _count(self) -> None:
        self._counters.append(read_counters(self._cores, clock=self._clock, cpu_clock=self._cpu_clock, root=self._root))


def without_each_other(readings: Mapping[str, Readings], *, cores: int) -> dict[str, Readings]:
    """Readings of processes that took turns on the same cores: what one of them did disturbed no other, so it is taken
    out of what others did."""
    return {name: _less(each, readings.values(), cores=cores) for name, each in readings.items()}


def _less(each: Readings, all_of_them: Iterable[Readings], *, cores: int) -> Readings:
    if each.others_busy is None:
        return each
    theirs_s = sum(other.cpu_seconds for other in all_of_them) - each.cpu_seconds
    share = theirs_s / (cores * max(each.span_seconds, 1e-9))
    return msgspec.structs.replace(each, others_busy=max(0.0, each.others_busy - share))


def _steal_ms(then: Counters, now: Counters) -> int | None:
    """A counter that has stood at zero since boot is no reading: many hypervisors never tell."""
    if then.cores is None or now.cores is None or now.cores.steal_ms == 0:
        return None
    return now.cores.steal_ms - then.cores.steal_ms


def _throttled_periods(then: Counters, now: Counters) -> int | None:
    if then.throttled_periods is None or now.throttled_periods is None:
        return None
    return now.throttled_periods - then.throttled_periods


def _others_busy(then: Counters, now: Counters, *, cores: int) -> float | None:
    if then.cores is None or now.cores is None:
        return None
    others_ms = now.cores.busy_ms - then.cores.busy_ms - (now.cpu_ns - then.cpu_ns) / 1e6
    all_ms = cores * (now.wall_ns - then.wall_ns) / 1e6
    return max(0.0, others_ms / all_ms) if all_ms else None
