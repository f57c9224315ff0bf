"""The watch around a block: on files that stand for a machine; live beside a real neighbour, and under a real quota."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from receipts import READINGS

from benchmarks.noise import reading_findings
from benchmarks.readings import Readings, Watch, without_each_other

ROOT = Path(__file__).resolve().parents[2]
BLOCK = """
import os, sys, time
import msgspec
from benchmarks.readings import Watch

os.sched_setaffinity(0, {int(sys.argv[1])})
sys.stdin.readline()
watch = Watch()
watch.calibrate()
watch.begin()
with watch.active():
    end = time.perf_counter() + 1.0
    while time.perf_counter() < end:
        pass
watch.end()
watch.calibrate()
sys.stdout.write(msgspec.json.encode(watch.readings()).decode())
"""
NEIGHBOUR = """
import os, sys

os.sched_setaffinity(0, {int(sys.argv[1])})
sys.stdout.write("busy\\n")
sys.stdout.flush()
while True:
    pass
"""


class Clock:
    """Nanoseconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def put(
    root: Path, *, cpu0: str = "0 0 0 0 0 0 0 0 0 0", cpu1: str = "0 0 0 0 0 0 0 0 0 0", throttled: int = 0
) -> None:
    """A machine of two cores; the numbers are ticks of 10 ms: user nice system idle waiting irq softirq steal ..."""
    files = {
        "proc/stat": f"cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 {cpu0}\ncpu1 {cpu1}\nintr 5 0 0\nctxt 7\n",
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/cpu.stat": f"nr_periods 10\nnr_throttled {throttled}\n",
    }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def watched(root: Path, cores: tuple[int, ...], *, wall_s: float, cpu_s: float, **after: object) -> Readings:
    """The readings of a block that takes so long and after which the machine's files say `after`."""
    wall, cpu = Clock(), Clock()
    watch = Watch(clock=wall, cpu_clock=cpu, root=root, cores=cores)
    watch.calibrate()
    watch.begin()
    with watch.active():
        wall.now_ns += round(wall_s * 1e9 / 4)
    wall.now_ns, cpu.now_ns = round(wall_s * 1e9), round(cpu_s * 1e9)
    if after:
        put(root, **after)  # type: ignore[arg-type]
    watch.end()
    watch.calibrate()
    return watch.readings()


def test_others_are_what_the_pinned_cores_computed_less_what_the_process_did(tmp_path: Path) -> None:
    put(tmp_path)
    # Core 0: 0.8 s of user, 0.1 s each of nice, system, interrupts and soft ones, 0.7 s idle or waiting for a disk.
    after = {"cpu0": "80 10 10 60 10 10 10 0 0 0", "cpu1": "50 0 0 150 0 0 0 0 0 0"}
    one = watched(tmp_path, (0,), wall_s=2.0, cpu_s=0.9, **after)
    assert (one.seconds, one.span_seconds, one.cpu_seconds) == (0.5, 2.0, 0.9)
    assert one.others_busy == pytest.approx((1.2 - 0.9) / 2.0)
    put(tmp_path)
    both = watched(tmp_path, (0, 1), wall_s=2.0, cpu_s=0.9, **after)
    assert both.others_busy == pytest.approx((1.7 - 0.9) / 4.0)


def test_a_process_that_computed_more_than_the_ticks_saw_leaves_nothing_to_others(tmp_path: Path) -> None:
    put(tmp_path)
    assert watched(tmp_path, (0,), wall_s=1.0, cpu_s=1.0, cpu0="99 0 0 1 0 0 0 0 0 0").others_busy == 0.0


def test_steal_is_that_of_the_pinned_cores_between_start_and_stop(tmp_path: Path) -> None:
    before = {"cpu0": "0 0 0 0 0 0 0 100 0 0", "cpu1": "0 0 0 0 0 0 0 50 0 0"}
    after = {"cpu0": "0 0 0 0 0 0 0 107 0 0", "cpu1": "0 0 0 0 0 0 0 80 0 0"}
    put(tmp_path, **before)  # type: ignore[arg-type]
    assert watched(tmp_path, (0,), wall_s=1.0, cpu_s=1.0, **after).steal_ms == 70


def test_a_steal_counter_that_never_moved_since_boot_is_no_reading(tmp_path: Path) -> None:
    put(tmp_path)
    assert watched(tmp_path, (0,), wall_s=1.0, cpu_s=1.0).steal_ms is None
    assert watched(tmp_path, (0,), wall_s=1.0, cpu_s=1.0, cpu0="0 0 0 0 0 0 0 3 0 0").steal_ms == 30


def test_throttled_periods_are_counted_between_start_and_stop(tmp_path: Path) -> None:
    put(tmp_path, throttled=7)
    assert watched(tmp_path, (0,), wall_s=1.0, cpu_s=1.0, throttled=9).throttled_periods == 2


@pytest.mark.parametrize("cores", [(0, 5), (5,)])
def test_a_core_that_the_machine_does_not_count_leaves_shares_unknown(tmp_path: Path, cores: tuple[int, ...]) -> None:
    put(tmp_path)
    readings = watched(tmp_path, cores, wall_s=1.0, cpu_s=1.0)
    assert (readings.others_busy, readings.steal_ms) == (None, None)


