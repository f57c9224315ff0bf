"""Residual sums in parts: the same numbers, and no SkipLayerNormalization when onnxruntime has loaded them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from models import Exported
from onnx import TensorProto, helper, numpy_helper

from pipeline.fusing import fuse
from pipeline.quantizing.graphs import optimized_operators
from pipeline.quantizing.residuals import in_parts

RNG = np.random.default_rng(0)
X, Y = (RNG.normal(0, 1, (2, 3, 8)).astype(np.float32) for _ in range(2))
VECTORS = {name: RNG.normal(1, 0.2, 8).astype(np.float32) for name in ("weight", "shift", "bias")}


def graph_of(node: Any) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "length", 8]) for name in ("x", "y", "z")]
    constants = [numpy_helper.from_array(array, name) for name, array in VECTORS.items()]
    graph = helper.make_graph([node], "small", ends[:2], ends[2:], constants)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, ir_version=10, opset_imports=opsets)


def run(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": X, "y": Y})[0])


@pytest.mark.parametrize("biased", [False, True])
def test_a_skip_is_a_sum_and_a_normalisation(biased: bool) -> None:
    inputs = ["x", "y", "weight", "shift", *(["bias"] if biased else [])]
    model = graph_of(helper.make_node("SkipLayerNormalization", inputs, ["z"], domain="com.microsoft", epsilon=0.01))
    before = run(model)

    in_parts(model.graph)

    assert [node.op_type for node in model.graph.node] == ["Add"] * biased + ["Sum", "LayerNormalization"]
    np.testing.assert_allclose(run(model), before, atol=1e-5)


def test_a_skip_whose_sum_is_read_too_stays() -> None:
    inputs, outputs = ["x", "y", "weight", "shift"], ["z", "", "", "sum"]
    model = graph_of(helper.make_node("SkipLayerNormalization", inputs, outputs, domain="com.microsoft"))
    in_parts(model.graph)
    assert [node.op_type for node in model.graph.node] == ["SkipLayerNormalization"]


def test_a_gelu_with_a_bias_is_a_sum_and_a_gelu() -> None:
    node = helper.make_node("BiasGelu", ["x", "bias"], ["z"], domain="com.microsoft")
    model = graph_of(node)
    before = run(model)

    in_parts(model.graph)

    assert [node.op_type for node in model.graph.node] == ["Add", "Gelu"]
    np.testing.assert_allclose(run(model), before, atol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_onnxruntime_does_not_put_them_together_again(exported: Exported, tmp_path: Path, fused: bool) -> None:
    source = exported.bundle / "model.onnx"
    if fused:
        fuse(source, tmp_path / "fused.onnx")
        source = tmp_path / "fused.onnx"
    model = onnx.load(source)
    in_parts(model.graph)
    onnx.save(model, tmp_path / "parts.onnx")

    assert "SkipLayerNormalization" in optimized_operators(source, tmp_path)
    assert "SkipLayerNormalization" not in optimized_operators(tmp_path / "parts.onnx", tmp_path)
