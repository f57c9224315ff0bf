"""What a graph must be before it may ship, on graphs built by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import BadArtifact
from pipeline.graph_checks import check_graph, frozen_sizes, require_same_answers, require_same_interface


def small_graph(
    path: Path, *, input_dims: list[Any], output_dims: list[Any], ir: int = 10, opset: int = 20, external: bool = False
) -> Path:
    weight = numpy_helper.from_array(np.zeros((300, 2), np.float32), "weight")
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["weight", "input_ids"], ["all"]),
            helper.make_node("ReduceSum", ["all", "one"], ["logits"], keepdims=0),
        ],
        "small",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, input_dims)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, output_dims)],
        [weight, numpy_helper.from_array(np.array([1], np.int64), "one")],
    )
    model = helper.make_model(graph, ir_version=ir, opset_imports=[helper.make_opsetid("", opset)])
    onnx.save(model, path, save_as_external_data=external, location="weights.bin", size_threshold=100)
    return path


DYNAMIC: dict[str, Any] = {"input_dims": ["batch", "length"], "output_dims": ["batch", 2]}


def test_a_dynamic_graph_in_one_file_passes(tmp_path: Path) -> None:
    check_graph(small_graph(tmp_path / "model.onnx", **DYNAMIC))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"input_dims": [2, "length"]},
            "input input_ids has a fixed batch or length ['', 'length']; the export specialised it",
        ),
        (
            {"input_dims": ["batch", 16]},
            "input input_ids has a fixed batch or length ['batch', '']; the export specialised it",
        ),
        ({"input_dims": ["batch"]}, "input input_ids has a fixed batch or length ['batch']; the export specialised it"),
        ({"output_dims": [2, 2]}, "output logits has a fixed batch or length; the export specialised it"),
        ({"output_dims": ["batch", 16, 2]}, "output logits has a fixed batch or length; the export specialised it"),
        ({"ir": 14}, "IR 14, opset 20; onnxruntime loads up to IR 13, opset 26"),
        ({"opset": 27}, "IR 10, opset 27; onnxruntime loads up to IR 13, opset 26"),
        ({"external": True}, "weight lies outside the file; export with external_data=False"),
    ],
)
def test_a_graph_that_cannot_ship_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = small_graph(tmp_path / "model.onnx", **{**DYNAMIC, **changes})
    with pytest.raises(BadArtifact) as refused:
        check_graph(path)
    assert str(refused.value) == f"{path}: {message}"
    assert refused.value.exit_code == 65


def edited(path: Path, **changes: Any) -> Path:
    """The small graph with these fields of its first node."""
    model = onnx.load(small_graph(path, **DYNAMIC))
    for name, value in changes.items():
        if name == "metadata_props":
            model.graph.node[0].metadata_props.add(key="stack", value=value)
        else:
            setattr(model.graph.node[0], name, value)
    onnx.save(model, path)
    return path


def test_a_custom_operator_is_refused_by_node_and_name(tmp_path: Path) -> None:
    path = edited(tmp_path / "model.onnx", domain="com.example", op_type="Lookup", name="lookup_7")
    with pytest.raises(BadArtifact) as refused:
        check_graph(path)
    assert str(refused.value) == (
        f"{path}: lookup_7 is the custom operator com.example::Lookup, which no engine here computes; "
        "export the model with standard ONNX operators in its place"
    )


def test_a_custom_operator_inside_a_branch_is_found_too(tmp_path: Path) -> None:
    path = small_graph(tmp_path / "model.onnx", **DYNAMIC)
    model = onnx.load(path)
    inner = helper.make_graph(
        [helper.make_node("Guess", [], ["guessed"], domain="com.example")],
        "branch",
        [],
        [helper.make_tensor_value_info("guessed", TensorProto.FLOAT, [1])],
    )
    model.graph.node.append(helper.make_node("If", ["so"], ["chosen"], then_branch=inner, else_branch=inner))
    onnx.save(model, path)
    with pytest.raises(BadArtifact, match=r"guessed is the custom operator com\.example::Guess"):
        check_graph(path)


@pytest.mark.parametrize("changes", [{"metadata_props": "File /somewhere"}, {"doc_string": "File /somewhere"}])
def test_notes_of_where_a_graph_was_made_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    path = edited(tmp_path / "model.onnx", name="rows", **changes)
    with pytest.raises(BadArtifact) as refused:
        check_graph(path)
    assert str(refused.value) == (
        f"{path}: rows carries notes of where it was made; clear its metadata_props and doc_string"
    )


def test_a_node_that_reads_a_size_of_the_example_is_named(tmp_path: Path) -> None:
    path = small_graph(tmp_path / "model.onnx", **DYNAMIC)
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 19], np.int64), "shape"))
    model.graph.node.append(helper.make_node("Reshape", ["all", "shape"], ["flat"]))
    onnx.save(model, path)
    assert frozen_sizes(path, sizes=(5, 19)) == "flat"
    assert frozen_sizes(path, sizes=(5, 18)) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"input_dims": ["batch", "L"], "output_dims": ["batch", 2]},
            "input input_ids is int64 (batch, L); in model.onnx it is int64 (batch, length)",
        ),
        (
            {"input_dims": ["batch", "length"], "output_dims": ["batch", 3]},
            "output logits is float (batch, 3); in model.onnx it is float (batch, 2)",
        ),
    ],
)
def test_other_inputs_or_outputs_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    source, other = small_graph(tmp_path / "model.onnx", **DYNAMIC), small_graph(tmp_path / "other.onnx", **changes)
    require_same_interface(source, small_graph(tmp_path / "same.onnx", **DYNAMIC))
    with pytest.raises(BadArtifact) as refused:
        require_same_interface(source, other)
    assert str(refused.value) == f"{other}: {message}"


def test_an_output_that_is_not_there_is_named(tmp_path: Path) -> None:
    source, other = (small_graph(tmp_path / f"{name}.onnx", **DYNAMIC) for name in ("model", "other"))
    model = onnx.load(other)
    model.graph.output[0].name = "all"
    onnx.save(model, other)
    with pytest.raises(BadArtifact, match=r"(output logits is not there; in model|output all is float .* not there)"):
        require_same_interface(source, other)


@pytest.mark.parametrize(("off", "refused"), [(0.5e-3, False), (2e-3, True), (np.nan, True)])
def test_answers_may_differ_by_a_share_of_the_largest_and_are_numbers(
    off: float, refused: bool, tmp_path: Path
) -> None:
    source, other = (small_graph(tmp_path / f"{name}.onnx", **DYNAMIC) for name in ("model", "other"))
    model = onnx.load(other)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((300, 2), off / 5, np.float32), "weight"))
    onnx.save(model, other)
    if not refused:
        require_same_answers(source, other, share=4e-3, remedy="keep the other")
        return
    message = r"other\.onnx: at batch 1, length 5 with padding it differs from model\.onnx by (0\.002|nan) "
    with pytest.raises(BadArtifact, match=message + r"\(allowed: 0\.001\); keep the other"):
        require_same_answers(source, other, share=1e-3, remedy="keep the other")
