"""What this process may use of the machine: cores by affinity and cgroup quota, and the CPU's features."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

ROOT = Path("/")
BEHIND: Final = 10  # by as much are those who compute nicer than who talks to clients
NICEST: Final = 19
TURN_S: Final = 0.2


def usable_threads(root: Path = ROOT) -> int:
    """min(cores this process may run on, whole cores its cgroup pays for); at least 1."""
    quota = cgroup_quota_cores(root)
    allowed = affinity_cores()
    return max(1, allowed if quota is None else min(allowed, int(quota)))


def affinity_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def stand_back() -> None:
    """Have the calling thread give way to the others of this process that want its core: one that only takes a request
    in or hands an answer out would else wait until a computation has had its turn, up to 3 ms of the kernel's.

    Linux counts niceness by thread, and shares are by cgroup: beside other containers it costs nothing, beside others
    of the same cgroup a part of the core. Elsewhere, and where it is forbidden, all stays as it is."""
    if sys.platform != "linux":
        return
    with suppress(OSError):
        of_process = os.getpriority(os.PRIO_PROCESS, os.getpid())
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(of_process + BEHIND, NICEST))


def standing_back(call: Callable[[], T]) -> T:
    """What `call` gives or raises, in a thread that stands back. The threads that it starts do as well: those of a
    session compute for the executors, and would else go before who talks to clients."""
    told: Future[T] = Future()

    def run() -> None:
        stand_back()
        try:
            told.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            told.set_exception(error)

    threading.Thread(target=run, name="standing back", daemon=True).start()
    while not told.done():  # in turns: a signal that comes just before a wait does not end it
        wait((told,), timeout=TURN_S)
    return told.result()


def cgroup_quota_cores(root: Path = ROOT) -> float | None:
    """The tightest CPU quota from this process's cgroup up to the root, in cores; None where there is none."""
    quotas = [cores for folder in cgroup_folders(root, "cpu") if (cores := _quota_cores(folder)) is not None]
    return min(quotas, default=None)


def cpu_features(root: Path = ROOT) -> frozenset[str]:
    """The flags of /proc/cpuinfo (x86 "flags", Arm "Features"); empty where the system has no such file."""
    lines = read_text(root / "proc/cpuinfo").splitlines()
    found = (line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(found, ()))


def cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """The mount, then each folder from the process's own cgroup up to it, for version 2 and for version 1's
    `controller`: a parent's limit binds its children.

    A container may see its host's path in /proc/self/cgroup but only its own part mounted: absent folders hold no file.
    """
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        folder = mount / path.strip("/")
        yield from (mount, *(each for each in (folder, *folder.parents) if mount in each.parents))


def read_text(path: Path) -> str:
    """Without its last newline; empty where it is absent or not ours to read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _quota_cores(folder: Path) -> float | None:
    if (folder / "cpu.max").is_file():
        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        return None if quota == "max" else int(quota) / int(period)
    if (folder / "cpu.cfs_quota_us").is_file():
        quota_us = int((folder / "cpu.cfs_quota_us").read_text(encoding="utf-8"))
        period_us = int((folder / "cpu.cfs_period_us").read_text(encoding="utf-8"))
        return quota_us / period_us if quota_us > 0 else None
    return None
