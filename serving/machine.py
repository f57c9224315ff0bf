"""Which machine this is, and how much of its memory is left: what a tuning is matched by and limited to.

Everything is read from files under `root` (the machine's own `/` by default), so a test injects a machine by writing
files. `machine_identity` is `benchmarks.machine.identity` again, which this half may not import; a test holds them
together.
"""

import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from serving.cpu import ROOT, cgroup_quota_cores, cpu_features

# What decides the speed of a transformer on a CPU: vector width, int8 dot products, bf16 (x86 names, then ARM's).
_RELEVANT = re.compile(r"avx2|avx512\w*|avx_vnni\w*|amx_\w+|bf16|i8mm|asimddp|sve2?")
_MODEL = re.compile(r"^(?:model name|Hardware|CPU part)\s*:\s*(.*)$", re.MULTILINE)
_CORE = re.compile(r"^processor\s*:", re.MULTILINE)
_AVAILABLE = re.compile(r"^MemAvailable:\s+(\d+) kB$", re.MULTILINE)
_NO_LIMIT = 2**60  # version 1 writes "no limit" as a number near 2**63


def machine_identity(root: Path = ROOT) -> str:
    """CPU model; the features that matter; cores; the cgroup's quota. Equal on machines that compute alike."""
    cpuinfo = _text(root / "proc/cpuinfo")
    model = _MODEL.search(cpuinfo)
    named = (model[1].strip() if model else "") or platform.processor() or "unknown"
    features = " ".join(sorted(flag for flag in cpu_features(root) if _RELEVANT.fullmatch(flag)))
    cores = len(_CORE.findall(cpuinfo)) or os.cpu_count() or 1
    quota = cgroup_quota_cores(root)
    limit = "no quota" if quota is None else f"quota of {quota:g} cores"
    return f"{named}; {features}; {cores} cores; {limit}"


def available_bytes(root: Path = ROOT) -> int | None:
    """Memory this process may still take: of the machine, and of the tightest cgroup; None where neither is told."""
    found = _AVAILABLE.search(_text(root / "proc/meminfo"))
    machine = [int(found[1]) * 1024] if found else []
    return min((*machine, *_left_by_cgroups(root)), default=None)


def _left_by_cgroups(root: Path) -> Iterator[int]:
    for folder in _memory_cgroups(root):
        limit = _text(folder / "memory.max") or _text(folder / "memory.limit_in_bytes")
        used = _text(folder / "memory.current") or _text(folder / "memory.usage_in_bytes")
        if limit.isdigit() and used.isdigit() and int(limit) < _NO_LIMIT:
            yield max(0, int(limit) - int(used))


def _memory_cgroups(root: Path) -> Iterator[Path]:
    """From the mount down to this process's own; in a container the path may be the host's, then the mount is it."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, inside = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        own = mount / inside.strip("/")
        yield from {mount, *(folder for folder in (own, *own.parents) if folder.is_relative_to(mount))}


def _text(path: Path) -> str:
    """Without its last newline; empty where it is absent or not ours to read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
