"""What the processes of a session found, put together: who was timed is who was gated, which repeats were quiet, and
one record a variant with its figures. Pure: results in, records out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.measure import TOTAL, summarize
from benchmarks.noise import Finding, reading_findings, sample_findings
from benchmarks.outputs import Floats
from benchmarks.plan import Variant, logits_file
from benchmarks.receipt import Measured
from benchmarks.worker import LatencyResult, QualityResult
from serving.errors import BadArtifact

Repeat = Mapping[str, LatencyResult]  # one process of every variant, by name


@dataclass(frozen=True)
class Kept:
    """The repeats whose samples are told, what was found in them, and in those that were set aside."""

    repeats: tuple[Repeat, ...]
    findings: tuple[Finding, ...]
    set_aside: tuple[Finding, ...]


def keep(repeats: Sequence[Repeat], *, wanted: int) -> Kept:
    """The quiet repeats where there are `wanted` of them or more; else all, as they are.

    A repeat goes with all its variants: whom the noise met, and whom it helped, is not looked at.
    """
    found = findings_in(repeats)
    quiet = [each for i, each in enumerate(repeats) if i not in _disturbed(found)]
    if len(quiet) < wanted or len(quiet) == len(repeats):
        return Kept(tuple(repeats), found, ())
    return Kept(tuple(quiet), findings_in(quiet), found)


def missing(repeats: Sequence[Repeat], *, wanted: int) -> int:
    """How many quiet repeats there are yet to be."""
    return max(0, wanted - len(repeats) + len(_disturbed(findings_in(repeats))))


def findings_in(repeats: Sequence[Repeat]) -> tuple[Finding, ...]:
    """What noise there is in every variant's processes, which are counted by repeat: in their readings, and in their
    samples at each length."""
    found: list[Finding] = []
    for name in repeats[0]:
        results = [repeat[name] for repeat in repeats]
        found += reading_findings(name, [result.readings for result in results])
        for length in results[0].buckets:
            found += sample_findings(name, [result.buckets[length].samples_ns[TOTAL] for result in results])
    return tuple(found)


def _disturbed(found: Iterable[Finding]) -> set[int]:
    return {each.process for each in found}


def collect(variant: Variant, results: Sequence[LatencyResult], quality: QualityResult) -> Measured:
    """One variant's processes as a record with figures."""
    lengths = list(results[0].buckets)
    series = list(results[0].buckets[lengths[0]].samples_ns)
    samples_ns = {
        length: {name: tuple(result.buckets[length].samples_ns[name] for result in results) for name in series}
        for length in lengths
    }
    timed_real = bool(results[0].real_ns[TOTAL])
    real_ns = {name: tuple(result.real_ns[name] for result in results) for name in series} if timed_real else {}
    return Measured(
        name=variant.name,
        kind=variant.target.kind,
        facts=results[0].facts,
        logits_file=logits_file(variant),
        cold_start_ms=tuple(result.cold_start_ms for result in results),
        peak_mb=tuple(result.peak_mb for result in results),
        preempted=tuple(result.readings.preempted for result in results),
        warm_ups={length: tuple(result.buckets[length].warm_up for result in results) for length in lengths},
        latency={n: {name: summarize(runs) for name, runs in each.items()} for n, each in samples_ns.items()},
        samples_ns=samples_ns,
        invariance=quality.invariance,
        rss_mb=tuple(result.rss_mb for result in results),
        real={name: summarize(runs) for name, runs in real_ns.items()},
        real_ns=real_ns,
        readings=tuple(result.readings for result in results),
    )


def require_finite(variant: str, outputs: Sequence[Floats]) -> None:
    """BadArtifact where an answer is no number: nothing more is to be measured of such a model."""
    broken = [i for i, output in enumerate(outputs) if not np.isfinite(output).all()]
    if broken:
        raise BadArtifact(
            f"{variant} answers NaN or infinity for {len(broken)} of {len(outputs)} items (the first is item "
            f"{broken[0]}): the model is broken; export or train it again"
        )


def require_same(result: LatencyResult, quality: QualityResult, *, gated: Sequence[Floats], tolerance: float) -> None:
    """What was timed is what was gated: the same digest, and the same raw outputs on the probes."""
    if result.facts.digest != quality.facts.digest:
        raise BadArtifact(
            f"{result.variant} changed during the session: its quality is of {quality.facts.digest[:12]}, "
            f"its latency of {result.facts.digest[:12]}; leave the files alone and run the benchmark again"
        )
    timed_sizes, gated_sizes = [len(row) for row in result.probe_logits], [output.size for output in gated]
    if timed_sizes != gated_sizes:
        raise BadArtifact(
            f"{result.variant} answers differently when timed: its probes have {timed_sizes} logits, "
            f"{gated_sizes} when gated; what was timed is not what was gated"
        )
    timed = np.concatenate([np.asarray(row) for row in result.probe_logits])
    off = float(np.abs(timed - np.concatenate([output.ravel() for output in gated])).max())
    if not off <= tolerance:
        raise BadArtifact(
            f"{result.variant} answers differently when timed: a probe's logit is off by {off:.3g}, more than "
            f"{tolerance:g}; what was timed is not what was gated"
        )
