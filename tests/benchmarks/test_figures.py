"""The gate's figures of times, from receipts that nobody measured."""

import math

import pytest
from receipts import INT8, SMALL, TEACHER, measured, receipt, server

from benchmarks import report
from benchmarks.figures import merged, timed_figures
from benchmarks.measure import summarize
from benchmarks.openloop.results import ServerResult
from benchmarks.ratios import ratio
from pipeline.gates import COMPARED, KNOWN, TASK_METRICS, judge, parse_rules
from pipeline.quality import Score

LOADS = ("", "_short", "_real")


def test_every_load_and_percentile_that_was_measured_often_enough_has_a_figure_with_its_ends() -> None:
    found = timed_figures(receipt([measured(TEACHER)]))[TEACHER]
    for load, percents in zip(LOADS, ((50, 95), (50, 95), (50, 95, 99)), strict=True):
        for percent in (50, 95, 99):
            ends = [found.get(f"p{percent}_ms{load}{end}") for end in ("_low", "", "_high")]
            if percent in percents:
                assert ends == sorted(ends), (percent, load)
            else:
                assert ends == [None] * 3, "500 samples give no p99"
    assert found["p50_ms"] == pytest.approx(10.0, rel=0.02)
    assert found["p50_ms_short"] == pytest.approx(2.5, rel=0.02)
    assert found["p50_ms_real"] == pytest.approx(5.0, rel=0.02)


def test_cold_start_and_resident_memory_are_medians_of_processes_with_an_interval() -> None:
    found = timed_figures(receipt([measured(TEACHER)]))[TEACHER]
    assert [found[f"cold_start_ms{end}"] for end in ("_low", "", "_high")] == [100.0, 200.0, 300.0]
    assert [found[f"rss_mb{end}"] for end in ("_low", "", "_high")] == [90.0] * 3


def test_a_ratio_has_an_interval_of_its_own_over_pairs_of_processes() -> None:
    found, session = timed_figures(receipt()), receipt()
    one, other = session.variant(INT8), session.variant(SMALL)
    for load, mine, theirs in (
        ("", one.samples_ns[64], other.samples_ns[64]),
        ("_short", one.samples_ns[16], other.samples_ns[16]),
        ("_real", one.real_ns, other.real_ns),
    ):
        expected = ratio(mine["end_to_end"], theirs["end_to_end"], percent=95)
        name = f"p95_ms{load}/{SMALL}"
        assert [found[INT8][name + end] for end in ("", "_low", "_high")] == [
            expected.value,
            expected.low,
            expected.high,
        ]
    assert f"p99_ms/{SMALL}" not in found[INT8]
    assert not [name for name in found[INT8] if name.endswith(f"/{INT8}")], "nobody is compared with itself"


def test_ratios_are_to_the_baselines_that_are_asked_for_and_were_measured() -> None:
    found = timed_figures(receipt(), baselines=(SMALL, "champion"))
    over = {
        variant: {name.partition("/")[2].split("_")[0] for name in each if "/" in name}
        for variant, each in found.items()
    }
    assert over == {TEACHER: {SMALL}, SMALL: set(), INT8: {SMALL}}


def test_the_speed_up_has_the_ends_of_the_ratio_turned_around() -> None:
    found = timed_figures(receipt())[INT8]
    assert found["speedup_p50_low"] == pytest.approx(1 / found[f"p50_ms/{TEACHER}_high"])
    assert found["speedup_p50_low"] < 4.0 < found["speedup_p50_high"]
    assert "speedup_p50_low" not in timed_figures(receipt())[TEACHER]
    assert "speedup_p50_low" in timed_figures(receipt(), baseline=INT8)[TEACHER]


def test_one_process_gives_figures_without_ends() -> None:
    samples = {64: {"end_to_end": ([2_000_000] * 200,)}}
    latency = {64: {"end_to_end": summarize(samples[64]["end_to_end"])}}
    alone = measured(
        TEACHER, samples_ns=samples, latency=latency, real={}, real_ns={}, cold_start_ms=(100.0,), rss_mb=(90.0,)
    )
    assert timed_figures(receipt([alone]))[TEACHER] == {
        **{f"p{percent}_ms{load}": 2.0 for percent in (50, 95) for load in ("", "_short")},
        "cold_start_ms": 100.0,
        "rss_mb": 90.0,
    }


@pytest.mark.parametrize(
    ("result", "ends"),
    [
        (server((50.0, 3.0), (100.0, 30.0), best_rps=50.0, broken_rps=100.0), (50.0, 50.0, 100.0)),
        (server((50.0, 3.0), (100.0, 3.0), best_rps=50.0, void="it lagged"), (50.0, 50.0, None)),
        (server((50.0, 30.0), best_rps=None, broken_rps=50.0), (0.0, 0.0, 50.0)),
        (server((50.0, 30.0), best_rps=None, void="it lagged"), (None, None, None)),
        (None, (None, None, None)),
    ],
)
def test_the_rate_that_kept_the_bound_is_a_figure_with_what_is_known_around_it(
    result: ServerResult | None, ends: tuple[float | None, ...]
) -> None:
    found = timed_figures(receipt([measured(TEACHER, server=result)]))[TEACHER]
    assert tuple(found.get(f"server_rps{end}") for end in ("", "_low", "_high")) == ends


def test_every_figure_is_a_number_that_the_gate_judges_with_confidence() -> None:
    found = timed_figures(receipt())
    assert all(math.isfinite(value) for each in found.values() for value in each.values())
    rules = parse_rules(["p95_ms <= 0.6 * teacher with confidence", "p99_ms_real <= 2 with confidence"])
    verdict = judge(rules, found, [SMALL, INT8])
    assert [[check.outcome for check in each.checks] for each in verdict.candidates] == [
        ["PASS", "FAIL"],
        ["PASS", "PASS"],
    ]


def test_what_the_gate_may_ask_is_known_of_a_session_by_one_of_both() -> None:
    served = measured(TEACHER, n=1000, server=server((50.0, 3.0), best_rps=50.0))
    found = receipt([served])
    scores = {TEACHER: Score("accuracy", 0.9, 0.89, 0.91, n=3000)}
    figures = merged(report.figures(found, scores, metric="accuracy"), timed_figures(found))[TEACHER]
    assert {name for name in KNOWN if name not in figures} == {*TASK_METRICS, *COMPARED} - {"accuracy"}


def test_figures_of_several_origins_are_put_together_by_variant() -> None:
    assert merged({"a": {"x": 1.0}, "b": {"x": 2.0}}, {"a": {"y": 3.0}}) == {"a": {"x": 1.0, "y": 3.0}, "b": {"x": 2.0}}
