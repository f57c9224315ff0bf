"""Whether the lab's verdicts can be trusted on this machine, and what the lab itself costs.

    python -m benchmarks.lab_bench BUNDLE BUNDLE BUNDLE --texts FILE.txt [--out FILE.json] [--only PART ...]

Each comparison is a whole default session of the first bundle with itself, judged by RULE: A/A (nothing differs: FAIL
is false), slowed (one side waits 5 % longer inside the timed call: PASS is wrong, FAIL finds it), and both beside a
neighbour that computes on a core of theirs, all the time or every other three seconds. Then what the timed loop adds to
a sample, how long a default benchmark of all bundles takes, and whether the generator holds 2,000 requests a second.
Leave the machine alone meanwhile. FILE.txt has a text a line. The last line is JSON.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec
from rich.console import Console as Screen
from rich.table import Table

from benchmarks.child import end_with_parent
from benchmarks.figures import timed_figures
from benchmarks.machine import affinity, disturbance, read
from benchmarks.measure import TOTAL, sample
from benchmarks.openloop.held import held
from benchmarks.receipt import Load, Receipt
from benchmarks.session import Variant, run_session
from benchmarks.slowed_worker import SHARE, SLOWED
from benchmarks.targets import OrtCpu
from pipeline.artifact import write_json
from pipeline.build import git_state
from pipeline.gates import judge, parse_rules
from serving.bundle import Item, read_bundle

RULE: Final = "p50_ms <= 1.025 * one with confidence"  # half of what is planted
SAME: Final = "same"
COMPARED_ITEMS: Final = 1000  # which a default session draws its texts as they come from
NO_OPS: Final = 20_000
HELD_RPS, HELD_S, HELD_RUNS = 2000.0, 30.0, 3


class Compared(msgspec.Struct, frozen=True):
    """One comparison: the verdict, the ratio of p50 with its interval, and what noise there was."""

    part: str
    verdict: str
    ratio: float
    low: float
    high: float
    attempts: int
    seconds: float
    noise: str
    set_aside: int


def compared(part: str, bundle: Path, items: Sequence[Item], other: str) -> Compared:
    """A default session of the bundle with itself; the other one is slowed where it is called so."""
    variants = [Variant(name, OrtCpu(), bundle) for name in ("one", other)]
    with tempfile.TemporaryDirectory() as folder:
        receipt = run_session(
            variants,
            items=items,
            out=Path(folder),
            load=Load(),
            task=read_bundle(bundle).spec.task,
            worker="benchmarks.slowed_worker",
        )
    return judged(part, receipt, other)


def judged(part: str, receipt: Receipt, other: str) -> Compared:
    """What RULE says of a session, as a gate would judge it."""
    figures = timed_figures(receipt, baseline="one")
    disturbed = {"here": receipt.disturbed} if receipt.disturbed else {}
    verdict = judge(parse_rules([RULE]), figures, (other,), disturbed=disturbed)
    found = figures[other]
    return Compared(
        part=part,
        verdict=verdict.verdict,
        ratio=found["p50_ms/one"],
        low=found["p50_ms/one_low"],
        high=found["p50_ms/one_high"],
        attempts=receipt.attempts,
        seconds=receipt.seconds,
        noise=receipt.disturbed,
        set_aside=len(receipt.set_aside),
    )


@contextmanager
def neighbour(*, core: int, busy_s: float, idle_s: float) -> Iterator[None]:
    """Another process on that core, which computes for `busy_s` and sleeps for `idle_s`, in turn."""
    process = multiprocessing.get_context("spawn").Process(target=disturb, args=(core, busy_s, idle_s), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def disturb(core: int, busy_s: float, idle_s: float) -> None:
    """What a neighbour does, until it or the one who measures is killed."""
    end_with_parent()
    os.sched_setaffinity(0, {core})
    while True:
        until = time.monotonic() + busy_s
        while time.monotonic() < until:
            sum(range(1000))
        time.sleep(idle_s)


def comparisons(bundle: Path, items: Sequence[Item], told: Callable[[Compared], None]) -> dict[str, Callable[[], Any]]:
    """By part, what measures all of it."""
    core = affinity()[0]

    def part(name: str, other: str, times: int, beside: Callable[[], Any] = nullcontext) -> Callable[[], Any]:
        def measure() -> list[Compared]:
            found = []
            for _ in range(times):
                with beside():
                    found.append(compared(name, bundle, items, other))
                told(found[-1])
            return found

        return measure

    def always() -> Any:
        return neighbour(core=core, busy_s=60.0, idle_s=0.0)

    def now_and_then() -> Any:
        return neighbour(core=core, busy_s=3.0, idle_s=3.0)

    return {
        "a/a": part("a/a", SAME, 20),
        "slowed": part("slowed", SLOWED, 10),
        "a/a, busy neighbour": part("a/a, busy neighbour", SAME, 3, always),
        "slowed, busy neighbour": part("slowed, busy neighbour", SLOWED, 3, always),
        "a/a, neighbour now and then": part("a/a, neighbour now and then", SAME, 2, now_and_then),
        "slowed, neighbour now and then": part("slowed, neighbour now and then", SLOWED, 2, now_and_then),
    }


def overhead_us(*, runs: int = 20) -> dict[str, float]:
    """Microseconds a sample, medians of runs: what the loop adds to a figure, and what it takes on the wall, with steps
    that do nothing (which are counted in)."""
    steps = dict.fromkeys(("tokenize", "infer", "score"), _nothing)
    inside, wall = [], []
    for _ in range(runs):
        start = time.perf_counter_ns()
        series = sample(steps, (None,), n=NO_OPS)
        wall.append((time.perf_counter_ns() - start) / NO_OPS / 1e3)
        inside.append(median(series[TOTAL]) / 1e3)
    return {"in_a_figure": median(inside), "wall": median(wall)}


def _nothing(value: Any) -> Any:
    return value


def default_benchmark(bundles: Sequence[Path], items: Sequence[Item]) -> dict[str, Any]:
    """A whole default session of the bundles: every item answered by each, five processes, all series."""
    variants = [Variant(f"{i}-{path.parent.name}", OrtCpu(), path) for i, path in enumerate(bundles)]
    with tempfile.TemporaryDirectory() as folder:
        task = read_bundle(bundles[0]).spec.task
        receipt = run_session(variants, items=items, out=Path(folder), load=Load(), task=task)
    p50_ms = {name: figures["p50_ms"] for name, figures in timed_figures(receipt).items()}
    found = {"seconds": receipt.seconds, "attempts": receipt.attempts, "noise": receipt.disturbed}
    return found | {"items": len(items), "p50_ms": p50_ms}


def counted(found: Sequence[Compared]) -> dict[str, dict[str, int]]:
    """By part, how often each verdict was given."""
    verdicts = ("PASS", "FAIL", "INCONCLUSIVE")
    return {
        part: {verdict: sum(each.part == part and each.verdict == verdict for each in found) for verdict in verdicts}
        for part in dict.fromkeys(each.part for each in found)
    }


def show(found: Sequence[Compared]) -> None:
    """A row a kind of comparison."""
    table = Table(title=f"{RULE}; {SHARE:.0%} are planted where slowed", title_justify="left")
    for heading in ("comparison", "PASS", "FAIL", "INCONCLUSIVE", "ratio of p50, least to most", "seconds, median"):
        table.add_column(heading)
    for part, verdicts in counted(found).items():
        these = [each for each in found if each.part == part]
        ratios = f"{min(each.ratio for each in these):.3f} to {max(each.ratio for each in these):.3f}"
        table.add_row(part, *map(str, verdicts.values()), ratios, f"{median(each.seconds for each in these):.0f}")
    Screen(width=150).print(table)


def measured(asked: argparse.Namespace, told: Callable[[Compared], None]) -> Iterator[dict[str, Any]]:
    """What is known after each part, as it is written; all parts, or those of `--only`."""
    items = [(line,) for line in asked.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    before, found = disturbance(), list[Compared]()

    def kept(one: Compared) -> None:
        found.append(one)
        told(one)

    alone: dict[str, Callable[[], Any]] = {
        "overhead_us": overhead_us,
        "held": lambda: held(rps=HELD_RPS, seconds=HELD_S, runs=HELD_RUNS, cores=affinity()),
        "default_benchmark": lambda: default_benchmark(asked.bundles, items),
    }
    result = {
        "machine": read(),
        "git": git_state(),
        "rule": RULE,
        "bundles": {path.parent.name: read_bundle(path).digest for path in asked.bundles},
    }
    for name, measure in (alone | comparisons(asked.bundles[0], items[:COMPARED_ITEMS], kept)).items():
        if not asked.only or name in asked.only:
            value = measure()
            result |= {name: value} if name in alone else {}
            judged_so_far = {"verdicts": counted(found), "comparisons": tuple(found)}
            yield result | judged_so_far | {"disturbance": disturbance().since(before)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--only", nargs="+", metavar="PART", help="leave the other parts out")
    parser.add_argument("--out", type=Path)
    asked, screen = parser.parse_args(), Screen(width=150)

    def told(one: Compared) -> None:
        text = f"{one.part}: {one.verdict}, {one.ratio:.4f} [{one.low:.4f}, {one.high:.4f}], {one.attempts} attempt(s)"
        screen.print(f"{text}, {one.seconds:.0f} s {one.noise}", soft_wrap=True, markup=False)

    result: dict[str, Any] = {}
    for result in measured(asked, told):
        if asked.out:
            write_json(asked.out, result)
    show(result["comparisons"])
    parts = ("verdicts", "overhead_us", "held", "default_benchmark")
    print(msgspec.json.encode({name: result[name] for name in parts if name in result}).decode())


if __name__ == "__main__":
    main()
