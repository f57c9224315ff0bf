"""What it costs a training thread to hand over a row of its loss curve, while a sender tells a real MLflow of them.

    python -m benchmarks.tracking_bench [--events 20000] [--out FILE.json]

A recorder as a run has it, its outbox on the disk of the temporary folder, its sender a process that talks to MLflow on
a sqlite file of its own. A row has twelve numbers, like one of a distillation, and one follows the other after a tenth
of a millisecond, so that the sender is at work all the time. The bound is 50 microseconds at p99. Then how long the
sender took for the rest, and that every event has arrived. The last line is JSON.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console as Screen
from rich.table import Table

from benchmarks.machine import disturbance, read
from pipeline.artifact import write_json
from pipeline.build import git_state
from pipeline.graph import Step
from pipeline.outbox import outboxes
from pipeline.progress import Silent
from pipeline.recording import Asked, Recorder
from pipeline.records import Record
from pipeline.tracking.sending import send
from pipeline.tracking.sent import read_state, waiting

BOUND_US: Final = 50.0
PAUSE_S: Final = 1e-4
START_S: Final = 120.0  # until MLflow has made its tables
NAMES: Final = (
    *("tokens", "query", "key", "value", "loss", "learning_rate", "grad_norm", "tokens_per_s", "padding_share"),
    *("seconds", "agreement/query", "agreement/value"),
)


class BenchConfig(Record):
    """A step's settings."""

    tokens: int = 1_000_000


def hand_over(recorder: Recorder, *, events: int) -> list[int]:
    """Nanoseconds of each handing over."""
    took = []
    for step in range(events):
        row = {name: 1.0 / (1 + step + place) for place, name in enumerate(NAMES)}
        start = time.perf_counter_ns()
        recorder.metrics("student", step=step, values=row)
        took.append(time.perf_counter_ns() - start)
        time.sleep(PAUSE_S)
    return took


def percentiles_us(took_ns: Sequence[int]) -> dict[str, float]:
    """p50, p99 and the longest, in microseconds."""
    ordered = sorted(took_ns)
    places = {"p50_us": 0.5, "p99_us": 0.99, "max_us": 1.0}
    return {name: round(ordered[min(int(q * len(ordered)), len(ordered) - 1)] / 1e3, 1) for name, q in places.items()}


def measured(root: Path, *, events: int) -> dict[str, Any]:
    """One run in a workspace at `root`: what it found, with the machine beside it."""
    asked = Asked(root, "tracking-bench", {"events": events}, "tracking-bench", None, "here", ("distill",))
    before = disturbance()
    with Recorder(Silent(), asked) as recorder:
        recorder.started(Step("distill", "distill", BenchConfig(), {}, {}), "distill-1", {})
        (folder,) = outboxes(root)
        _await_first(folder)
        took = hand_over(recorder, events=events)
        left, start = waiting(folder), time.monotonic()
        while waiting(folder):
            time.sleep(0.1)
        seconds = time.monotonic() - start
    send(folder)
    state = read_state(folder)
    return {
        "events": events,
        "numbers_an_event": len(NAMES),
        **percentiles_us(took),
        "bound_us": BOUND_US,
        "left_when_all_were_handed_over": left,
        "seconds_until_they_were_sent": round(seconds, 1),
        "refused": state.refused,
        "lost": waiting(folder),
        "machine": read(),
        "git": git_state(),
        "disturbance": disturbance().since(before),
    }


def _await_first(folder: Path) -> None:
    """Until the sender talks to MLflow: what it does before is not what it does all the time."""
    end = time.monotonic() + START_S
    while waiting(folder) and time.monotonic() < end:
        time.sleep(0.1)


def show(found: Mapping[str, Any]) -> None:
    """A row a percentile."""
    told = f"handing over {found['events']:,} events (bound: {BOUND_US:g} us at p99)"
    table = Table(title=told, title_justify="left")
    for heading in ("p50, us", "p99, us", "longest, us", "seconds until the rest was sent", "lost"):
        table.add_column(heading)
    cells = (found[name] for name in ("p50_us", "p99_us", "max_us", "seconds_until_they_were_sent", "lost"))
    table.add_row(*map(str, cells))
    screen = Screen(width=120)
    screen.print(table)
    machine = found["machine"]
    screen.print(f"{machine.cpu_model}, {machine.cores} cores", soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, show, and end with a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), events=asked.events)
    show(found)
    if asked.out:
        write_json(asked.out, found)
    print(msgspec.json.encode(found).decode(), flush=True)


if __name__ == "__main__":
    main()
