"""Products with constant weights as products of integers: equal to the same with rounded operands, however written."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.quantizing.calibration import Range
from pipeline.quantizing.products import int8_columns, products_of, quantized, scale_and_zero

RNG = np.random.default_rng(0)
X = RNG.normal(0.3, 1.0, (2, 5, 8)).astype(np.float32)
W = RNG.normal(0, 1, (8, 6)).astype(np.float32)
B = RNG.normal(0, 1, 6).astype(np.float32)
RANGE = Range(-4.0, 5.0)


def model_of(nodes: list[Any], *, axes: int = 3, **constants: np.ndarray) -> onnx.ModelProto:
    """A graph from x to y."""
    dims = ["batch", "length", 8][-axes:]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*dims[:-1], "columns"])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, ir_version=10, opset_imports=opsets)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def rounded(x: np.ndarray) -> np.ndarray:
    scale, zero = scale_and_zero(RANGE)
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale


def wanted(x: np.ndarray, bits: int = 8) -> np.ndarray:
    integers, scales = int8_columns(W, bits=bits)
    return rounded(x) @ (integers * scales)


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_a_product_equals_that_of_its_rounded_operands() -> None:
    model = quantized(model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], w=W), {"x": RANGE})

    assert kinds(model) == ["QuantizeLinear", "MatMulIntegerToFloat"]
    np.testing.assert_allclose(run(model, X), wanted(X), atol=1e-4)
    assert np.abs(run(model, X) - X @ W).max() > 1e-3


def test_a_bias_that_follows_becomes_a_part_of_it() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["b", "p"], ["y"])]
    model = quantized(model_of(nodes, w=W, b=B), {"x": RANGE})

    assert kinds(model) == ["QuantizeLinear", "MatMulIntegerToFloat"]
    np.testing.assert_allclose(run(model, X), wanted(X) + B, atol=1e-4)


def test_a_bias_stays_behind_where_the_product_is_read_twice() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["q"]),
        helper.make_node("Mul", ["p", "q"], ["y"]),
    ]
    model = quantized(model_of(nodes, w=W, b=B), {"x": RANGE})

    assert kinds(model) == ["QuantizeLinear", "MatMulIntegerToFloat", "Add", "Mul"]
    np.testing.assert_allclose(run(model, X), wanted(X) * (wanted(X) + B), atol=1e-3)


def test_an_activation_that_several_products_read_is_rounded_once() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("MatMul", ["x", "w"], ["q"]),
        helper.make_node("Add", ["p", "q"], ["y"]),
    ]
    model = quantized(model_of(nodes, w=W), {"x": RANGE})
    assert kinds(model).count("QuantizeLinear") == 1
    assert len(model.graph.initializer) == 5  # scale and zero of x; matrix, scales and zeros of w
    np.testing.assert_allclose(run(model, X), 2 * wanted(X), atol=1e-4)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_a_gemm_is_one_too(turned: bool, biased: bool) -> None:
    node = helper.make_node("Gemm", ["x", "w", *(["b"] if biased else [])], ["y"], transB=int(turned))
    weight = np.ascontiguousarray(W.T) if turned else W
    model = quantized(model_of([node], axes=2, w=weight, **({"b": B} if biased else {})), {"x": RANGE})

    assert kinds(model) == ["QuantizeLinear", "MatMulIntegerToFloat"]
    np.testing.assert_allclose(run(model, X[0]), wanted(X[0]) + (B if biased else 0), atol=1e-4)


@pytest.mark.parametrize("changed", [{"alpha": 2.0}, {"beta": 0.5}, {"transA": 1}])
def test_a_gemm_that_says_more_is_left_alone(changed: dict[str, Any]) -> None:
    model = model_of([helper.make_node("Gemm", ["x", "w", "b"], ["y"], **changed)], axes=2, w=W, b=B)
    assert products_of(model.graph) == []


def test_what_is_kept_stays_as_it_is() -> None:
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"], name="only")], w=W)
    assert quantized(model, {"x": RANGE}, kept={"y"}).graph.node[0].name == "only"
    np.testing.assert_array_equal(run(quantized(model, {"x": RANGE}, kept={"y"}), X), run(model, X))


def test_the_model_that_was_given_is_left_alone() -> None:
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], w=W)
    before = model.SerializeToString()
    quantized(model, {"x": RANGE})
    assert model.SerializeToString() == before


@pytest.mark.parametrize(("bits", "most"), [(8, 127), (7, 63)])
def test_columns_are_rounded_in_steps_of_their_own(bits: int, most: int) -> None:
    matrix = np.array([[1.0, 0.0, -300.0], [-0.5, 0.0, 150.0]], np.float32)
    integers, scales = int8_columns(matrix, bits=bits)

    assert np.abs(integers).max(axis=0).tolist() == [most, 0, most]
    assert scales[1] == 1
    np.testing.assert_allclose(integers * scales, matrix, atol=float(scales.max()) / 2)


@pytest.mark.parametrize("ends", [(-1.0, 3.0), (0.0, 7.0), (-2.0, 0.0), (0.0, 0.0)])
def test_zero_is_a_step(ends: tuple[float, float]) -> None:
    scale, zero = scale_and_zero(Range(*ends))
    assert scale > 0
    assert ends[0] == pytest.approx((0 - int(zero)) * float(scale), abs=float(scale) / 2)


def attention(**attributes: Any) -> onnx.ModelProto:
    """Self-attention of four heads over x, (2, 5, 8), with its mask as a constant."""
    packed, bias = RNG.normal(0, 0.5, (8, 24)).astype(np.float32), np.zeros(24, np.float32)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
    node = helper.make_node(
        "Attention", ["x", "w", "b", "mask"], ["y"], "one", domain="com.microsoft", num_heads=4, **attributes
    )
    return model_of([node], w=packed, b=bias, mask=mask)


def test_attention_keeps_its_mask() -> None:
    model = attention()
    found = quantized(model, {"x": RANGE})

    assert kinds(found) == ["QuantizeLinear", "QAttention"]
    np.testing.assert_allclose(run(found, X), run(model, X), atol=0.15)
    moved = X.copy()
    moved[1, 3:] += 1.0  # what is masked
    np.testing.assert_allclose(run(found, moved)[1, :3], run(found, X)[1, :3], atol=1e-5)


def test_attention_whose_integer_form_would_say_less_is_left_alone() -> None:
    assert products_of(attention(scale=0.3).graph) == []
    assert products_of(attention(qkv_hidden_sizes=[8, 8, 8]).graph) == []


def test_a_graph_is_written_for_the_runtime_that_reads_it(tmp_path: Path) -> None:
    model = quantized(model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], w=W), {"x": RANGE})
    assert model.ir_version == 10
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 20, "com.microsoft": 1}
