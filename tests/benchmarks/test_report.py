"""The table, the JSON line and the gate's figures from one receipt."""

import math
import re

import msgspec
import pytest
from rich.console import Console

from benchmarks.figures import merged, timed_figures
from benchmarks.invariance import Invariance
from benchmarks.machine import Disturbance, read
from benchmarks.measure import WarmUp, summarize
from benchmarks.receipt import How, Load, Measured, Receipt
from benchmarks.report import Row, build_rows, build_table, figures
from benchmarks.targets import Facts
from pipeline.gates import parse_rule
from pipeline.quality import Score

KEYS = [
    "name",
    "params",
    "size_mb",
    "metric",
    "metric_low",
    "metric_high",
    "p50_ms",
    "p95_ms",
    "speedup_p50",
    "p50_ms_short",
    "p95_ms_short",
]
SCORES = {
    "teacher-onnx-fp32": Score("accuracy", 0.9, 0.89, 0.91, n=3000),
    "student-onnx-int8": Score("accuracy", 0.88, 0.87, 0.89, n=3000),
}


def measured(name: str, *, long_ms: float, short_ms: float, n: int) -> Measured:
    samples = {
        16: {"end_to_end": ([int(short_ms * 1e6)] * n,) * 2},
        64: {"end_to_end": ([int(long_ms * 1e6)] * n,) * 2},
    }
    return Measured(
        name=name,
        kind="ort-cpu",
        facts=Facts(digest="d", size_mb=12.5, parameters=22_700_000, providers=()),
        logits_file="logits/x.npy",
        cold_start_ms=(100.0, 300.0, 200.0),
        peak_mb=(90.0, 95.0),
        preempted=(0, 0),
        warm_ups={16: (WarmUp(20, True),), 64: (WarmUp(20, True),)},
        latency={length: {"end_to_end": summarize(each["end_to_end"])} for length, each in samples.items()},
        samples_ns=samples,
        invariance=(Invariance(8, 0, 200, 0.25, 1), Invariance(1, 128, 200, 0.125, 3)),
    )


def receipt(*, n: int = 100) -> Receipt:
    return Receipt(
        started="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        machine=read(),
        disturbance=Disturbance(None, None),
        how=How(Load(), threads=2, cores=(0, 1), order=(), items=3000, distinct={16: 9, 64: 9}),
        variants=(
            measured("teacher-onnx-fp32", long_ms=9.0, short_ms=3.0, n=n),
            measured("student-onnx-int8", long_ms=1.5, short_ms=0.5, n=n),
        ),
    )


def test_a_row_holds_the_long_length_the_short_one_and_the_speed_up() -> None:
    assert build_rows(receipt(), SCORES)[1] == Row(
        name="student-onnx-int8",
        params=22_700_000,
        size_mb=12.5,
        metric=0.88,
        metric_low=0.87,
        metric_high=0.89,
        p50_ms=1.5,
        p95_ms=1.5,
        speedup_p50=6.0,
        p50_ms_short=0.5,
        p95_ms_short=0.5,
    )


def test_without_the_baseline_there_is_no_speed_up() -> None:
    assert build_rows(receipt(), SCORES, baseline="absent")[0].speedup_p50 is None


def test_a_row_has_exactly_the_agreed_keys() -> None:
    assert [list(msgspec.to_builtins(row)) for row in build_rows(receipt(), SCORES)] == [KEYS, KEYS]


def test_the_gate_may_ask_for_every_figure_by_its_name() -> None:
    judged = figures(receipt(), SCORES, metric="accuracy")
    found = merged(judged, timed_figures(receipt()))["student-onnx-int8"]
    assert (found["accuracy_low"], found["p95_ms_high"], found["cold_start_ms"], found["peak_mb"]) == (
        0.87,
        1.5,
        200.0,
        95.0,
    )
    assert (found["batch_difference"], found["batch_flips"]) == (0.25, 3 / 200), "the worst of all batches"
    for name in (each for each in found if "/" not in each):  # a ratio is asked for as `NAME op bound * OTHER`
        assert parse_rule(f"{name} >= 0").metric == name


def test_every_other_figure_of_quality_is_there_with_its_interval() -> None:
    others = {"student-onnx-int8": {"macro_f1": Score("macro_f1", 0.7, 0.6, 0.8, n=3000)}}
    found = figures(receipt(), SCORES, metric="accuracy", others=others)
    student = found["student-onnx-int8"]
    assert (student["macro_f1"], student["macro_f1_low"], student["macro_f1_high"]) == (0.7, 0.6, 0.8)
    assert (student["accuracy"], "macro_f1" in found["teacher-onnx-fp32"]) == (0.88, False)


def test_a_figure_that_cannot_be_reported_is_absent_for_the_gate_and_null_for_machines() -> None:
    few = receipt(n=20)
    found = merged(figures(few, SCORES, metric="accuracy"), timed_figures(few))["student-onnx-int8"]
    assert ("p50_ms" in found, "p95_ms" in found) == (True, False)
    assert build_rows(few, SCORES)[0].p95_ms is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_that_is_no_number_is_absent(value: float) -> None:
    others = {"student-onnx-int8": {"drop": Score("drop", value, value, value, n=3000)}}
    found = figures(receipt(), SCORES, metric="accuracy", others=others)
    assert not {"drop", "drop_low", "drop_high"} & {*found["student-onnx-int8"]}


@pytest.mark.parametrize(("n", "cell"), [(100, "1.50 / 1.50"), (20, "1.50 / -")])
def test_the_table_shows_people_the_numbers_with_their_circumstances(n: int, cell: str) -> None:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(build_table(build_rows(receipt(n=n), SCORES), metric="accuracy", lengths=(16, 64), threads=2))
    text = captured.get()
    (row,) = [line for line in text.splitlines() if "student-onnx-int8" in line]
    cells = re.split(r"\s{2,}", row.strip())
    short = cell.replace("1.50", "0.50")
    assert cells == ["student-onnx-int8", "22.70 M", "12.5", "0.880 [0.870, 0.890]", cell, short, "6.00x"]
    assert "batch 1, 2 threads, end to end; speed-up is over teacher-onnx-fp32" in text
    assert "64 tokens" in text
