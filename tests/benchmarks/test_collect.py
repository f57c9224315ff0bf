"""Which repeats of a session are told, on results of processes that nobody ran."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from receipts import READINGS, samples_ns

from benchmarks.collect import Repeat, collect, findings_in, keep, missing, require_finite
from benchmarks.measure import TOTAL, WarmUp
from benchmarks.plan import Variant
from benchmarks.targets import Facts, OrtCpu
from benchmarks.worker import Bucket, LatencyResult, QualityResult
from serving.errors import BadArtifact

FACTS = Facts(digest="d" * 64, size_mb=1.0, parameters=1, providers=())
NOISY = msgspec.structs.replace(READINGS, others_busy=0.5)


def timed(name: str, *, noisy: bool = False, ms: float = 2.0, seed: int = 0, real: int = 0) -> LatencyResult:
    """One process of one variant at 5 and 12 tokens."""
    series = {length: samples_ns(ms, processes=1, seed=seed + length)[0] for length in (5, 12)}
    return LatencyResult(
        variant=name,
        facts=FACTS,
        cold_start_ms=100.0 + seed,
        peak_mb=50.0,
        rss_mb=40.0 + seed,
        readings=NOISY if noisy else READINGS,
        buckets={length: Bucket(WarmUp(20, steady=True), {TOTAL: samples}) for length, samples in series.items()},
        real_ns={TOTAL: [1_000_000 + seed] * real},
        probe_logits=[[0.0, 1.0]],
    )


def repeats(noisy: str) -> list[Repeat]:
    """One repeat a letter: "-" is quiet, a letter is the variant that noise met."""
    return [{name: timed(name, noisy=name == met, seed=number) for name in "ab"} for number, met in enumerate(noisy)]


def kept(found: Sequence[Repeat]) -> list[float]:
    """By their seeds, which repeats these are."""
    return [each["a"].cold_start_ms - 100 for each in found]


def test_a_quiet_session_is_kept_whole() -> None:
    found = keep(repeats("---"), wanted=3)
    assert (kept(found.repeats), found.findings, found.set_aside) == ([0, 1, 2], (), ())


def test_a_repeat_that_noise_met_is_set_aside_with_all_its_variants_once_there_are_enough_others() -> None:
    found = keep(repeats("-a--b"), wanted=3)
    assert (kept(found.repeats), found.findings) == ([0, 2, 3], ())
    assert [(each.kind, each.variant, each.process) for each in found.set_aside] == [
        ("others", "a", 1),
        ("others", "b", 4),
    ]


def test_a_session_that_stays_disturbed_is_told_as_it_is() -> None:
    found = keep(repeats("-a--b"), wanted=4)
    assert (kept(found.repeats), found.set_aside) == ([0, 1, 2, 3, 4], ())
    assert [(each.variant, each.process) for each in found.findings] == [("a", 1), ("b", 4)]


@pytest.mark.parametrize(("noisy", "more"), [("---", 0), ("-a-", 1), ("aab", 3), ("-a--", 0), ("-a-b", 1)])
def test_as_many_repeats_are_missing_as_are_not_quiet(noisy: str, more: int) -> None:
    assert missing(repeats(noisy), wanted=3) == more


def test_samples_are_looked_at_at_every_length() -> None:
    fast, slow = samples_ns(1.0, processes=1)[0], samples_ns(2.0, processes=1)[0]
    two_speeds = [value for pair in zip(fast, slow, strict=True) for value in pair]
    short = Bucket(WarmUp(20, steady=True), {TOTAL: two_speeds})
    result = timed("a")
    result = msgspec.structs.replace(result, buckets={**result.buckets, 5: short})
    (found,) = findings_in([{"a": result}])
    assert (found.kind, found.variant, found.process) == ("bimodality", "a", 0)


def test_a_finding_of_samples_infinitely_far_apart_survives_json() -> None:
    bucket = Bucket(WarmUp(20, steady=True), {TOTAL: [1_000_000, 2_000_000] * 50})
    (found,) = findings_in([{"a": msgspec.structs.replace(timed("a"), buckets={5: bucket})}])
    assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found


QUALITY = QualityResult("a", FACTS, n=1, seconds=1.0)


def test_a_record_has_every_process_s_samples_memory_and_readings() -> None:
    variant = Variant("a", OrtCpu(), Path("a"))
    found = collect(variant, [timed("a", seed=seed, real=20) for seed in range(2)], QUALITY)
    assert (found.cold_start_ms, found.rss_mb, found.preempted) == ((100.0, 101.0), (40.0, 41.0), (3, 3))
    assert found.readings == (READINGS,) * 2
    assert [len(process) for process in found.samples_ns[12][TOTAL]] == [100, 100]
    assert found.real_ns == {TOTAL: ([1_000_000] * 20, [1_000_001] * 20)}
    assert (found.real[TOTAL].n, found.real[TOTAL].p50_ms) == (40, pytest.approx(1.0))
    assert found.server is None


def test_without_texts_as_they_come_there_are_no_figures_of_them() -> None:
    found = collect(Variant("a", OrtCpu(), Path("a")), [timed("a")], QUALITY)
    assert (found.real, found.real_ns) == ({}, {})


def test_a_variant_that_answers_nan_is_refused_with_the_item() -> None:
    fine, broken = np.array([0.0, 1.0]), np.array([np.nan, 1.0])
    require_finite("int8", [fine, fine])
    with pytest.raises(BadArtifact) as caught:
        require_finite("int8", [fine, broken, fine, np.array([np.inf, 0.0])])
    assert str(caught.value) == (
        "int8 answers NaN or infinity for 2 of 4 items (the first is item 1): the model is broken; export or train it "
        "again"
    )
