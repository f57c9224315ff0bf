"""Whether the generator holds a rate on this machine: loads the constant-answer server on one core from another.

    python -m benchmarks.openloop.held [--rps 2000] [--seconds 30] [--runs 3] [--out FILE.json]

For people: each run's rate, lateness and latency (of a server that does nothing, so this is what the generator and the
loopback add). The last line is JSON: the machine and the runs. A run whose p99 lateness exceeds 1 ms is void; where
this machine's are, no server can be measured over HTTP here at that rate.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.machine import Machine, affinity, read
from benchmarks.openloop.client import ClientJob
from benchmarks.openloop.results import Rate
from benchmarks.openloop.running import running
from benchmarks.openloop.scenarios import connections_for, offer_http, split_cores

BODY: Final = '{"texts": ["what a fine day"]}'
STALL_MS: Final = 100.0  # for which the server may be held up, here by its neighbours alone, and no connection is short


class Held(msgspec.Struct, frozen=True):
    """Several runs at one rate."""

    machine: Machine
    runs: tuple[Rate, ...]


def held(*, rps: float, seconds: float, runs: int, cores: Sequence[int]) -> tuple[Rate, ...]:
    """Each run has a generator process of its own; the server stays."""
    generator, others = split_cores(cores)
    with running(["benchmarks.openloop.answerer"], cores=others) as server:
        url, connections = f"{server.url}/", connections_for(rps, bound_ms=STALL_MS)
        job = ClientJob("constant answers", url, (BODY,), rps, seconds, connections=connections, cores=generator)
        return tuple(_one(msgspec.structs.replace(job, seed=seed)) for seed in range(runs))


def _one(job: ClientJob) -> Rate:
    rate = offer_http(job)
    print(told(rate), flush=True)
    return rate


def told(rate: Rate) -> str:
    """One run in a line."""
    latency = ", ".join("-" if ms is None else f"{ms:.3f}" for ms in (rate.p50_ms, rate.p90_ms, rate.p99_ms))
    return (
        f"{rate.offered_rps:g} requests/s for {rate.seconds:g} s: {rate.answered} of {rate.sent} answered; lateness "
        f"p50, p99 {rate.late_p50_ms:.3f}, {rate.late_p99_ms:.3f} ms; latency p50, p90, p99 {latency} ms"
        f"{f'; void: {rate.void}' if rate.void else ''}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rps", type=float, default=2000.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="where to keep the JSON too")
    asked = parser.parse_args(arguments)
    found = Held(read(), held(rps=asked.rps, seconds=asked.seconds, runs=asked.runs, cores=affinity()))
    encoded = msgspec.json.encode(found)
    if asked.out:
        asked.out.write_bytes(encoded + b"\n")
    print(encoded.decode("utf-8"))


if __name__ == "__main__":
    main()
