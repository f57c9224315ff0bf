"""Milliseconds node by node."""

from pathlib import Path

import onnx
import pytest
from givens import given_of
from models import exported_case

from pipeline.quantizing.given import Given
from pipeline.quantizing.products import products_of
from pipeline.quantizing.profile import saved_ms
from pipeline.quantizing.static import Calibrated, StaticRecipe, calibrate


@pytest.fixture
def given(tmp_path: Path, base: Path) -> Given:
    return given_of(exported_case("bert", base), tmp_path)


@pytest.fixture
def calibrated(given: Given) -> Calibrated:
    return calibrate(StaticRecipe(samples=16), given.bundle.path / "model.onnx", given)


def test_every_product_is_timed_under_its_name(given: Given, calibrated: Calibrated, tmp_path: Path) -> None:
    calibrated.write(tmp_path / "fp32.onnx", kept=calibrated.products)
    calibrated.write(tmp_path / "int8.onnx")

    fp32, int8 = (given.node_times(tmp_path / f"{name}.onnx") for name in ("fp32", "int8"))

    products = products_of(onnx.load(tmp_path / "fp32.onnx").graph)
    assert {("MatMul", each.name) for each in products if each.kind == "MatMul"} <= fp32.keys()
    assert {("MatMulIntegerToFloat", each.name) for each in products} <= int8.keys()
    assert all(ms > 0 for times in (fp32, int8) for ms in times.values())
    assert not list(given.scratch.glob("profile*"))


def test_what_both_graphs_do_is_no_difference() -> None:
    shared = {("Softmax", "s"): 9.0}
    fp32 = {**shared, ("MatMul", "m"): 5.0, ("Add", "b"): 0.5}
    int8 = {("Softmax", "s"): 7.0, ("MatMulIntegerToFloat", "m"): 2.0, ("QuantizeLinear", "q"): 0.25}

    assert saved_ms(fp32, int8) == 3.25
    assert saved_ms(int8, fp32) == -3.25


@pytest.mark.parametrize("fused", [False, True])
def test_a_product_in_integers_leaves_all_other_nodes_as_they_are(given: Given, fused: bool, tmp_path: Path) -> None:
    found = calibrate(StaticRecipe(samples=16, fused=fused), given.bundle.path / "model.onnx", given)
    product = found.products[-3]
    found.write(tmp_path / "fp32.onnx", kept=found.products)
    found.write(tmp_path / "one.onnx", kept=tuple(each for each in found.products if each != product))

    fp32, one = (given.node_times(tmp_path / f"{name}.onnx") for name in ("fp32", "one"))

    assert ("MatMulIntegerToFloat", product.name) in one.keys() - fp32.keys()
    assert {operator for operator, _ in one.keys() - fp32.keys()} <= {"MatMulIntegerToFloat", "QuantizeLinear", "Gelu"}
    assert {operator for operator, _ in fp32.keys() - one.keys()} <= {"MatMul", "Add", "BiasGelu"}
