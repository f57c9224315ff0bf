"""The counters that `readings.Watch` reads around a timed block, and its calibration kernel.

Everything that the kernel tells is read from files under `root`, so that a test injects a machine by writing files.
"""

import hashlib
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.machine import disturbance
from serving.cpu import ROOT

Clock = Callable[[], int]

_TICK_MS: Final = 10  # /proc/stat counts in hundredths of a second on every architecture
_KERNEL_INPUT: Final = bytes(512 * 1024)  # stays in a core's own cache: other cores cannot slow it by using memory
_KERNEL_RUNS: Final = 40
_KERNEL_DROPPED: Final = 5  # the first ones may wait for the threads of the last request to fall asleep


class Cores(NamedTuple):
    """What some cores have done since boot, in milliseconds: computed for anybody, or lost to other machines."""

    busy_ms: int
    steal_ms: int


class Counters(NamedTuple):
    """Counters at one moment; those of the process are over all its threads, None is what this machine counts not."""

    wall_ns: int
    cpu_ns: int
    preempted: int
    throttled_periods: int | None
    cores: Cores | None


def read_counters(cores: Sequence[int], *, clock: Clock, cpu_clock: Clock, root: Path = ROOT) -> Counters:
    """`cores` are the pinned ones; `clock` and `cpu_clock` give nanoseconds, of the wall and of this process."""
    return Counters(
        wall_ns=clock(),
        cpu_ns=cpu_clock(),
        preempted=resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw,
        throttled_periods=disturbance(root).throttled_periods,
        cores=_read_cores(root / "proc/stat", cores),
    )


def calibrate(clock: Clock = time.perf_counter_ns) -> tuple[int, ...]:
    """How long a fixed computation takes, in nanoseconds, again and again: a core that is as fast takes as long.

    A digest keeps one core in a chain of instructions that wait for each other, without threads and without a choice
    of code by shape or alignment, so that it is the same in every process.
    """
    times = []
    for _ in range(_KERNEL_DROPPED + _KERNEL_RUNS):
        start = clock()
        hashlib.sha256(_KERNEL_INPUT).digest()
        times.append(clock() - start)
    return tuple(times[_KERNEL_DROPPED:])


def _read_cores(stat: Path, cores: Sequence[int]) -> Cores | None:
    """The sum over `cores`; None where the file or one of them is not there."""
    try:
        lines = stat.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    by_name = {
        fields[0]: [int(each) for each in fields[1:]] for line in lines if (fields := line.split())[0][:3] == "cpu"
    }
    found = [by_name[f"cpu{core}"] for core in cores if f"cpu{core}" in by_name]
    if not found or len(found) < len(set(cores)):
        return None
    return Cores(*(_TICK_MS * sum(each) for each in zip(*map(_busy_and_steal, found), strict=True)))


def _busy_and_steal(ticks: Sequence[int]) -> tuple[int, int]:
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts, steal = ticks[:8]
    return user + nice + system + interrupts + soft_interrupts, steal
