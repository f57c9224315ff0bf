"""Ranges of activations: as onnxruntime finds them where it can, and as their definitions say."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

from pipeline.quantizing.calibration import BINS, Range, find_ranges

RNG = np.random.default_rng(0)
TABLE = RNG.normal(1.0, 2.0, (50, 16)).astype(np.float32)
TEXTS = [{"input_ids": RNG.integers(0, 50, (1, length))} for length in (3, 17, 40, 8, 25, 11)]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of a table, multiplied by a matrix, and their absolute values."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("MatMul", ["rows", "matrix"], ["product"]),
        helper.make_node("Abs", ["product"], ["y"]),
    ]
    made = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", 16])],
        [numpy_helper.from_array(TABLE, "table"), numpy_helper.from_array(np.eye(16, dtype=np.float32), "matrix")],
    )
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx.save(helper.make_model(made, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def found_by(graph: Path, **settings: Any) -> dict[str, Range]:
    return find_ranges(graph, ["rows", "y"], TEXTS, threads=1, **settings)


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self._texts = iter(TEXTS)

    def get_next(self) -> Any:
        return next(self._texts, None)


@pytest.mark.parametrize(("method", "averaged"), [("minmax", False), ("moving-average", True)])
def test_extremes_are_those_that_onnxruntime_finds(method: Any, averaged: bool, graph: Path, tmp_path: Path) -> None:
    calibrator = create_calibrator(
        str(graph),
        ["MatMul", "Abs"],
        str(tmp_path / "augmented.onnx"),
        CalibrationMethod.MinMax,
        extra_options={"moving_average": averaged},
    )
    calibrator.collect_data(Reader())
    data = calibrator.compute_data()

    for name, found in found_by(graph, method=method).items():
        low, high = (float(np.squeeze(end)) for end in data[name].range_value)
        assert found == pytest.approx((min(low, 0), max(high, 0)), rel=1e-6)


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
def test_a_percentile_leaves_the_same_share_out_on_either_side(percentile: float, graph: Path) -> None:
    values = np.concatenate([TABLE[text["input_ids"]].ravel() for text in TEXTS])
    most = (100 - percentile) / 200 * values.size

    low, high = found_by(graph, method="percentile", percentile=percentile)["rows"]

    a_bin = 1.01 * (values.max() - values.min()) / BINS
    assert (values < low).sum() <= most < (values < low + a_bin).sum()
    assert (values > high).sum() <= most < (values > high - a_bin).sum()


def test_zero_lies_in_every_range(graph: Path) -> None:
    for method in ("minmax", "moving-average", "percentile", "entropy"):
        assert found_by(graph, method=method)["y"].low == 0.0  # type: ignore[arg-type]


def test_the_hundredth_percentile_is_minmax(graph: Path) -> None:
    wanted = found_by(graph)["rows"]
    assert found_by(graph, method="percentile", percentile=100.0)["rows"] == pytest.approx(wanted)


def outlying(path: Path, graph: Path, *, outlier: float) -> Path:
    """The same with one value far off."""
    model = onnx.load(graph)
    table = TABLE.copy()
    table[TEXTS[0]["input_ids"][0, 0], 0] = outlier
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(table, "table"))
    onnx.save(model, path)
    return path


def test_entropy_gives_up_an_outlier_and_keeps_the_rest(graph: Path, tmp_path: Path) -> None:
    bulk = float(np.abs(TABLE).max())

    found = found_by(outlying(tmp_path / "model.onnx", graph, outlier=200.0), method="entropy")["rows"]

    assert 0.4 * bulk < found.high < 4 * bulk


def test_memory_does_not_grow_with_the_number_of_texts(graph: Path) -> None:
    import tracemalloc

    def peak(texts: int) -> int:
        tracemalloc.start()
        find_ranges(graph, ["rows", "y"], [TEXTS[2]] * texts, method="entropy", threads=1)
        (_, most), _ = tracemalloc.get_traced_memory(), tracemalloc.stop()
        return most

    peak(2)
    assert peak(200) < peak(20) + 200_000  # two arrays of 40x16 floats a text would be a megabyte
