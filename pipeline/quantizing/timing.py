"""Milliseconds of a search's candidates at its shapes: a short look at each, and a race of those that are left.

A race is of processes, each its candidate's alone, so one that dies would end it: it is then found by another short
look and left out.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.session import Variant
from benchmarks.shapes import Raced, race
from benchmarks.targets import OrtCpu
from pipeline.errors import Failure
from pipeline.progress import Reporter, measured
from pipeline.quantizing.pareto import shape_name
from serving.bundle import Item

SHORT: Final = 10  # forwards at each shape, after a warm-up
PROPER: Final = 40
PROCESSES: Final = 3
Race = Callable[..., tuple[Raced, ...]]


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`failed`: why those that are not among `raced` could not be timed."""

    raced: tuple[Raced, ...]
    failed: dict[str, str]

    def ms(self) -> dict[str, dict[str, float]]:
        """The median of one forward of a whole batch, by name and shape; of several looks the better one's."""
        found: dict[str, dict[str, float]] = {}
        for one in self.raced:
            best = found.setdefault(one.name, {})
            for each in one.shapes:
                shape = shape_name(each.shape)
                best[shape] = min(best.get(shape, each.median_ms), each.median_ms)
        return found


def look(
    bundles: Mapping[str, Path],
    *,
    shapes: Sequence[tuple[int, int]],
    items: Sequence[Item],
    threads: int,
    reporter: Reporter,
    race: Race = race,
) -> Timing:
    """Each bundle alone, twice, and few forwards: enough to see who is far behind, and who does not run. Twice, there
    and back, as what slows the machine for a while must not look like a slow bundle."""
    raced: list[Raced] = []
    failed: dict[str, str] = {}
    settings = {"shapes": shapes, "items": items, "n": SHORT, "processes": 1, "threads": threads}
    with measured(reporter), reporter.bar("a first look", total=2 * len(bundles), unit="looks") as bar:
        for name in (*bundles, *reversed(list(bundles))):
            bar.advance(0, note=name)
            try:
                raced += race([Variant(name, OrtCpu(), bundles[name])], **settings) if name not in failed else ()
            except Failure as failure:
                failed[name] = str(failure)
            bar.advance()
    return Timing(tuple(one for one in raced if one.name not in failed), failed)


def time_properly(
    bundles: Mapping[str, Path],
    *,
    shapes: Sequence[tuple[int, int]],
    items: Sequence[Item],
    threads: int,
    reporter: Reporter,
    race: Race = race,
) -> Timing:
    """All bundles interleaved, with the same inputs and threads."""

    def run(left: Mapping[str, Path]) -> tuple[Raced, ...]:
        variants = [Variant(name, OrtCpu(), path) for name, path in left.items()]
        with measured(reporter), reporter.bar("race", total=PROCESSES * len(left), unit="processes") as bar:
            return race(
                variants,
                shapes=shapes,
                items=items,
                n=PROPER,
                processes=PROCESSES,
                threads=threads,
                progress=lambda what: bar.advance(note=what),
            )

    try:
        return Timing(run(bundles), {})
    except Failure:
        found = look(bundles, shapes=shapes, items=items, threads=threads, reporter=reporter, race=race)
    # Where nobody is found at fault, a process was killed by something that may have passed: once more.
    return Timing(run({name: path for name, path in bundles.items() if name not in found.failed}), found.failed)
