"""The fingerprint, read from files that stand for a machine."""

from pathlib import Path

import pytest

from benchmarks.machine import Disturbance, affinity, disturbance, read

CPUINFO = """processor\t: 0
model name\t: Example CPU 9000
flags\t\t: fpu avx avx2 avx512f avx512_vnni avx_vnni amx_int8 amx_bf16 sse2

processor\t: 1
model name\t: Example CPU 9000
flags\t\t: fpu avx avx2
"""


def machine_of(root: Path, **files: str) -> Path:
    for path, text in {"proc/cpuinfo": CPUINFO, **{k.replace("__", "/"): v for k, v in files.items()}}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_model_cores_and_only_the_features_that_matter_are_read(tmp_path: Path) -> None:
    machine = read(machine_of(tmp_path))
    assert (machine.cpu_model, machine.cores) == ("Example CPU 9000", 2)
    assert machine.features == ("amx_bf16", "amx_int8", "avx2", "avx512_vnni", "avx512f", "avx_vnni")


def test_arm_features_are_read_from_their_own_line(tmp_path: Path) -> None:
    put(tmp_path, "proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm bf16 sve\nCPU part\t: 0xd40\n")
    machine = read(tmp_path)
    assert machine.cpu_model == "0xd40"
    assert machine.features == ("asimddp", "bf16", "i8mm", "sve")


def test_what_the_machine_does_not_show_is_unknown_and_not_guessed(tmp_path: Path) -> None:
    machine = read(machine_of(tmp_path))
    assert (machine.governor, machine.turbo, machine.smt) == ("unknown", "unknown", "unknown")
    assert (machine.quota_cores, machine.memory_limit_mb) == (None, None)
    assert disturbance(tmp_path) == Disturbance(steal_ms=None, throttled_periods=None)


def test_the_tightest_quota_on_the_way_up_binds_in_version_2(tmp_path: Path) -> None:
    machine_of(tmp_path, proc__self__cgroup="0::/pod/container\n")
    put(tmp_path, "sys/fs/cgroup/pod/container/cpu.max", "max 100000\n")
    put(tmp_path, "sys/fs/cgroup/pod/cpu.max", "150000 100000\n")
    put(tmp_path, "sys/fs/cgroup/pod/container/memory.max", str(512 * 2**20))
    machine = read(tmp_path)
    assert (machine.quota_cores, machine.memory_limit_mb) == (1.5, 512)


def test_limits_of_version_1_are_read_and_its_no_limit_number_is_none(tmp_path: Path) -> None:
    machine_of(tmp_path, proc__self__cgroup="2:memory:/box\n1:cpu:/box\n")
    put(tmp_path, "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "200000")
    put(tmp_path, "sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000")
    put(tmp_path, "sys/fs/cgroup/memory/box/memory.limit_in_bytes", "9223372036854771712")
    machine = read(tmp_path)
    assert (machine.quota_cores, machine.memory_limit_mb) == (2.0, None)


@pytest.mark.parametrize(
    ("path", "text", "turbo"),
    [
        ("intel_pstate/no_turbo", "0", "on"),
        ("intel_pstate/no_turbo", "1", "off"),
        ("cpufreq/boost", "1", "on"),
        ("cpufreq/boost", "0", "off"),
    ],
)
def test_turbo_is_read_from_either_driver(tmp_path: Path, path: str, text: str, turbo: str) -> None:
    put(machine_of(tmp_path), f"sys/devices/system/cpu/{path}", text)
    assert read(tmp_path).turbo == turbo


def test_governor_memory_and_kernel_are_read(tmp_path: Path) -> None:
    machine_of(tmp_path, proc__meminfo="MemTotal:       2097152 kB\n", proc__sys__kernel__osrelease="6.1.0-test\n")
    put(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n")
    machine = read(tmp_path)
    assert (machine.governor, machine.memory_mb, machine.kernel) == ("performance", 2048, "6.1.0-test")


def test_steal_and_throttling_are_counted_between_two_readings(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/cgroup", "0::/\n")
    put(tmp_path, "proc/stat", "cpu  1 2 3 4 5 6 7 100 0 0\ncpu0 1 2 3\n")
    put(tmp_path, "sys/fs/cgroup/cpu.stat", "nr_periods 10\nnr_throttled 3\nthrottled_usec 9\n")
    before = disturbance(tmp_path)
    put(tmp_path, "proc/stat", "cpu  1 2 3 4 5 6 7 125 0 0\n")
    put(tmp_path, "sys/fs/cgroup/cpu.stat", "nr_periods 12\nnr_throttled 4\nthrottled_usec 9\n")
    assert disturbance(tmp_path).since(before) == Disturbance(steal_ms=250, throttled_periods=1)


def test_this_very_machine_has_a_fingerprint_with_library_versions() -> None:
    machine = read()
    assert machine.cores >= 1
    assert machine.affinity == affinity()
    assert {"onnxruntime", "numpy", "tokenizers"} <= set(machine.libraries)
