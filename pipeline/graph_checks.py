"""What a graph must be before it may ship, read from the file or run beside the graph it was made from: every
post-condition is an error that names the node and the way out. Shapes: N texts, L tokens."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.errors import BadArtifact

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Feed = dict[str, Ints]
MAX_IR, MAX_OPSET = 13, 26  # what onnxruntime 1.31 loads
KNOWN_DOMAINS: Final = ("", "ai.onnx", "com.microsoft")
SHAPES: Final = ((1, 5), (3, 33))
"""(N, L) at which a graph must answer as the one it was made from; the batch is padded"""


def check_graph(path: Path) -> None:
    """The file stands alone, is within what the runtime loads, has standard operators alone, names batch and length as
    symbols, and does not say where it was made."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    _check_versions(path, model)
    if outside := [tensor.name for tensor in model.graph.initializer if tensor.external_data]:
        raise BadArtifact(f"{path}: {outside[0]} lies outside the file; export with external_data=False")
    for node in nodes_of(model.graph):
        _check_node(path, node)
    symbols = {value.name: [d.dim_param for d in value.type.tensor_type.shape.dim] for value in model.graph.input}
    if fixed := [name for name, dims in symbols.items() if len(dims) != 2 or not all(dims)]:
        raise BadArtifact(
            f"{path}: input {fixed[0]} has a fixed batch or length {symbols[fixed[0]]}; the export specialised it"
        )
    output = model.graph.output[0]
    dims = output.type.tensor_type.shape.dim
    if not all(dim.dim_param for dim in dims[:-1]):
        raise BadArtifact(f"{path}: output {output.name} has a fixed batch or length; the export specialised it")


def _check_versions(path: Path, model: Any) -> None:
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if model.ir_version > MAX_IR or opset > MAX_OPSET:
        raise BadArtifact(
            f"{path}: IR {model.ir_version}, opset {opset}; onnxruntime loads up to IR {MAX_IR}, opset {MAX_OPSET}"
        )


def _check_node(path: Path, node: Any) -> None:
    if node.domain not in KNOWN_DOMAINS:
        raise BadArtifact(
            f"{path}: {label(node)} is the custom operator {node.domain}::{node.op_type}, which no engine here "
            "computes; export the model with standard ONNX operators in its place"
        )
    if node.metadata_props or node.doc_string:
        raise BadArtifact(
            f"{path}: {label(node)} carries notes of where it was made; clear its metadata_props and doc_string"
        )


def label(node: Any) -> str:
    """A node by its name, or where it has none by what it computes."""
    return str(node.name or node.output[0])


def nodes_of(graph: Any) -> Iterator[Any]:
    """Every node, those of branches and loops too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes_of(inner)


def frozen_sizes(path: Path, *, sizes: Sequence[int]) -> str | None:
    """The first node that reads a constant shape with one of these numbers in it: those of the example the exporter was
    shown; None where there is none."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    lists = (t for t in graph.initializer if t.data_type == onnx.TensorProto.INT64 and len(t.dims) == 1)
    frozen = {t.name for t in lists if set(sizes) & set(numpy_helper.to_array(t).tolist())}
    return next((label(node) for node in graph.node if frozen & set(node.input)), None)


def require_same_interface(source: Path, target: Path) -> None:
    """The same inputs and outputs with the same types, and their dimensions under the same names."""
    wanted, found = _interface(source), _interface(target)
    for name in wanted.keys() | found.keys():
        if wanted.get(name) != found.get(name):
            raise BadArtifact(
                f"{target}: {name} is {found.get(name, 'not there')}; in {source.name} it is "
                f"{wanted.get(name, 'not there')}"
            )


def _interface(path: Path) -> dict[str, str]:
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    kinds = (("input", graph.input), ("output", graph.output))
    return {f"{kind} {value.name}": _described(value) for kind, values in kinds for value in values}


def _described(value: Any) -> str:
    import onnx

    tensor = value.type.tensor_type
    dims = ", ".join(str(dim.dim_param or dim.dim_value) for dim in tensor.shape.dim)
    return f"{onnx.TensorProto.DataType.Name(tensor.elem_type).lower()} ({dims})"


def require_same_answers(source: Path, target: Path, *, share: float, remedy: str) -> None:
    """Both graphs answer random ids alike, padding beside them: outputs differ by at most `share` of the largest (of 1
    at least); those of padding mean nothing."""
    feeds = [random_feed(source, rows=rows, length=length) for rows, length in SHAPES]
    masks = [feed["attention_mask"] for feed in feeds]
    for mask_NL, wanted, found in zip(masks, run(source, feeds), run(target, feeds), strict=True):
        wanted, found = _real(wanted, mask_NL), _real(found, mask_NL)
        largest, difference = max(1.0, float(np.abs(wanted).max())), float(np.abs(wanted - found).max())
        if not difference <= share * largest:  # NaN is no answer either
            rows, length = mask_NL.shape
            raise BadArtifact(
                f"{target}: at batch {rows}, length {length} with padding it differs from {source.name} by "
                f"{difference:.3g} (allowed: {share * largest:.3g}); {remedy}"
            )


def random_feed(path: Path, *, rows: int, length: int) -> Feed:
    """Ids within the graph's own tables (rows, length), every row but the first padded."""
    import onnx

    graph, random = onnx.load(path, load_external_data=False).graph, np.random.default_rng(0)
    rows_of = {tensor.name: tensor.dims[0] for tensor in graph.initializer if len(tensor.dims) == 2}
    tables = {node.input[1]: rows_of.get(node.input[0], 1) for node in graph.node if node.op_type == "Gather"}
    lengths = np.linspace(length, 1, rows).astype(np.int64)
    mask_NL = (np.arange(length) < lengths[:, None]).astype(np.int64)
    feed = {value.name: random.integers(0, tables.get(value.name, 1), mask_NL.shape) for value in graph.input}
    return {**feed, "attention_mask": mask_NL}


def run(path: Path, feeds: Sequence[Feed]) -> list[Floats]:
    """The first output of a graph for each feed, on this CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    read = [value.name for value in session.get_inputs()]
    return [session.run(None, {name: feed[name] for name in read})[0] for feed in feeds]


def _real(outputs: Floats, mask_NL: Ints) -> Floats:
    """Of (N, L, C) the real tokens' (tokens, C); of (N, C) all."""
    return outputs[mask_NL.astype(bool)] if outputs.ndim == 3 else outputs
