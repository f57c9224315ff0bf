"""What a server and all its processes take: CPU time, memory and cores, read from /proc."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from serving.cpu import ROOT, read_text

TICKS: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def tree(pid: int, *, root: Path = ROOT) -> tuple[int, ...]:
    """The process and all that it started, as far as they live."""
    children: dict[int, list[int]] = {}
    for folder in (root / "proc").glob("[0-9]*"):
        if (fields := _stat(folder)) is not None:
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    return tuple(_below(pid, children))


def cpu_s(pid: int, *, root: Path = ROOT) -> float:
    """Seconds that the process and all that it started have computed."""
    found = (_stat(root / "proc" / str(each)) for each in tree(pid, root=root))
    return sum((int(fields[11]) + int(fields[12])) / TICKS for fields in found if fields)


def rss_bytes(pid: int, *, root: Path = ROOT) -> int:
    """Their resident memory together; a page that two of them share counts twice."""
    found = (_stat(root / "proc" / str(each)) for each in tree(pid, root=root))
    return sum(int(fields[21]) * PAGE_BYTES for fields in found if fields)


def strays(pid: int, cores: Collection[int], *, root: Path = ROOT) -> tuple[int, ...]:
    """Threads of theirs that may run on other cores than these."""
    tasks = [int(task.name) for each in tree(pid, root=root) for task in (root / "proc" / str(each) / "task").glob("*")]
    return tuple(task for task in tasks if not _affinity(task) <= set(cores))


def _affinity(task: int) -> set[int]:
    try:
        return os.sched_getaffinity(task)
    except ProcessLookupError:
        return set()  # it has ended


def _below(pid: int, children: dict[int, list[int]]) -> Iterator[int]:
    yield pid
    for child in children.get(pid, ()):
        yield from _below(child, children)


def _stat(folder: Path) -> list[str] | None:
    """The fields behind the name, which may hold spaces and brackets: state, parent, ...; None where it has ended."""
    _, bracket, rest = read_text(folder / "stat").rpartition(")")
    return rest.split() if bracket else None
