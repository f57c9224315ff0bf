"""Which machine this is, read from files that stand for one."""

from pathlib import Path

import pytest

from benchmarks.machine import identity
from serving.machine import available_bytes, machine_identity

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
    "files",
    [
        {"proc/cpuinfo": X86},
        {"proc/cpuinfo": ARM},
        {},
        {"proc/cpuinfo": X86, **V2, "sys/fs/cgroup/pod/cpu.max": "150000 100000\n"},
    ],
)
def test_both_halves_call_a_machine_the_same(tmp_path: Path, files: dict[str, str]) -> None:
    """The serving half may not import the other one's; this holds the copies together."""
    assert machine_identity(machine(tmp_path, files)) == identity(tmp_path)


def test_both_halves_call_this_machine_the_same() -> None:
    assert machine_identity() == identity()


def test_the_identity_names_what_decides_the_speed(tmp_path: Path) -> None:
    machine(tmp_path, {"proc/cpuinfo": X86, **V2, "sys/fs/cgroup/pod/cpu.max": "150000 100000\n"})
    assert machine_identity(tmp_path) == "Example CPU 9000; amx_int8 avx2 avx512f; 2 cores; quota of 1.5 cores"


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
        ({"proc/self/cgroup": "3:cpu:/pod\n", "sys/fs/cgroup/cpu/pod/memory.limit_in_bytes": "1"}, None),
    ],
    ids=["nothing told", "machine", "no limit", "cgroup 2", "its parent", "cgroup 1, over it", "no limit 1", "others"],
)
def test_the_memory_left_is_the_least_that_anything_allows(
    tmp_path: Path, files: dict[str, str], wanted: int | None
) -> None:
    assert available_bytes(machine(tmp_path, files)) == wanted
