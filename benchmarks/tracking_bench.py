"""What it costs a training thread to hand over a row of its loss curve, while a sender tells a real MLflow of them.

    python -m benchmarks.tracking_bench [--events 20000] [--out FILE.json]

A recorder as a run has it, its outbox on the disk of the temporary folder, its sender a process that talks to MLflow on
a sqlite file of its own. A row has twelve numbers, like one of a distillation, and one follows the other after a tenth
of a millisecond, so that the sender is at work all the time. The bound is 50 microseconds at p99. Then how long the
sender took for the rest, and how many events are lost: MLflow's own history of the run's metrics is read. The last line
is JSON. Ends with 66 where the bound is not kept or an event is lost, with 75 where they are not sent in time.
"""

import argparse
import sys
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
from pipeline.errors import GateFailed, Transient
from pipeline.exits import exit_code_of
from pipeline.graph import Step
from pipeline.outbox_reading import outboxes
from pipeline.progress import Silent
from pipeline.recording import Asked, Recorder
from pipeline.records import Record
from pipeline.tracking.client import talking_to
from pipeline.tracking.sending import send, uri_of
from pipeline.tracking.sent import LOG, read_state, waiting

BOUND_US: Final = 50.0
PAUSE_S: Final = 1e-4
START_S: Final = 120.0  # until MLflow has made its tables
SEND_S: Final = 600.0  # for all that is left when the last event was handed over
STEP: Final = "distill"
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
    """One run in a workspace at `root`: what it found, with the machine beside it.

    Raises:
        Transient: the sender does not get it sent in time.
    """
    asked = Asked(root, "tracking-bench", {"events": events}, "tracking-bench", None, "here", (STEP,))
    before = disturbance()
    with Recorder(Silent(), asked) as recorder:
        recorder.started(Step(STEP, STEP, BenchConfig(), {}, {}), f"{STEP}-1", {})
        (folder,) = outboxes(root)
        await_sent(folder, wait_s=START_S)  # what it does before it talks to MLflow is not what it does all the time
        took = hand_over(recorder, events=events)
        left, start = waiting(folder), time.monotonic()
        await_sent(folder, wait_s=SEND_S)
        seconds = time.monotonic() - start
    send(folder)
    state = read_state(folder)
    with talking_to(uri_of(folder)) as client:
        arrived = arrived_in(client, state.runs[STEP], events=events)
    return {
        "events": events,
        "numbers_an_event": len(NAMES),
        **percentiles_us(took),
        "bound_us": BOUND_US,
        "left_when_all_were_handed_over": left,
        "seconds_until_they_were_sent": round(seconds, 1),
        "refused": state.refused,
        "lost": events - arrived,
        "machine": read(),
        "git": git_state(),
        "disturbance": disturbance().since(before),
    }


def await_sent(folder: Path, *, wait_s: float) -> None:
    """Until nothing of an outbox waits; Transient where that takes longer."""
    end = time.monotonic() + wait_s
    while left := waiting(folder):
        if time.monotonic() >= end:
            log = folder / LOG
            said = log.read_text(encoding="utf-8").split("\n")[-2:-1] if log.is_file() else []
            why = read_state(folder).why or (said or ["its sender said nothing"])[0]
            raise Transient(f"{left} events still wait after {wait_s:g} s ({why}); run it again when less else runs")
        time.sleep(0.1)


def arrived_in(client: Any, run_id: str, *, events: int) -> int:
    """How many of the events `hand_over` made the server has in its run, each with all its numbers."""
    whole = set(range(events))
    for name in NAMES:
        whole &= {point.step for point in client.get_metric_history(run_id, name)}
    return len(whole)


def require_kept(found: Mapping[str, Any]) -> None:
    """GateFailed where something is lost, or the bound is not kept."""
    faults = []
    if found["lost"] or found["refused"]:
        faults.append(f"of {found['events']} events {found['lost']} are lost and {found['refused']} were refused")
    if found["p99_us"] > BOUND_US:
        faults.append(f"handing one over took {found['p99_us']:g} us at p99, and the bound is {BOUND_US:g}")
    if faults:
        raise GateFailed("; ".join(faults))


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
    """Measure, show, end with a line of JSON, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(arguments)
    if asked.events < 1:
        parser.error("--events must be above 0")

    def call() -> None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # a sender may still be at work there
            found = measured(Path(folder), events=asked.events)
        show(found)
        if asked.out:
            write_json(asked.out, found)
        print(msgspec.json.encode(found).decode(), flush=True)
        require_kept(found)

    sys.exit(exit_code_of(call))


if __name__ == "__main__":
    main()
