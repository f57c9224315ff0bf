"""SmoothQuant through NNCF: alpha is searched, and what it leaves is written so that it runs as integers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from givens import engine_over, furthest_in_a_batch, given_of, given_over, real_bundle
from models import EXPORTED, exported_case, sentences
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from pipeline.quantizing import smoothquant
from pipeline.quantizing.calibration import Range
from pipeline.quantizing.graphs import optimized_operators
from pipeline.quantizing.smoothquant import SmoothQuantRecipe, without_pairs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
PRODUCTS = {"token-classification": 13, "embedding": 12}
TEXTS = sentences(6, seed=5, longest=20)


@pytest.mark.parametrize("name", EXPORTED)
def test_every_kind_of_task_becomes_integers_that_run(
    name: str, tmp_path: Path, base: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case = exported_case(name, base)
    given, source, target = given_of(case, tmp_path), case.bundle / "model.onnx", tmp_path / "model.onnx"

    facts = SmoothQuantRecipe(samples=16, items=16, alphas=(0.5,)).apply(source, target, given)

    wanted = PRODUCTS.get(case.fitted.kind, 14)
    assert facts["operators"]["MatMulIntegerToFloat"] == wanted
    assert optimized_operators(target, tmp_path)["MatMulIntegerToFloat"] == wanted
    assert facts["fused_by_onnxruntime_as_nncf_left_it"]["integer_products"] < wanted
    before, found = (np.concatenate([np.atleast_2d(row) for row in given.dev_logits(g)]) for g in (source, target))
    assert np.corrcoef(before.ravel(), found.ravel())[0, 1] > 0.95
    assert furthest_in_a_batch(engine_over(target, given, tmp_path / "e"), TEXTS, length=64) < 0.02
    assert capfd.readouterr() == ("", "")


def pairs() -> onnx.ModelProto:
    """x, rounded to int8 (scale 0.5, zero 10), times a matrix of int8 with a scale a column."""
    constants = {
        "x_scale": np.float32(0.5),
        "x_zero": np.int8(10),
        "w": np.array([[100, -127], [3, 5]], np.int8),
        "w_scale": np.array([0.1, 2.0], np.float32),
        "w_zero": np.zeros(2, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "x_scale", "x_zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wd"], axis=-1),
        helper.make_node("MatMul", ["d", "wd"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in "xy"]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def test_scales_of_pairs_become_ranges_and_weights_floats_on_their_steps() -> None:
    found = without_pairs(pairs())

    assert found.ranges == {"x": Range((-128 - 10) * 0.5, (127 - 10) * 0.5)}
    assert [node.op_type for node in found.model.graph.node] == ["MatMul"]
    assert list(found.model.graph.node[0].input) == ["x", "wd"]
    weight = numpy_helper.to_array(found.model.graph.initializer[-1])
    np.testing.assert_allclose(weight, [[10.0, -254.0], [0.3, 10.0]], rtol=1e-6)


def test_the_alpha_whose_answers_are_nearest_is_taken(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = exported_case("bert", base)
    source = case.bundle / "model.onnx"

    def shifted(source: Path, target: Path, feeds: Any, *, alpha: float, scratch: Path) -> dict[str, int]:
        """A graph whose answers are off by |alpha - 0.6| in the first label."""
        from pipeline.quantizing.static import StaticRecipe

        StaticRecipe(samples=16).apply(source, target, given_of(case, tmp_path))
        model = onnx.load(target)
        (bias,) = (each for each in model.graph.initializer if each.name == "classifier.bias")
        moved = numpy_helper.to_array(bias) + np.array([10 * abs(alpha - 0.6), 0], np.float32)
        bias.CopyFrom(numpy_helper.from_array(moved, bias.name))
        onnx.save(model, target)
        return {}

    monkeypatch.setattr(smoothquant, "_write", shifted)

    facts = SmoothQuantRecipe(samples=16, items=16).apply(source, tmp_path / "model.onnx", given_of(case, tmp_path))

    assert facts["alpha"] == 0.5
    assert [point["alpha"] for point in facts["curve"]] == [0.25, 0.5, 0.75, 0.9]
    assert min(facts["curve"], key=lambda point: point["divergence"])["alpha"] == 0.5
    assert (tmp_path / "model.onnx").read_bytes() == (tmp_path / "scratch" / "alpha-0.5.onnx").read_bytes()


def test_real_weights_become_integers(tmp_path: Path, base: Path) -> None:
    bundle = real_bundle(base)
    given, source = given_over(bundle, "classification", tmp_path), bundle.path / "model.onnx"

    facts = SmoothQuantRecipe(samples=16, items=16, alphas=(0.5,)).apply(source, tmp_path / "model.onnx", given)

    assert facts["operators"]["MatMulIntegerToFloat"] == 38
    found, before = (np.stack(given.dev_logits(graph)) for graph in (tmp_path / "model.onnx", source))
    assert np.corrcoef(found.ravel(), before.ravel())[0, 1] > 0.97


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fused": True}, "NNCF does not know onnxruntime's fused attention; use fused: false"),
        ({"alphas": ()}, "at least 1 item"),
        ({"alphas": (1.5,)}, "less than or equal to 1"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SmoothQuantRecipe(**settings)
