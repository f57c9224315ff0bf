"""The receipt: one JSON document that says what was measured, where, how, every raw sample, and the figures."""

from pathlib import Path
from typing import Final

import msgspec

from benchmarks.invariance import Invariance
from benchmarks.machine import Disturbance, Machine
from benchmarks.measure import Latency, WarmUp
from benchmarks.outputs import Floats, read_outputs
from benchmarks.targets import Facts
from serving.errors import BadArtifact

SCHEMA: Final = 1
FILE: Final = "receipt.json"


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much to measure: closed loop, batch 1, at these lengths in tokens.

    `n` samples per length and process; p95 is reported from n * processes >= 200 on. `probe_tolerance` bounds how far
    the logits of a timed process may be from the gated ones.
    """

    lengths: tuple[int, ...] = (16, 64)
    n: int = 100
    processes: int = 5
    probes: int = 8
    probe_tolerance: float = 1e-3

    def requests(self, *, variants: int, items: int) -> int:
        """How many requests a session answers in all (the total of its progress bar)."""
        return variants * (items + self.n * self.processes * len(self.lengths))


class How(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`order` lists the timed children; `distinct` counts different inputs per length."""

    load: Load
    threads: int
    cores: tuple[int, ...]
    order: tuple[str, ...]
    items: int
    distinct: dict[int, int]


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One variant. Lists have one entry per process; `samples_ns` is length -> series -> process -> samples."""

    name: str
    kind: str
    facts: Facts
    logits_file: str
    cold_start_ms: tuple[float, ...]
    peak_mb: tuple[float, ...]
    preempted: tuple[int, ...]
    warm_ups: dict[int, tuple[WarmUp, ...]]
    latency: dict[int, dict[str, Latency]]
    samples_ns: dict[int, dict[str, tuple[list[int], ...]]]
    invariance: tuple[Invariance, ...] = ()


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measuring session; only figures of one session may be compared."""

    started: str
    seconds: float
    machine: Machine
    disturbance: Disturbance
    how: How
    variants: tuple[Measured, ...]
    target: str = "here"
    schema: int = SCHEMA

    def variant(self, name: str) -> Measured:
        found = [measured for measured in self.variants if measured.name == name]
        if not found:
            raise BadArtifact(f"the receipt has no variant '{name}': it has {', '.join(v.name for v in self.variants)}")
        return found[0]


def write_receipt(receipt: Receipt, folder: Path) -> Path:
    path = folder / FILE
    path.write_bytes(msgspec.json.encode(receipt))
    return path


def read_receipt(folder: Path) -> Receipt:
    """The receipt of a folder that a session wrote."""
    path = folder / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Receipt)
    except (OSError, msgspec.MsgspecError) as error:
        raise BadArtifact(f"{path} is not a receipt of schema {SCHEMA}: {error}; run the benchmark again") from error


def read_logits(folder: Path, name: str) -> list[Floats]:
    """The gated raw outputs of one variant, in the order of the items: (C,) each, or (L, C) with a row per token."""
    return read_outputs(folder / read_receipt(folder).variant(name).logits_file)
