"""What disturbed a measurement: readings taken around each process's timed block, and what is found in them.

readings.py takes them, in the process that is measured. `findings` judges and is pure; a session with any finding gives
no verdict on times. Each bound stands below with its reason: it lies between what an idle machine shows (the highest
reading of the sessions recorded in docs/log.md) and what the mildest disturbance that matters would.
"""

from collections.abc import Iterator, Sequence
from math import sqrt
from statistics import median, median_low
from typing import Final, Literal, NamedTuple

import msgspec

from benchmarks.machine import UNKNOWN, Machine
from benchmarks.readings import Readings
from benchmarks.series import autocorrelation, modes, phases

Kind = Literal["calibration", "steal", "throttling", "preempted", "others", "autocorrelation", "bimodality"]

CALIBRATION: Final = 1.10  # idle: 1.01; another clock, or a neighbour on the same core, is beyond
STEAL: Final = 0.02
THROTTLED: Final = 0.0  # one throttled period stops the process for tens of milliseconds: the run is void
# Of its own turns; a neighbour on the same core makes hundreds. So may a process's own threads, which now and then are
# put on one core: idle, up to 360 a second while nobody else took any time, and the requests were as fast as ever.
PREEMPTED_PER_S: Final = 100.0
SOMEBODY: Final = 0.01  # the least share of the cores that others must have taken for a preemption to be theirs
OTHERS: Final = 0.04  # idle: 0.017; a neighbour that computes takes a quarter of two cores
AUTOCORRELATION: Final = 0.5  # chance: 0.3
PHASES: Final = 1.10  # idle: 1.07 in 19 of 20 series
SEPARATION: Final = 6.0  # one bell, or one flat stretch, has no more
SMALLER_SHARE: Final = 0.25  # what fewer samples do moves no median, and a tail that it moves has a wide interval
SPEEDS: Final = 1.10

PREEMPTED_FREE: Final = 10  # so many are no rate yet, however short the block
TICKS_S: Final = 0.02  # what two readings of /proc/stat may be off by: a tick of 10 ms each
FEWEST: Final = 50  # samples; fewer have no shape to judge


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that disturbed one process (counted from 0): `value` lies above `bound`; `told` says it in a sentence.

    Units: calibration, a ratio of times; steal, a share of one core; throttling, periods; preempted, switches a second;
    others, a share of the pinned cores; autocorrelation, a correlation; bimodality, Ashman's D.
    """

    kind: Kind
    variant: str
    process: int
    value: float
    bound: float
    told: str


def findings(variant: str, readings: Sequence[Readings], samples_ns: Sequence[Sequence[int]]) -> tuple[Finding, ...]:
    """All that disturbed one variant: its processes' readings, and one series of samples a process, in the same order.

    The samples are of one length in tokens, in the order taken: texts of many lengths have many speeds by nature. For
    further series of the same processes ask `sample_findings`.
    """
    assert len(readings) == len(samples_ns), "one series of samples a process"
    return reading_findings(variant, readings) + sample_findings(variant, samples_ns)


def reading_findings(variant: str, readings: Sequence[Readings]) -> tuple[Finding, ...]:
    """What the readings of a variant's processes show; the kernel's usual time is that of all these processes."""
    usual_ns = median_low(_block_ns(runs) for each in readings for runs in each.calibration_ns) if readings else 0
    return tuple(
        finding
        for process, each in enumerate(readings)
        for look in (_calibration(each, usual_ns), *_counted(each))
        for finding in look.found(variant, process)
    )


def sample_findings(variant: str, samples_ns: Sequence[Sequence[int]]) -> tuple[Finding, ...]:
    """What the shape of each process's samples shows; fewer than FEWEST have none."""
    return tuple(
        finding
        for process, samples in enumerate(samples_ns)
        if len(samples) >= FEWEST
        for look in (_in_phases(samples), _at_two_speeds(samples))
        for finding in look.found(variant, process)
    )