def test_a_machine_without_such_files_gives_no_reading_and_no_error(tmp_path: Path) -> None:
    readings = watched(tmp_path, (0,), wall_s=1.0, cpu_s=1.0)
    assert (readings.others_busy, readings.steal_ms, readings.throttled_periods) == (None, None, None)


def test_a_block_without_time_has_no_shares(tmp_path: Path) -> None:
    put(tmp_path)
    assert watched(tmp_path, (0,), wall_s=0.0, cpu_s=0.0).others_busy is None


def test_the_kernel_runs_before_and_after_and_outside_of_the_block(tmp_path: Path) -> None:
    calls = iter(range(10**6))
    watch = Watch(clock=lambda: next(calls) * 1000, root=tmp_path, cores=(0,))
    watch.calibrate()
    watch.begin()
    watch.end()
    watch.calibrate()
    readings = watch.readings()
    assert readings.calibration_ns == ((1000,) * 40, (1000,) * 40)
    assert readings.span_seconds == 1e-6  # the two looks at the clock follow each other


def test_readings_before_the_end_are_a_mistake() -> None:
    watch = Watch()
    watch.calibrate()
    watch.begin()
    with pytest.raises(ValueError, match="not enough values to unpack"):
        watch.readings()


def test_this_machine_s_cores_are_those_allowed_at_the_start() -> None:
    watch = Watch()
    for step in (watch.calibrate, watch.begin, watch.end, watch.calibrate):
        step()
    readings = watch.readings()
    assert all(ns > 0 for block in readings.calibration_ns for ns in block)
    assert readings.preempted >= 0
    assert readings.span_seconds > 0


@contextmanager
def python(script: str, core: int) -> Iterator[subprocess.Popen[str]]:
    """A script in a process of its own on one core, killed at the end."""
    command = [sys.executable, "-c", script, str(core)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def measured(process: "subprocess.Popen[str]") -> Readings:
    return msgspec.json.decode(process.communicate("go\n", timeout=60)[0], type=Readings)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process to a core")
def test_a_busy_neighbour_on_the_same_core_is_found() -> None:
    core = min(os.sched_getaffinity(0))
    with python(NEIGHBOUR, core) as neighbour, python(BLOCK, core) as block:
        assert neighbour.stdout is not None
        assert neighbour.stdout.readline() == "busy\n"
        readings = measured(block)
    kinds = {finding.kind for finding in reading_findings("student", [readings])}
    assert {"others", "preempted"} <= kinds, readings


@contextmanager
def a_cgroup_with_a_fifth_of_a_core() -> Iterator[Path]:
    """A cgroup below our own whose quota is 20 of 100 ms; the test is skipped where we may not make one."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    version_1 = [(controllers, inside) for _, controllers, inside in lines if "cpu" in controllers.split(",")]
    controllers, inside = (version_1 or [("", lines[-1][2])])[0]
    folder = Path("/sys/fs/cgroup", controllers, inside.strip("/"), f"retort-test-{os.getpid()}")
    limits = {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "20000"} if version_1 else {"cpu.max": "20000 100000"}
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        _limit(folder, limits)
        yield folder
    finally:
        _remove(folder)


def _limit(folder: Path, limits: dict[str, str]) -> None:
    try:
        for name, value in limits.items():
            (folder / name).write_text(value)
    except OSError as error:
        pytest.skip(f"no CPU quota can be set here: {error}")


def _remove(folder: Path) -> None:
    """A cgroup may be removed as soon as the kernel has forgotten its last process."""
    for _ in range(100):
        try:
            return folder.rmdir()
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"{folder} still holds processes")


@pytest.mark.skipif(not Path("/proc/self/cgroup").is_file(), reason="this system has no cgroups")
def test_a_process_that_its_quota_stops_is_found() -> None:
    core = min(os.sched_getaffinity(0))
    with a_cgroup_with_a_fifth_of_a_core() as folder, python(BLOCK, core) as block:
        (folder / "cgroup.procs").write_text(str(block.pid))
        readings = measured(block)
    kinds = {finding.kind for finding in reading_findings("student", [readings])}
    assert "throttling" in kinds, readings


def of(name_cpu_s: dict[str, float], *, others_busy: float | None) -> dict[str, Readings]:
    return {
        name: msgspec.structs.replace(READINGS, span_seconds=4.0, cpu_seconds=cpu_s, others_busy=others_busy)
        for name, cpu_s in name_cpu_s.items()
    }


def test_processes_that_take_turns_are_not_each_other_s_disturbance() -> None:
    found = without_each_other(of({"a": 1.0, "b": 2.0, "c": 1.0}, others_busy=0.4), cores=2)
    assert {name: each.others_busy for name, each in found.items()} == {
        "a": pytest.approx(0.4 - 3 / 8),
        "b": pytest.approx(0.4 - 2 / 8),
        "c": pytest.approx(0.4 - 3 / 8),
    }
    assert without_each_other(of({"a": 1.0, "b": 2.0}, others_busy=0.1), cores=2)["a"].others_busy == 0.0
    assert without_each_other(of({"a": 1.0, "b": 2.0}, others_busy=None), cores=2)["a"].others_busy is None
