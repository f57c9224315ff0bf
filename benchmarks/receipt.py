"""The receipt: one JSON document that says what was measured, where, how, every raw sample, the figures, and what
disturbed them. It carries the digest of its own content, so that a figure cannot be changed afterwards unseen."""

import hashlib
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.invariance import Invariance
from benchmarks.machine import Disturbance, Machine
from benchmarks.measure import Latency, WarmUp
from benchmarks.noise import Finding
from benchmarks.openloop.results import ServerResult
from benchmarks.outputs import Floats, read_outputs
from benchmarks.readings import Readings
from benchmarks.targets import Facts
from serving.errors import BadArtifact

SCHEMA: Final = 2  # 1 had no real lengths, no readings and no digest
FILE: Final = "receipt.json"
# What msgspec finds itself, bytes that are no text, and brackets in brackets.
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much to measure: closed loop, batch 1, at these lengths in tokens, and on texts as long as they come.

    `n` samples per length and process, `real` of the data's own texts a process (0: none); a percentile X is reported
    from n * processes * (1 - X) >= 10 on: p95 from 200, p99 from 1000. A repeat in which noise was found is measured
    again, in `attempts` at most, the first included, and in `again_s` seconds beyond the first.
    `probe_tolerance` bounds how far the logits of a timed process may be from the gated ones.
    """

    lengths: tuple[int, ...] = (16, 64)
    n: int = 125
    processes: int = 8
    real: int = 125
    probes: int = 8
    probe_tolerance: float = 1e-3
    attempts: int = 6
    again_s: float = 45.0

    @property
    def requests_a_process(self) -> int:
        """Timed ones."""
        return self.n * len(self.lengths) + self.real

    def requests(self, *, variants: int, items: int) -> int:
        """How many requests a session answers in all where nothing is measured again (the total of its bar)."""
        return variants * (items + self.processes * self.requests_a_process)


class How(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`order` lists the timed children, those of repeats that were set aside too; `distinct` counts different inputs
    per length, `distinct_real` different texts of their own length."""

    load: Load
    threads: int
    cores: tuple[int, ...]
    order: tuple[str, ...]
    items: int
    distinct: dict[int, int]
    distinct_real: int = 0


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One variant. Lists have one entry per process, by repeat: process i of every variant ran in the same repeat.

    `samples_ns` is length -> series -> process -> samples, `real_ns` the same of texts as they come, without the
    length. `rss_mb` is what was resident after the last sample, `peak_mb` the most that ever was.
    """

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
    rss_mb: tuple[float, ...] = ()
    real: dict[str, Latency] = {}
    real_ns: dict[str, tuple[list[int], ...]] = {}
    readings: tuple[Readings, ...] = ()
    server: ServerResult | None = None


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measuring session; only figures of one session may be compared.

    `findings` are of the processes whose samples are here: none, or the figures are unfit for a verdict on times.
    `set_aside` are of the repeats that were measured again and left out (its processes count all repeats); `unknown`
    says what this machine hides, `attempts` how many it took. `digest` is of all the rest.
    """

    started: str
    seconds: float
    machine: Machine
    disturbance: Disturbance
    how: How
    variants: tuple[Measured, ...]
    target: str = "here"
    schema: int = SCHEMA
    findings: tuple[Finding, ...] = ()
    set_aside: tuple[Finding, ...] = ()
    unknown: tuple[str, ...] = ()
    attempts: int = 1
    digest: str = ""

    def variant(self, name: str) -> Measured:
        found = [measured for measured in self.variants if measured.name == name]
        if not found:
            raise BadArtifact(f"the receipt has no variant '{name}': it has {', '.join(v.name for v in self.variants)}")
        return found[0]

    @property
    def disturbed(self) -> str:
        """Why no verdict on times can be given; "" where one can."""
        if not self.findings:
            return ""
        noisy = {(found.variant, found.process) for found in self.findings}
        timed = sum(len(each.peak_mb) for each in self.variants)
        more = f" (and {len(self.findings) - 1} more)" if len(self.findings) > 1 else ""
        attempts = f"{self.attempts} attempt{'s' if self.attempts > 1 else ''}"
        return f"noise in {len(noisy)} of {timed} processes after {attempts}: {self.findings[0].told}{more}"


def sealed(receipt: Receipt) -> Receipt:
    """The receipt with the digest of its content."""
    return msgspec.structs.replace(receipt, digest=_digest(receipt))


def write_receipt(receipt: Receipt, folder: Path) -> Path:
    """Write a sealed receipt into the folder; the file."""
    path = folder / FILE
    path.write_bytes(msgspec.json.encode(receipt))
    return path


def read_receipt(place: Path) -> Receipt:
    """The receipt of a folder that a session wrote, or in this very file.

    Raises:
        BadArtifact: there is none, it is of another version, or it was altered.
    """
    path = place / FILE if place.is_dir() else place
    try:
        raw = path.read_bytes()
        schema = msgspec.json.decode(raw, type=_Schema).schema
    except (OSError, *_UNREADABLE) as error:
        raise _no_receipt(path, error) from error
    if schema != SCHEMA:
        way_out = "update Retort" if schema > SCHEMA else "run the benchmark again"
        raise BadArtifact(f"{path} is a receipt of schema {schema}, and this version reads {SCHEMA}; {way_out}")
    try:
        receipt = msgspec.json.decode(raw, type=Receipt)
    except _UNREADABLE as error:
        raise _no_receipt(path, error) from error
    if receipt.digest != _digest(receipt):
        raise BadArtifact(
            f"{path} was altered after it was written: its content does not give its digest "
            f"{receipt.digest[:12] or '(none)'}; run the benchmark again"
        )
    return receipt


def read_logits(folder: Path, name: str) -> list[Floats]:
    """The gated raw outputs of one variant, in the order of the items: (C,) each, or (L, C) with a row per token."""
    return read_outputs(folder / read_receipt(folder).variant(name).logits_file)


class _Schema(msgspec.Struct):
    schema: int


def _digest(receipt: Receipt) -> str:
    return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(receipt, digest=""))).hexdigest()


def _no_receipt(path: Path, error: Exception) -> BadArtifact:
    return BadArtifact(f"{path} is not a receipt of schema {SCHEMA}: {error}; run the benchmark again")
