"""From an fp32 graph, plain or fused, to one for CUDA in fp16: ids in and fp32 answers out, as before.

A node runs in fp16 where it reads a weight matrix or what such a node computed. The rest keeps fp32, since it would be
wrong in fp16 and costs nothing: positions and their logarithms (DeBERTa-v2's buckets), rotary angles (ModernBERT),
masks, and from a sum over the tokens on (pooling, unit length) everything.

Answers differ from fp32's by about 1e-3 of the largest: fp16 has 11 bits, and rounding adds up over the layers. 2e-2 is
the bound: a lost mask or a wrong position is far beyond it.
"""

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from pipeline.errors import BadArtifact
from pipeline.graph_checks import check_graph, label, nodes_of, require_same_answers, require_same_interface
from pipeline.graph_edits import sweep
from pipeline.quantizing.graphs import operators

SUMS: Final = ("ReduceSum", "ReduceMean", "ReduceL2", "CumSum", "Cast")
"""never in fp16: sums of many tokens, and what says its type itself"""
LARGEST = 65504.0
FAR_BELOW = 1e4
"""what a mask takes from a score in place of fp32's lowest number, which would be minus infinity in fp16: a text of
padding alone in a window would then be NaN"""
SHARE = 2e-2
SERVE_FP32 = "serve it in fp32"


class Kinds(NamedTuple):
    """Names of values that are fp32 in the source graph, and of its constants among them."""

    floats: frozenset[str]
    constants: dict[str, Any]


def to_fp16(source: Path, target: Path) -> dict[str, int]:
    """Write the fp16 form of the graph at `source` to `target`; return how many operators of each kind it has.

    Raises:
        BadArtifact: a weight is beyond fp16, nothing is a product with weights, or the answers differ too much.
    """
    import onnx

    model = onnx.load(source)
    _check_source(source, model.graph)
    _bound_masks(model.graph)
    _convert(model.graph, _kinds(model))
    del model.graph.value_info[:]  # of fp32
    sweep(model)
    onnx.save(model, target)
    check_graph(target)
    require_same_interface(source, target)
    _require_half(target)
    require_same_answers(source, target, share=SHARE, remedy=SERVE_FP32)
    return operators(target)


def _check_source(source: Path, graph: Any) -> None:
    from onnx import numpy_helper

    if inner := [node for node in graph.node if any(each.HasField("g") or each.graphs for each in node.attribute)]:
        raise BadArtifact(f"{source}: {label(inner[0])} holds a graph of its own, which is not converted; {SERVE_FP32}")
    for tensor in (each for each in graph.initializer if _is_matrix(each)):
        largest = float(np.abs(numpy_helper.to_array(tensor)).max(initial=0))
        if largest > LARGEST:
            raise BadArtifact(f"{source}: {tensor.name} holds {largest:g}, beyond fp16's {LARGEST:g}; {SERVE_FP32}")


def _is_matrix(tensor: Any) -> bool:
    import onnx

    return bool(tensor.data_type == onnx.TensorProto.FLOAT and sum(size > 1 for size in tensor.dims) > 1)


def _bound_masks(graph: Any) -> None:
    from onnx import TensorProto, numpy_helper

    for tensor in (each for each in graph.initializer if each.data_type == TensorProto.FLOAT):
        value = numpy_helper.to_array(tensor)
        if value.size == 1 and np.abs(value).max() > LARGEST:
            tensor.CopyFrom(numpy_helper.from_array(np.clip(value, -FAR_BELOW, FAR_BELOW), tensor.name))


def _kinds(model: Any) -> Kinds:
    """As onnxruntime infers them: onnx itself does not know the fused operators."""
    import onnx
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    named = {value.name for value in probe.graph.output}
    inner = dict.fromkeys(name for node in probe.graph.node for name in node.output if name and name not in named)
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, 3
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    constants = {each.name: each for each in model.graph.initializer if each.data_type == onnx.TensorProto.FLOAT}
    computed = {value.name for value in session.get_outputs() if value.type == "tensor(float)"}
    return Kinds(frozenset(computed | constants.keys()), constants)


def _convert(graph: Any, kinds: Kinds) -> None:
    """Rewrite the nodes in their order, with casts where fp16 and fp32 meet."""
    from onnx import TensorProto, numpy_helper

    weights = {name for name, tensor in kinds.constants.items() if _is_matrix(tensor)}
    half: set[str] = set()
    written = _Written(graph)
    for node in list(graph.node):
        runs_half = node.op_type not in SUMS and any(name in half or name in weights for name in node.input)
        for place, name in enumerate(node.input):
            if runs_half and name in kinds.constants:
                node.input[place] = written.constant(name, numpy_helper.to_array(kinds.constants[name]))
            elif name in kinds.floats and runs_half != (name in half) and name not in kinds.constants:
                node.input[place] = written.cast(name, TensorProto.FLOAT16 if runs_half else TensorProto.FLOAT)
        if runs_half:
            half.update(name for name in node.output if name in kinds.floats)
        written.nodes.append(node)
    written.answer_in_fp32(half)
    del graph.node[:]
    graph.node.extend(written.nodes)


class _Written:
    """The new graph as it grows: one cast or fp16 constant for each value that needs one."""

    def __init__(self, graph: Any) -> None:
        self.nodes: list[Any] = []
        self._graph = graph
        self._made: set[str] = set()

    def constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        made = f"{name}_fp16"
        if made not in self._made:
            self._graph.initializer.append(numpy_helper.from_array(value.astype(np.float16), made))
            self._made.add(made)
        return made

    def cast(self, name: str, kind: int) -> str:
        from onnx import TensorProto, helper

        made = f"{name}_{'fp16' if kind == TensorProto.FLOAT16 else 'fp32'}"
        if made not in self._made:
            self.nodes.append(helper.make_node("Cast", [name], [made], made, to=kind))
            self._made.add(made)
        return made

    def answer_in_fp32(self, half: set[str]) -> None:
        """An output that became fp16 is computed under another name and cast back."""
        from onnx import TensorProto, helper

        for name in [value.name for value in self._graph.output if value.name in half]:
            for node in self.nodes:
                node.input[:] = [f"{name}_fp16" if each == name else each for each in node.input]
                node.output[:] = [f"{name}_fp16" if each == name else each for each in node.output]
            self.nodes.append(helper.make_node("Cast", [f"{name}_fp16"], [name], f"{name}_fp32", to=TensorProto.FLOAT))


def _require_half(target: Path) -> None:
    """Every weight matrix is fp16, and there is one."""
    import onnx

    graph = onnx.load(target).graph
    if kept := [tensor.name for tensor in graph.initializer if _is_matrix(tensor)]:
        reader = next(node for node in nodes_of(graph) if kept[0] in node.input)
        raise BadArtifact(f"{target}: {label(reader)} was asked to be fp16 and reads {kept[0]} in fp32; {SERVE_FP32}")
    if not any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer):
        raise BadArtifact(f"{target}: nothing became fp16; the graph has no product with a constant weight")
