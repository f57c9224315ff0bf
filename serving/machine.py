"""Which machine this is, and how much of its memory is left: what a tuning is matched by and limited to.

Everything is read from files under `root` (the machine's own `/` by default), so a test injects a machine by writing
files.
"""

import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from serving.cpu import ROOT, cgroup_folders, cgroup_quota_cores, cpu_features, read_text

# What decides the speed of a transformer on a CPU: vector width, int8 dot products, bf16 (x86 names, then ARM's).
_RELEVANT = re.compile(r"avx2|avx512\w*|avx_vnni\w*|amx_\w+|bf16|i8mm|asimddp|sve2?")
_MODEL = re.compile(r"^(?:model name|Hardware|CPU part)\s*:\s*(.*)$", re.MULTILINE)
_CORE = re.compile(r"^processor\s*:", re.MULTILINE)
_AVAILABLE = re.compile(r"^MemAvailable:\s+(\d+) kB$", re.MULTILINE)
# What the kernel gives back when it is asked for memory: files it has read, of a cgroup and those below it.
_CACHED = (
    re.compile(r"^total_(?:in)?active_file (\d+)$", re.MULTILINE),  # version 1, which has its own alone beside it
    re.compile(r"^(?:in)?active_file (\d+)$", re.MULTILINE),
)
_NO_LIMIT = 2**60  # version 1 writes "no limit" as a number near 2**63


def machine_identity(root: Path = ROOT) -> str:
    """CPU model; the features that matter; cores; the cgroup's quota. Equal on machines that compute alike."""
    quota = cgroup_quota_cores(root)
    limit = "no quota" if quota is None else f"quota of {quota:g} cores"
    return f"{cpu_model(root)}; {' '.join(features(root))}; {core_count(root)} cores; {limit}"


def cpu_model(root: Path = ROOT) -> str:
    """As the system names it; "unknown" where it does not."""
    named = _MODEL.search(read_text(root / "proc/cpuinfo"))
    return (named[1].strip() if named else "") or platform.processor() or "unknown"


def features(root: Path = ROOT) -> tuple[str, ...]:
    """Those of the CPU that decide its speed here, sorted."""
    return tuple(sorted(flag for flag in cpu_features(root) if _RELEVANT.fullmatch(flag)))


def core_count(root: Path = ROOT) -> int:
    """All of the machine's, whether or not this process may run on them."""
    return len(_CORE.findall(read_text(root / "proc/cpuinfo"))) or os.cpu_count() or 1


def available_bytes(root: Path = ROOT) -> int | None:
    """Memory this process may still take: of the machine, and of the tightest cgroup; None where neither is told."""
    found = _AVAILABLE.search(read_text(root / "proc/meminfo"))
    machine = [int(found[1]) * 1024] if found else []
    return min((*machine, *_left_by_cgroups(root)), default=None)


def _left_by_cgroups(root: Path) -> Iterator[int]:
    for folder, limit in memory_limits(root):
        used = read_text(folder / "memory.current") or read_text(folder / "memory.usage_in_bytes")
        if used.isdigit():
            yield max(0, limit - max(0, int(used) - _cached_bytes(folder)))


def _cached_bytes(folder: Path) -> int:
    """Of what a cgroup uses, the files that were read or written: a version just fetched counts for nothing."""
    stat = read_text(folder / "memory.stat")
    return next((sum(map(int, found)) for words in _CACHED if (found := words.findall(stat))), 0)


def memory_limits(root: Path = ROOT) -> Iterator[tuple[Path, int]]:
    """Each cgroup of this process that limits memory, from the mount down, and its limit in bytes."""
    for folder in cgroup_folders(root, "memory"):
        limit = read_text(folder / "memory.max") or read_text(folder / "memory.limit_in_bytes")
        if limit.isdigit() and int(limit) < _NO_LIMIT:
            yield folder, int(limit)
