"""Variants beside their fp32, as a table and as records of the JSON line."""

import re
from typing import Any

import msgspec
from rich.console import Console

from benchmarks.beside import Beside, build_beside, build_beside_table

TEACHER, SMALL, INT8 = "teacher-onnx-fp32", "student-onnx-fp32", "student-onnx-int8"
ENDS = {"drop": 0.004, "drop_low": -0.0002, "drop_high": 0.009, "flips": 0.02, "flips_low": 0.015, "flips_high": 0.025}
FIGURES = {
    TEACHER: {"accuracy": 0.9, "ece": 0.05},
    SMALL: {"accuracy": 0.88, "ece": 0.04, "drop": 0.0, "flips": 0.0},
    INT8: {"accuracy": 0.876, "ece": 0.06, **ENDS, "batch_difference": 0.25, "batch_flips": 0.01},
    "teacher-torch-fp32": {"accuracy": 0.9, "drop": 0.0, "flips": 0.0},
}
COMPARED: dict[str, Any] = {
    "teacher-torch-fp32": {"against": TEACHER},
    INT8: {"against": SMALL, "mcnemar": {"only_a": 3, "only_b": 7, "p_value": 0.34}},
}
NUMBERS = {
    SMALL: {"spearman": 0.8, "batch_flips": 0.0},
    INT8: {"spearman": 0.79, "drop": 0.01, "drop_low": 0.0, "drop_high": 0.02, "batch_difference": 0.1}
    | {"batch_flips": 0.0},
}


def lines(beside: tuple[Beside, ...]) -> list[list[str]]:
    console = Console(width=150)
    with console.capture() as captured:
        console.print(build_beside_table(beside, metric="accuracy"))
    return [re.split(r"\s{2,}", line.strip()) for line in captured.get().splitlines() if line.strip()]


def test_only_what_is_served_stands_beside_its_fp32() -> None:
    assert build_beside(FIGURES, COMPARED) == (
        Beside(INT8, SMALL, **ENDS, mcnemar_p=0.34, ece=0.06, ece_fp32=0.04, batch_difference=0.25, batch_flips=0.01),
    )


def test_what_a_task_does_not_have_is_not_in_the_record() -> None:
    """Numbers do not flip, in no batch either."""
    (told,) = build_beside(NUMBERS, {INT8: {"against": SMALL}})
    assert msgspec.to_builtins(told) == (
        {"name": INT8, "fp32": SMALL, "drop": 0.01, "drop_low": 0.0, "drop_high": 0.02, "batch_difference": 0.1}
    )


def test_the_table_has_a_row_a_variant_and_says_beside_what() -> None:
    found = lines(build_beside(FIGURES, COMPARED))
    assert found[0] == ["each beside its own ONNX fp32, on the same items"]
    assert found[1][:4] == ["drop of accuracy", "McNemar", "flips", "calibration error"]
    assert found[-1] == [
        INT8,
        "0.004 [0.000, 0.009]",
        "0.340",
        "0.020 [0.015, 0.025]",
        "0.060 (0.040)",
        "0.250",
        "0.010",
    ]


def test_a_column_that_no_variant_fills_is_left_out() -> None:
    found = lines(build_beside(NUMBERS, {INT8: {"against": SMALL}}))
    assert found[1] == ["drop of accuracy", "in batches:"]
    assert found[-1] == [INT8, "0.010 [0.000, 0.020]", "0.100"]


def test_a_drop_that_is_not_known_is_a_dash() -> None:
    """Where one of two has no metric, as a correlation of answers that are all equal."""
    beside = (*build_beside(FIGURES, COMPARED), Beside("other-onnx-int8", "other-onnx-fp32"))
    assert lines(beside)[-1] == ["other-onnx-int8", *"------"]
