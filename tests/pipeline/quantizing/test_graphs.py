"""What a quantized graph must look like, and what of it runs."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import BadArtifact
from pipeline.quantizing.graphs import operators, optimized_operators, require_quantized, without_value_info

W = np.eye(4, dtype=np.float32)


def saved(path: Path, nodes: list[Any], *, inputs: tuple[str, ...] = ("x",), **constants: np.ndarray) -> Path:
    """A graph from x, (batch, 4), to y."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in (*inputs, "y")]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "small", ends[:-1], ends[-1:], tensors)
    graph.value_info.append(helper.make_tensor_value_info("inner", TensorProto.FLOAT, ["batch", 4]))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=opsets), path)
    return path


def integer(x: str, y: str, name: str) -> Any:
    return helper.make_node("MatMulIntegerToFloat", [x, "i", "s", "s"], [y], name, domain="com.microsoft")


def refusal(path: Path, **settings: Any) -> str:
    with pytest.raises(BadArtifact) as refused:
        require_quantized(path, **settings)
    return str(refused.value)


def test_operators_are_counted(tmp_path: Path) -> None:
    nodes = [helper.make_node("Abs", ["x"], ["inner"]), helper.make_node("Abs", ["inner"], ["y"])]
    assert operators(saved(tmp_path / "a.onnx", nodes)) == {"Abs": 2}


def test_what_runs_is_what_is_left_after_the_runtimes_own_fusions(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["inner"]), helper.make_node("Abs", ["inner"], ["y"])]
    assert optimized_operators(saved(tmp_path / "a.onnx", nodes), tmp_path) == {"Abs": 1}


def test_notes_of_inner_shapes_are_dropped(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.onnx", [helper.make_node("Abs", ["x"], ["y"])])
    assert not without_value_info(path).graph.value_info


def test_a_graph_of_floats_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], w=W)
    assert refusal(path) == f"{path}: nothing was quantized; the graph has no MatMul or Gemm with a constant weight"


def test_a_product_left_in_fp32_is_named_unless_it_is_excluded(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["inner"], "left"), integer("inner", "y", "done")]
    path = saved(tmp_path / "a.onnx", nodes, w=W)

    assert refusal(path) == f"{path}: left was asked to be int8 and stayed fp32"
    assert require_quantized(path, excluded=("left",)) == {"MatMul": 1, "MatMulIntegerToFloat": 1}


def test_a_product_of_two_activations_is_nobodys_business(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "x"], ["inner"]), integer("inner", "y", "done")]
    assert require_quantized(saved(tmp_path / "a.onnx", nodes))["MatMul"] == 1


@pytest.mark.parametrize(("mask", "kept"), [("attention_mask", True), ("", False)])
def test_quantized_attention_must_have_its_mask(mask: str, kept: bool, tmp_path: Path) -> None:
    inputs = ["x", "i", "b", "s", "s", mask, "z", "z"]
    node = helper.make_node("QAttention", inputs, ["y"], "one", domain="com.microsoft", num_heads=1)
    path = saved(tmp_path / "a.onnx", [node], inputs=("x", "attention_mask"))

    if kept:
        assert require_quantized(path) == {"QAttention": 1}
    else:
        assert refusal(path) == f"{path}: one lost its attention mask when it was quantized; use fused: false"
