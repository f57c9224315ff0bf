"""Which machine this is, read from files that stand for one."""

import re
from pathlib import Path

import pytest

from benchmarks.machine import read
from serving.machine import available_bytes, machine_identity

MANY = "processor\t: 0\nmodel name\t: Example CPU 9000\nflags\t\t: "
MANY += "fpu avx avx2 avx512f avx512_vnni avx_vnni amx_int8 amx_bf16 sse2\n"
X86 = "processor\t: 0\nmodel name\t: Example CPU 9000\nflags\t\t: fpu avx avx2 avx512f amx_int8\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm bf16 sve\nCPU part\t: 0xd40\n"
V2 = {"proc/self/cgroup": "0::/pod\n"}
V1 = {"proc/self/cgroup": "4:memory:/pod\n"}
MIB = 2**20


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"proc/cpuinfo": X86}, "Example CPU 9000; amx_int8 avx2 avx512f; 2 cores; no quota"),
        ({"proc/cpuinfo": ARM}, "0xd40; asimddp bf16 i8mm sve; 1 cores; no quota"),
    ],
)
def test_a_machine_without_a_quota_says_so(tmp_path: Path, files: dict[str, str], told: str) -> None:
    assert machine_identity(machine(tmp_path, files)) == told


def test_a_machine_that_shows_nothing_still_has_an_identity(tmp_path: Path) -> None:
    assert re.fullmatch(r".+; ; \d+ cores; no quota", machine_identity(tmp_path))


def test_a_receipt_and_a_tuning_call_this_machine_the_same() -> None:
    found = read()
    assert machine_identity().startswith(f"{found.cpu_model}; {' '.join(found.features)}; {found.cores} cores; ")


def test_the_identity_names_what_decides_the_speed(tmp_path: Path) -> None:
    machine(tmp_path, {"proc/cpuinfo": X86, **V2, "sys/fs/cgroup/pod/cpu.max": "150000 100000\n"})
    assert machine_identity(tmp_path) == "Example CPU 9000; amx_int8 avx2 avx512f; 2 cores; quota of 1.5 cores"


def test_the_identity_names_model_features_cores_and_quota(tmp_path: Path) -> None:
    machine(tmp_path, {"proc/cpuinfo": MANY + "\nprocessor\t: 1\n", "proc/self/cgroup": "0::/\n"})
    assert machine_identity(tmp_path) == (
        "Example CPU 9000; amx_bf16 amx_int8 avx2 avx512_vnni avx512f avx_vnni; 2 cores; no quota"
    )


def test_another_quota_is_another_identity(tmp_path: Path) -> None:
    without = machine_identity(machine(tmp_path, {"proc/cpuinfo": MANY, "proc/self/cgroup": "0::/\n"}))
    machine(tmp_path, {"sys/fs/cgroup/cpu.max": "150000 100000"})
    assert machine_identity(tmp_path).endswith("; quota of 1.5 cores") != without.endswith("; quota of 1.5 cores")


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, None),
        ({"proc/meminfo": "MemTotal: 4096 kB\nMemAvailable:    2048 kB\n"}, 2 * MIB),
        ({**V2, "sys/fs/cgroup/pod/memory.max": "max\n", "sys/fs/cgroup/pod/memory.current": "1\n"}, None),
        (
            {
                **V2,
                "proc/meminfo": "MemAvailable: 999999 kB\n",
                "sys/fs/cgroup/pod/memory.max": str(8 * MIB),
                "sys/fs/cgroup/pod/memory.current": str(3 * MIB),
            },
            5 * MIB,
        ),
        (
            {
                **V2,
                "sys/fs/cgroup/memory.max": str(4 * MIB),
                "sys/fs/cgroup/memory.current": str(3 * MIB),
                "sys/fs/cgroup/pod/memory.max": str(8 * MIB),
                "sys/fs/cgroup/pod/memory.current": str(3 * MIB),
            },
            MIB,
        ),
        (
            {
                **V1,
                "sys/fs/cgroup/memory/pod/memory.limit_in_bytes": str(8 * MIB),
                "sys/fs/cgroup/memory/pod/memory.usage_in_bytes": str(9 * MIB),
            },
            0,
        ),
        (
            {
                **V1,
                "sys/fs/cgroup/memory/pod/memory.limit_in_bytes": str(2**63 - 4096),
                "sys/fs/cgroup/memory/pod/memory.usage_in_bytes": "1",
            },
            None,
        ),
        (
            {
                **V2,
                "sys/fs/cgroup/pod/memory.max": str(8 * MIB),
                "sys/fs/cgroup/pod/memory.current": str(6 * MIB),
                "sys/fs/cgroup/pod/memory.stat": f"anon {MIB}\ninactive_file {2 * MIB}\nactive_file {MIB}\n",
            },
            5 * MIB,
        ),
        (
            {
                **V1,
                "sys/fs/cgroup/memory/pod/memory.limit_in_bytes": str(8 * MIB),
                "sys/fs/cgroup/memory/pod/memory.usage_in_bytes": str(6 * MIB),
                "sys/fs/cgroup/memory/pod/memory.stat": (
                    f"inactive_file {MIB}\nactive_file {MIB}\ntotal_inactive_file {2 * MIB}\ntotal_active_file {MIB}\n"
                ),
            },
            5 * MIB,
        ),
        ({"proc/self/cgroup": "3:cpu:/pod\n", "sys/fs/cgroup/cpu/pod/memory.limit_in_bytes": "1"}, None),
    ],
    ids=[
        *("nothing told", "machine", "no limit", "cgroup 2", "its parent", "cgroup 1, over it", "no limit 1"),
        *("files read, cgroup 2", "files read, cgroup 1", "others"),
    ],
)
def test_the_memory_left_is_the_least_that_anything_allows(
    tmp_path: Path, files: dict[str, str], wanted: int | None
) -> None:
    assert available_bytes(machine(tmp_path, files)) == wanted
