"""Seconds measured again and again, beside what they must keep and what somebody else takes for the same."""

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import msgspec

if TYPE_CHECKING:
    from rich.table import Table


Seconds = dict[str, float]


@contextmanager
def timed(seconds: Seconds, name: str) -> Iterator[None]:
    """Add the time that the block takes under this name."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start


def timing(seconds: Seconds, name: str, owner: Any, function: str) -> Any:
    """For a `with`: while it lasts, add the time of every call of a function under this name."""
    real = getattr(owner, function)

    def call(*arguments: Any, **named: Any) -> Any:
        with timed(seconds, name):
            return real(*arguments, **named)

    return patch.object(owner, function, call)


def process_time(name: str, command: Sequence[str], *, folder: Path) -> Seconds:
    """The time of a process, with its start and its end, and as "NAME: CPU" what it computed, which a busy machine does
    not draw out; RuntimeError where it fails."""
    seconds, before = Seconds(), os.times()
    with timed(seconds, name):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds | {f"{name}: CPU": used}


class Repeats(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing's times in the order they were measured; `at_most_s` is what the median must keep, where there is such
    a bound; with a `depth` it is a part of what stands above it."""

    name: str
    seconds: tuple[float, ...]
    at_most_s: float | None = None
    depth: int = 0

    @property
    def median_s(self) -> float:
        return median(self.seconds)

    @property
    def kept(self) -> bool | None:
        """Whether the bound is kept; None where there is none."""
        return None if self.at_most_s is None else self.median_s <= self.at_most_s


def told(each: Repeats) -> dict[str, float | int | bool | None]:
    """For machines."""
    found: dict[str, float | int | bool | None] = {
        "n": len(each.seconds),
        "median_s": round(each.median_s, 4),
        "min_s": round(min(each.seconds), 4),
        "max_s": round(max(each.seconds), 4),
    }
    return found | ({} if each.at_most_s is None else {"at_most_s": each.at_most_s, "kept": each.kept})


def unkept(found: Sequence[Repeats]) -> list[str]:
    """What does not keep its bound, a sentence each."""
    return [
        f"{each.name} took {each.median_s:.3f} s, and the bound is {each.at_most_s:g} s"
        for each in found
        if each.kept is False
    ]


def build_table(found: Sequence[Repeats], *, title: str) -> "Table":
    """A row each, parts set in below what they are of."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("seconds", no_wrap=True)
    for heading in ("n", "median", "least", "most", "at most", "kept"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in found:
        bound = "" if each.at_most_s is None else f"{each.at_most_s:g}"
        kept = {None: "", True: "yes", False: "NO"}[each.kept]
        times = (f"{value:.3f}" for value in (each.median_s, min(each.seconds), max(each.seconds)))
        table.add_row(f"{'  ' * each.depth}{each.name}", str(len(each.seconds)), *times, bound, kept)
    return table