def unknown(machine: Machine, readings: Sequence[Readings]) -> tuple[str, ...]:
    """What this machine hides: a sentence for each thing that may have disturbed a measurement unseen."""
    hidden = {
        "the governor of the CPU's frequency is not shown: it may have changed the clock": machine.governor == UNKNOWN,
        "whether turbo is on is not shown: the clock may depend on heat and on other cores": machine.turbo == UNKNOWN,
        "steal is not counted here: time that other machines of the same host took stays hidden": any(
            each.steal_ms is None for each in readings
        ),
        "throttling is not counted here: no cgroup says how often a CPU quota stopped the process": any(
            each.throttled_periods is None for each in readings
        ),
        "what else ran on the pinned cores is not counted here: a busy neighbour shows in preemptions only": any(
            each.others_busy is None for each in readings
        ),
    }
    return tuple(told for told, is_hidden in hidden.items() if is_hidden)


class _Look(NamedTuple):
    """One detector's reading of one process; it is a finding where it lies above its bound."""

    kind: Kind
    value: float
    bound: float
    told: str

    def found(self, variant: str, process: int) -> Iterator[Finding]:
        if self.value > self.bound:
            told = f"{variant}, process {process + 1}: {self.told}"
            yield Finding(self.kind, variant, process, value=self.value, bound=self.bound, told=told)


def _calibration(each: Readings, usual_ns: float) -> _Look:
    """How far the kernel's time, before or after the block, is from its usual one, to either side."""
    blocks = [_block_ns(runs) for runs in each.calibration_ns]
    value, block_ns = max((max(ns / usual_ns, usual_ns / ns), ns) for ns in blocks)
    told = f"a fixed computation took {block_ns / 1e6:.3f} ms, {usual_ns / 1e6:.3f} ms is usual: the core changed speed"
    return _Look("calibration", value, CALIBRATION, told)


def _counted(each: Readings) -> Iterator[_Look]:
    """What the counters say, in shares and rates of the block's time."""
    span = max(each.span_seconds, 1e-9)
    if each.steal_ms is not None:
        share = each.steal_ms / 1e3 / span
        told = f"{share:.1%} of a core's time went to other machines of the same host"
        yield _Look("steal", share, STEAL + TICKS_S / span, told)
    if each.throttled_periods is not None:
        told = f"its CPU quota stopped it in {each.throttled_periods} periods: give it whole cores or fewer threads"
        yield _Look("throttling", each.throttled_periods, THROTTLED, told)
    if each.others_busy is not None:
        told = f"other processes took {each.others_busy:.1%} of the pinned cores' time"
        yield _Look("others", each.others_busy, OTHERS + TICKS_S / span, told)
    if each.others_busy is None or each.others_busy > SOMEBODY + TICKS_S / span:
        seconds = max(each.seconds, 1e-9)
        rate = each.preempted / seconds
        told = f"it had to leave its core {rate:.0f} times a second"
        yield _Look("preempted", rate, PREEMPTED_PER_S + PREEMPTED_FREE / seconds, told)


def _in_phases(samples: Sequence[int]) -> _Look:
    """Correlated samples matter only where phases differ: what drifts by a hundredth is correlated too."""
    apart, value = phases(samples), autocorrelation(samples)
    told = f"slow samples follow slow ones (correlation {value:.2f}): one phase takes {apart:.2f} times another's"
    return _Look("autocorrelation", value if apart > PHASES else 0.0, _for_fewer(AUTOCORRELATION, samples), told)


def _at_two_speeds(samples: Sequence[int]) -> _Look:
    """Two speeds that few samples have or that hardly differ change no percentile."""
    two = modes(samples)
    matters = two.smaller_share >= SMALLER_SHARE and two.slow > SPEEDS * two.fast
    told = f"its samples gather at two speeds, {two.fast / 1e6:.3f} and {two.slow / 1e6:.3f} ms"
    return _Look("bimodality", two.separation if matters else 0.0, _for_fewer(SEPARATION, samples), told)


def _for_fewer(bound: float, samples: Sequence[int]) -> float:
    """A bound for 100 samples, raised for fewer as chance spreads more."""
    return bound * max(1.0, sqrt(100 / len(samples)))


def _block_ns(runs: Sequence[int]) -> float:
    return median(runs)
