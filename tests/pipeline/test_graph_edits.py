"""Edits leave the answers alone."""

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.graph_edits import fold_constants, sweep


def model_of(nodes: list[Any], **constants: Any) -> Any:
    """From `x` (N, 2) to `y` (N, 2)."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in ("x", "y")]
    given = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return helper.make_model(helper.make_graph(nodes, "graph", values[:1], values[1:], given))


def constants_of(model: Any) -> dict[str, list[list[float]]]:
    return {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in model.graph.initializer}


@pytest.mark.parametrize(
    ("node", "whole"),
    [
        (helper.make_node("Concat", ["a", "b"], ["made"], axis=1), [[0, 1, 4, 5], [2, 3, 6, 7]]),
        (helper.make_node("Concat", ["a", "b"], ["made"], axis=0), [[0, 1], [2, 3], [4, 5], [6, 7]]),
        (helper.make_node("Transpose", ["a"], ["made"], perm=[1, 0]), [[0, 2], [1, 3]]),
        (helper.make_node("Transpose", ["a"], ["made"]), [[0, 2], [1, 3]]),
    ],
)
def test_what_is_made_of_constants_is_one(node: Any, whole: list[list[float]]) -> None:
    a, b = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    model = model_of([node, helper.make_node("MatMul", ["x", "made"], ["y"])], a=a, b=b)

    fold_constants(model.graph)
    sweep(model)

    assert [each.op_type for each in model.graph.node] == ["MatMul"]
    assert constants_of(model) == {"made": whole}


def test_what_reads_an_input_stays() -> None:
    nodes = [helper.make_node("Concat", ["x", "a"], ["all"], axis=0), helper.make_node("Identity", ["all"], ["y"])]
    model = model_of(nodes, a=np.ones((1, 2), np.float32))
    fold_constants(model.graph)
    assert [each.op_type for each in model.graph.node] == ["Concat", "Identity"]


def test_what_no_output_needs_is_dropped_with_what_only_it_needs() -> None:
    nodes = [
        helper.make_node("Add", ["x", "unread"], ["first"]),
        helper.make_node("Neg", ["first"], ["second"]),
        helper.make_node(
            "SkipLayerNormalization", ["x", "x", "read"], ["y", "mean", "", "sum"], domain="com.microsoft"
        ),
    ]
    model = model_of(nodes, read=np.ones(2, np.float32), unread=np.ones(2, np.float32))

    sweep(model)

    (node,) = model.graph.node
    assert (node.op_type, list(node.output)) == ("SkipLayerNormalization", ["y"])
    assert constants_of(model).keys() == {"read"}


def test_notes_are_dropped_everywhere() -> None:
    model = model_of([helper.make_node("Identity", ["x"], ["y"], doc_string="File /somewhere")])
    for noted in (model, model.graph, *model.graph.node, *model.graph.input):
        noted.metadata_props.add(key="trace", value="File /somewhere")

    sweep(model)

    assert b"somewhere" not in model.SerializeToString()
