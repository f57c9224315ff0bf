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

from serving.cpu import cgroup_quota_cores, cpu_features

HERE: Final = Path("/")
UNKNOWN: Final = "unknown"
LIBRARIES: Final = ("onnxruntime", "openvino", "tokenizers", "numpy", "torch", "transformers")

# What decides the speed of a transformer on a CPU: vector width, int8 dot products, bf16 (x86 names, then ARM's).
_RELEVANT = re.compile(r"avx2|avx512\w*|avx_vnni\w*|amx_\w+|bf16|i8mm|asimddp|sve2?")


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


def read(root: Path = HERE) -> Machine:
    """The fingerprint of this machine."""
    cpuinfo = _text(root / "proc/cpuinfo")
    return Machine(
        cpu_model=_cpu_model(cpuinfo),
        features=_features(root),
        cores=_cores(cpuinfo),
        affinity=affinity(),
        quota_cores=cgroup_quota_cores(root),
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or UNKNOWN,
        turbo=_turbo(root),
        smt=_text(root / "sys/devices/system/cpu/smt/control") or UNKNOWN,
        memory_mb=_memory_mb(root),
        memory_limit_mb=_memory_limit_mb(root),
        kernel=_text(root / "proc/sys/kernel/osrelease") or platform.release(),
        python=platform.python_version(),
        libraries=_libraries(),
    )


def identity(root: Path = HERE) -> str:
    """The declared identity of the target 'here': what a benchmark step's key holds of the machine."""
    cpuinfo = _text(root / "proc/cpuinfo")
    quota = cgroup_quota_cores(root)
    limit = "no quota" if quota is None else f"quota of {quota:g} cores"
    return f"{_cpu_model(cpuinfo)}; {' '.join(_features(root))}; {_cores(cpuinfo)} cores; {limit}"


def affinity() -> tuple[int, ...]:
    """The cores this process may run on (all of them where the system knows no affinity)."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def disturbance(root: Path = HERE) -> Disturbance:
    """The counters now; take one before and one after, and `since` says what a measurement suffered."""
    throttled = [int(text) for text in _throttled(root)]
    return Disturbance(_steal_ms(_text(root / "proc/stat")), max(throttled, default=None))


def _text(path: Path) -> str:
    """The file's text without its last newline; empty where it is absent or not ours to read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _field(text: str, *names: str) -> str:
    """The value of the first `name : value` line."""
    match = re.search(rf"^(?:{'|'.join(names)})\s*:\s*(.*)$", text, re.MULTILINE)
    return match.group(1).strip() if match else ""


def _cpu_model(cpuinfo: str) -> str:
    return _field(cpuinfo, "model name", "Hardware", "CPU part") or platform.processor() or UNKNOWN


def _features(root: Path) -> tuple[str, ...]:
    return tuple(sorted(flag for flag in cpu_features(root) if _RELEVANT.fullmatch(flag)))


def _cores(cpuinfo: str) -> int:
    return len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE)) or os.cpu_count() or 1


def _turbo(root: Path) -> str:
    """Intel's driver says `no_turbo`, the generic one `boost`: "on", "off" or "unknown"."""
    no_turbo = _text(root / "sys/devices/system/cpu/intel_pstate/no_turbo")
    boost = _text(root / "sys/devices/system/cpu/cpufreq/boost")
    return {("0", ""): "on", ("1", ""): "off", ("", "1"): "on", ("", "0"): "off"}.get((no_turbo, boost), UNKNOWN)


def _memory_mb(root: Path) -> int:
    kilobytes = _field(_text(root / "proc/meminfo"), "MemTotal").removesuffix(" kB")
    return int(kilobytes) // 1024 if kilobytes.isdigit() else 0


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Every cgroup folder that binds this process, its own first: a parent's limit binds its children (v2, then v1)."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, inside = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            base = root / "sys/fs/cgroup" / controllers
            # In a container the path may be the host's: its own root is mounted at `base` then.
            own = base / inside.strip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(base))


def _memory_limit_mb(root: Path) -> int | None:
    limits = []
    for folder in _cgroups(root, "memory"):
        limit = _text(folder / "memory.max") or _text(folder / "memory.limit_in_bytes")
        # Version 1 writes "no limit" as a number near 2**63.
        if limit.isdigit() and int(limit) < 2**60:
            limits.append(int(limit) // 2**20)
    return min(limits, default=None)


def _throttled(root: Path) -> Iterator[str]:
    for folder in _cgroups(root, "cpu"):
        match = re.search(r"^nr_throttled (\d+)$", _text(folder / "cpu.stat"), re.MULTILINE)
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
