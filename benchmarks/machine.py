"""Where a number was earned: the fingerprint that stands beside every figure.

Everything is read from files under `root` (the machine's own `/` by default), so a test injects a machine by writing
files. What the machine does not show is "unknown" (text) or None (no limit): a guess would be worse.
"""

import os
import platform
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

import msgspec

from serving.cpu import ROOT, cgroup_folders, cgroup_quota_cores, read_text
from serving.machine import core_count, cpu_model, features, memory_limits

UNKNOWN: Final = "unknown"
LIBRARIES: Final = ("onnxruntime", "openvino", "tokenizers", "numpy", "torch", "transformers")


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One machine as a process sees it; `quota_cores` and `memory_limit_mb` are cgroup limits, None without one."""

    cpu_model: str
    features: tuple[str, ...]
    cores: int
    affinity: tuple[int, ...]
    quota_cores: float | None
    governor: str
    turbo: str
    smt: str
    memory_mb: int
    memory_limit_mb: int | None
    kernel: str
    python: str
    libraries: dict[str, str]


class Disturbance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What others took from a measurement: counters of the whole machine (steal) and of our cgroup (throttling).

    `steal_ms` is None where the kernel counts none, `throttled_periods` where no cgroup counts any.
    """

    steal_ms: int | None
    throttled_periods: int | None

    def since(self, earlier: "Disturbance") -> "Disturbance":
        """What was added between two readings."""
        return Disturbance(
            _difference(self.steal_ms, earlier.steal_ms),
            _difference(self.throttled_periods, earlier.throttled_periods),
        )


def read(root: Path = ROOT) -> Machine:
    """The fingerprint of this machine."""
    return Machine(
        cpu_model=cpu_model(root),
        features=features(root),
        cores=core_count(root),
        affinity=affinity(),
        quota_cores=cgroup_quota_cores(root),
        governor=read_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or UNKNOWN,
        turbo=_turbo(root),
        smt=read_text(root / "sys/devices/system/cpu/smt/control") or UNKNOWN,
        memory_mb=_memory_mb(root),
        memory_limit_mb=_memory_limit_mb(root),
        kernel=read_text(root / "proc/sys/kernel/osrelease") or platform.release(),
        python=platform.python_version(),
        libraries=_libraries(),
    )


def affinity() -> tuple[int, ...]:
    """The cores this process may run on (all of them where the system knows no affinity)."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def disturbance(root: Path = ROOT) -> Disturbance:
    """The counters now; take one before and one after, and `since` says what a measurement suffered."""
    throttled = [int(text) for text in _throttled(root)]
    return Disturbance(_steal_ms(read_text(root / "proc/stat")), max(throttled, default=None))


def _turbo(root: Path) -> str:
    """Intel's driver says `no_turbo`, the generic one `boost`: "on", "off" or "unknown"."""
    no_turbo = read_text(root / "sys/devices/system/cpu/intel_pstate/no_turbo")
    boost = read_text(root / "sys/devices/system/cpu/cpufreq/boost")
    return {("0", ""): "on", ("1", ""): "off", ("", "1"): "on", ("", "0"): "off"}.get((no_turbo, boost), UNKNOWN)


def _memory_mb(root: Path) -> int:
    found = re.search(r"^MemTotal:\s+(\d+) kB$", read_text(root / "proc/meminfo"), re.MULTILINE)
    return int(found[1]) // 1024 if found else 0


def _memory_limit_mb(root: Path) -> int | None:
    return min((limit // 2**20 for _, limit in memory_limits(root)), default=None)


def _throttled(root: Path) -> Iterator[str]:
    for folder in cgroup_folders(root, "cpu"):
        match = re.search(r"^nr_throttled (\d+)$", read_text(folder / "cpu.stat"), re.MULTILINE)
        if match:
            yield match.group(1)


def _steal_ms(stat: str) -> int | None:
    """The eighth number of the `cpu` line, in ticks of 10 ms."""
    fields = stat.partition("\n")[0].split()
    return int(fields[8]) * 10 if len(fields) > 8 and fields[0] == "cpu" else None


def _difference(now: int | None, before: int | None) -> int | None:
    return None if now is None or before is None else now - before


def _libraries() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
