"""What is found in readings that stand for a quiet machine with one thing wrong, and what just is not."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from receipts import MACHINE

from benchmarks import noise
from benchmarks.noise import Finding, findings, reading_findings, sample_findings, unknown
from benchmarks.readings import Readings

QUIET = Readings(
    calibration_ns=((500_000,) * 20, (500_000,) * 20),
    preempted=5,
    seconds=2.0,
    span_seconds=2.0,
    cpu_seconds=2.0,
    steal_ms=0,
    throttled_periods=0,
    others_busy=0.005,
)
SHOWN = msgspec.structs.replace(MACHINE, governor="performance", turbo="off")  # a machine that hides nothing


def with_(**changes: object) -> Readings:
    return msgspec.structs.replace(QUIET, **changes)


def steady(n: int = 100) -> list[int]:
    """A series around 2 ms with a normal hundredth of spread."""
    return [int(each) for each in np.random.default_rng(0).normal(2e6, 2e4, n)]


def found_in(third: Readings) -> tuple[Finding, ...]:
    return reading_findings("student", (QUIET, QUIET, third))


def test_a_quiet_machine_gives_no_finding() -> None:
    assert findings("student", [QUIET] * 5, [steady()] * 5) == ()


def test_no_readings_give_no_finding() -> None:
    assert findings("student", (), ()) == ()


def test_a_finding_names_the_variant_the_process_the_value_and_the_bound() -> None:
    assert found_in(with_(throttled_periods=3)) == (
        Finding(
            kind="throttling",
            variant="student",
            process=2,
            value=3,
            bound=0,
            told="student, process 3: its CPU quota stopped it in 3 periods: give it whole cores or fewer threads",
        ),
    )


# In a block of two seconds the resolution of /proc/stat (0.02 s) adds 0.01 to a share, the free switches 5 to a rate.
SOME = {"others_busy": 0.03}
EDGES = {
    "steal": ({"steal_ms": 60}, {"steal_ms": 70}, "3.5% of a core's time went to other machines of the same host"),
    "throttling": (
        {"throttled_periods": 0},
        {"throttled_periods": 1},
        "its CPU quota stopped it in 1 periods: give it whole cores or fewer threads",
    ),
    "others": ({"others_busy": 0.049}, {"others_busy": 0.052}, "other processes took 5.2% of the pinned cores' time"),
    "preempted": (
        {**SOME, "preempted": 210},
        {**SOME, "preempted": 212},
        "it had to leave its core 106 times a second",
    ),
}


@pytest.mark.parametrize("kind", EDGES)
def test_a_counter_above_its_bound_is_found_and_one_just_below_is_not(kind: str) -> None:
    below, above, told = EDGES[kind]
    assert found_in(with_(**below)) == ()
    (finding,) = found_in(with_(**above))
    assert (finding.kind, finding.process, finding.told) == (kind, 2, f"student, process 3: {told}")
    assert finding.value > finding.bound


@pytest.mark.parametrize("side", [0, 1], ids=["before", "after"])
@pytest.mark.parametrize(("ns", "is_found"), [(540_000, False), (560_000, True), (460_000, False), (440_000, True)])
def test_a_core_that_changed_its_speed_is_found_on_either_side_of_the_block(side: int, ns: int, is_found: bool) -> None:
    runs = [(500_000,) * 20, (500_000,) * 20]
    runs[side] = (ns,) * 20
    assert [finding.kind for finding in found_in(with_(calibration_ns=tuple(runs)))] == ["calibration"] * is_found


def test_threads_of_one_process_that_leave_each_other_s_core_are_no_disturbance() -> None:
    assert found_in(with_(preempted=1000, others_busy=0.005)) == ()
    assert [finding.kind for finding in found_in(with_(preempted=1000, others_busy=None))] == ["preempted"]


def test_a_changed_speed_is_told_with_both_times() -> None:
    (finding,) = found_in(with_(calibration_ns=((500_000,) * 20, (650_000,) * 20)))
    assert (finding.value, finding.bound) == (pytest.approx(1.3), noise.CALIBRATION)
    assert finding.told == (
        "student, process 3: a fixed computation took 0.650 ms, 0.500 ms is usual: the core changed speed"
    )


def test_a_process_alone_is_compared_with_itself() -> None:
    alone = with_(calibration_ns=((500_000,) * 20, (600_000,) * 20))
    assert [finding.kind for finding in reading_findings("student", [alone])] == ["calibration"]


def test_a_few_interrupted_runs_of_the_kernel_are_no_change_of_speed() -> None:
    assert found_in(with_(calibration_ns=((500_000,) * 14 + (4_000_000,) * 6, (500_000,) * 20))) == ()


def test_one_tick_in_a_short_block_is_no_finding() -> None:
    short = with_(seconds=0.05, span_seconds=0.05, steal_ms=10, others_busy=0.2, preempted=3)
    assert found_in(short) == ()


def test_what_is_not_counted_is_no_finding() -> None:
    assert found_in(with_(steal_ms=None, throttled_periods=None, others_busy=None)) == ()


def in_phases(*, slow: float, spread: float) -> list[int]:
    """Stretches of 25 samples, every other one slow."""
    rng = np.random.default_rng(0)
    speeds = np.repeat([1, slow, 1, slow], 25)
    return [int(each) for each in 2e6 * speeds * rng.normal(1, spread, 100)]


@pytest.mark.parametrize(
    ("slow", "spread", "is_found"),
    [(1.15, 0.03, True), (1.06, 0.002, False), (1.15, 0.15, False)],
    ids=["phases", "too alike to matter", "drowned in the spread"],
)
def test_phases_of_different_speed_are_found(slow: float, spread: float, is_found: bool) -> None:
    found = sample_findings("student", [steady(), in_phases(slow=slow, spread=spread)])
    assert [(finding.kind, finding.process) for finding in found] == [("autocorrelation", 1)] * is_found


def test_phases_are_told_with_how_much_they_differ() -> None:
    (finding,) = sample_findings("student", [in_phases(slow=1.15, spread=0.03)])
    assert finding.told == (
        "student, process 1: slow samples follow slow ones (correlation 0.85): one phase takes 1.14 times another's"
    )


def test_fewer_samples_must_be_correlated_more_closely() -> None:
    (finding,) = sample_findings("student", [in_phases(slow=1.15, spread=0.03)[:64]])
    assert finding.bound == pytest.approx(5 / 8)


def at_two_speeds(*, slow: float, share: float = 0.3, spread: float = 0.01) -> list[int]:
    """Samples of two speeds in no order."""
    rng = np.random.default_rng(0)
    speeds = rng.permutation(np.where(np.arange(100) < 100 * share, slow, 1.0))
    return [int(each) for each in 2e6 * speeds * rng.normal(1, spread, 100)]


@pytest.mark.parametrize(
    ("changes", "is_found"),
    [
        ({"slow": 1.2}, True),
        ({"slow": 1.08}, False),
        ({"slow": 1.2, "share": 0.2}, False),
        ({"slow": 1.2, "spread": 0.05}, False),
    ],
    ids=["two speeds", "hardly different", "too few slow ones", "one broad speed"],
)
def test_two_speeds_are_found(changes: dict[str, float], is_found: bool) -> None:
    found = sample_findings("student", [steady(), at_two_speeds(**changes)])
    assert [(finding.kind, finding.process) for finding in found] == [("bimodality", 1)] * is_found


def test_two_speeds_are_told_in_milliseconds() -> None:
    (finding,) = sample_findings("student", [at_two_speeds(slow=1.2, spread=0.0)])
    assert finding.told == "student, process 1: its samples gather at two speeds, 2.000 and 2.400 ms"


@pytest.mark.parametrize("shape", ["normal", "uniform", "exponential", "lognormal"])
def test_one_speed_of_any_usual_shape_is_no_finding(shape: str) -> None:
    rng = np.random.default_rng(0)
    drawn = {
        "normal": rng.normal(20, 1, (300, 100)),
        "uniform": rng.uniform(20, 30, (300, 100)),
        "exponential": 20 + rng.exponential(4, (300, 100)),
        "lognormal": rng.lognormal(3, 0.3, (300, 100)),
    }[shape]
    assert sample_findings("student", (drawn * 1e5).astype(int).tolist()) == ()


def test_too_few_samples_have_no_shape() -> None:
    assert sample_findings("student", [[1, 2] * 24]) == ()
    assert [finding.kind for finding in sample_findings("student", [[1, 2] * 25])] == ["bimodality"]


def test_readings_without_their_samples_are_a_mistake() -> None:
    with pytest.raises(AssertionError, match=r"^one series of samples a process$"):
        findings("student", [QUIET], [])


def test_a_machine_that_shows_everything_hides_nothing() -> None:
    assert unknown(SHOWN, [QUIET, QUIET]) == ()


def test_each_thing_that_the_machine_hides_is_told_once() -> None:
    hidden = with_(steal_ms=None, throttled_periods=None, others_busy=None)
    assert unknown(MACHINE, [QUIET, hidden, hidden]) == (
        "the governor of the CPU's frequency is not shown: it may have changed the clock",
        "whether turbo is on is not shown: the clock may depend on heat and on other cores",
        "steal is not counted here: time that other machines of the same host took stays hidden",
        "throttling is not counted here: no cgroup says how often a CPU quota stopped the process",
        "what else ran on the pinned cores is not counted here: a busy neighbour shows in preemptions only",
    )


def test_readings_and_findings_survive_json(tmp_path: Path) -> None:
    found = findings("student", [with_(throttled_periods=1)], [[1] * 60 + [2] * 40])
    assert len(found) == 3
    assert msgspec.json.decode(msgspec.json.encode(found), type=tuple[Finding, ...]) == found
    assert msgspec.json.decode(msgspec.json.encode(QUIET), type=Readings) == QUIET
