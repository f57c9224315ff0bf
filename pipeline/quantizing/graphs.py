"""What a quantized graph must look like."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import BadArtifact

if TYPE_CHECKING:
    import onnx

FLOAT_WEIGHT_OPS: Final = ("MatMul", "Gemm", "FusedMatMul", "Attention")
# What stands for an integer product: of dynamic quantization, fused attention, and where quantized values meet a
# product that the runtime fuses with them (QDQ).
INTEGER_PRODUCTS: Final = (
    *("MatMulInteger", "QAttention", "QLinearMatMul"),
    *("DynamicQuantizeMatMul", "MatMulIntegerToFloat"),
)


def operators(path: Path) -> dict[str, int]:
    """How many operators of each kind a graph has."""
    import onnx

    counts: dict[str, int] = {}
    for node in onnx.load(path, load_external_data=False).graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


def optimized_operators(path: Path, scratch: Path) -> dict[str, int]:
    """How many operators of each kind are left when onnxruntime has loaded the graph: what really runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(scratch / "optimized.onnx")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return operators(scratch / "optimized.onnx")


def without_value_info(path: Path) -> "onnx.ModelProto":
    """The graph without its notes of inner shapes: after an export they are stale, and onnxruntime's shape inference
    stops at them."""
    import onnx

    model = onnx.load(path)
    del model.graph.value_info[:]
    return model


def require_quantized(path: Path, *, excluded: Collection[str] = ()) -> dict[str, int]:
    """The operators of a graph in which every product with a constant weight is one of integers, but for those
    `excluded` by name.

    Raises:
        BadArtifact: nothing was quantized, a product stayed in fp32, or a quantized attention lost its mask.
    """
    import onnx

    graph = onnx.load(path).graph
    constants = _constants(graph)
    quantized = _dequantized(graph.node)
    products = [node for node in graph.node if node.op_type in FLOAT_WEIGHT_OPS and constants & set(node.input[:2])]
    integer = [node for node in products if set(node.input[:2]) <= quantized]
    if not integer and not any(node.op_type in INTEGER_PRODUCTS for node in graph.node):
        raise BadArtifact(f"{path}: nothing was quantized; the graph has no MatMul or Gemm with a constant weight")
    done = {node.output[0] for node in integer}
    left = [node for node in products if node.output[0] not in done and (node.name or node.output[0]) not in excluded]
    if left:
        raise BadArtifact(f"{path}: {left[0].name or left[0].output[0]} was asked to be int8 and stayed fp32")
    _require_masks(path, graph)
    return operators(path)


def _constants(graph: Any) -> set[str]:
    """Names of constants; what is computed from constants alone is one."""
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:  # in topological order
        if constants.issuperset(node.input):
            constants.update(node.output)
    return constants


def _dequantized(nodes: Iterable[Any]) -> set[str]:
    """Values that come out of a DequantizeLinear: a product of two such is computed with integers."""
    return {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}


def _require_masks(path: Path, graph: Any) -> None:
    """onnxruntime's quantizer drops a mask it does not know; padded items would be answered wrongly."""
    if "attention_mask" not in {value.name for value in graph.input}:
        return
    for node in graph.node:
        if node.op_type == "QAttention" and not (len(node.input) > 5 and node.input[5]):
            raise BadArtifact(
                f"{path}: {node.name or node.output[0]} lost its attention mask when it was quantized; use fused: false"
            )
