"""What this process may use of the machine: cores by affinity and cgroup quota, and the CPU's features."""

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def usable_threads(root: Path = ROOT) -> int:
    """min(cores this process may run on, whole cores its cgroup pays for); at least 1."""
    quota = cgroup_quota_cores(root)
    allowed = affinity_cores()
    return max(1, allowed if quota is None else min(allowed, int(quota)))


def affinity_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_quota_cores(root: Path = ROOT) -> float | None:
    """The tightest CPU quota from this process's cgroup up to the root, in cores; None where there is none."""
    quotas = [cores for folder in _cgroup_folders(root) if (cores := _quota_cores(folder)) is not None]
    return min(quotas, default=None)


def cpu_features(root: Path = ROOT) -> frozenset[str]:
    """The flags of /proc/cpuinfo (x86 "flags", Arm "Features"); empty where the system has no such file."""
    cpuinfo = root / "proc/cpuinfo"
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    found = (line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(found, ()))


def _cgroup_folders(root: Path) -> Iterator[Path]:
    """Each folder from the process's own cgroup to the root, for version 2 and for version 1's cpu controller.

    A container may see its host's path in /proc/self/cgroup but only its own part mounted: absent folders hold no file.
    """
    membership = root / "proc/self/cgroup"
    for line in membership.read_text(encoding="utf-8").splitlines() if membership.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        folder = mount / path.lstrip("/")
        yield from (mount, *(parent for parent in (folder, *folder.parents) if mount in parent.parents))


def _quota_cores(folder: Path) -> float | None:
    if (folder / "cpu.max").is_file():
        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        return None if quota == "max" else int(quota) / int(period)
    if (folder / "cpu.cfs_quota_us").is_file():
        quota_us = int((folder / "cpu.cfs_quota_us").read_text(encoding="utf-8"))
        period_us = int((folder / "cpu.cfs_period_us").read_text(encoding="utf-8"))
        return quota_us / period_us if quota_us > 0 else None
    return None
