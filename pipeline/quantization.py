"""Quantization recipes (EXTENSION POINT: a class with `kind` and `apply`, its name in the union at the foot)."""

from pathlib import Path
from typing import Literal

from pipeline.errors import BadArtifact
from pipeline.quiet import below_error_muted
from pipeline.records import Record

FLOAT_WEIGHT_OPS = ("MatMul", "Gemm")


class DynamicRecipe(Record):
    """Weights int8 ahead of time, activations uint8 at run time with one scale a tensor (onnxruntime's dynamic
    quantization).

    `per_channel` gives every output channel its own scale, which is what saves small encoders.
    """

    kind: Literal["dynamic"] = "dynamic"
    per_channel: bool = True

    def apply(self, source: Path, target: Path) -> dict[str, int]:
        """Quantize the graph at `source` into `target`; return how many operators of each kind it now has.

        Raises BadArtifact where nothing was quantized, or where a product with a constant weight stayed fp32.
        """
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        graph = onnx.load(source)
        del graph.graph.value_info[:]  # stale after export: onnxruntime's shape inference stops at it
        with below_error_muted():
            quantize_dynamic(
                graph,
                target,
                per_channel=self.per_channel,
                reduce_range=not _multiplies_int8_exactly(),
                weight_type=QuantType.QInt8,
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )
        return _checked_counts(target)


def _multiplies_int8_exactly() -> bool:
    """Without VNNI or AMX, u8 x s8 products saturate at 16 bits: weights then get 7 bits."""
    from serving.cpu import cpu_features

    return bool({"avx512_vnni", "avx_vnni", "amx_int8"} & cpu_features())


def _checked_counts(path: Path) -> dict[str, int]:
    import onnx

    graph = onnx.load(path).graph
    counts: dict[str, int] = {}
    for node in graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    if not counts.get("MatMulInteger"):
        raise BadArtifact(f"{path}: nothing was quantized; the graph has no MatMul or Gemm with a constant weight")
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:  # in topological order: what is computed from constants alone is one
        if constants.issuperset(node.input):
            constants.update(node.output)
    left = [node for node in graph.node if node.op_type in FLOAT_WEIGHT_OPS and constants & set(node.input[:2])]
    if left:
        raise BadArtifact(f"{path}: {left[0].name or left[0].output[0]} was asked to be int8 and stayed fp32")
    return counts


def qualified_features() -> tuple[str, ...]:
    """The CPU features int8 answers depend on, of this machine: a bundle qualified here is refused where one is
    missing."""
    from serving.cpu import cpu_features

    return tuple(sorted({"avx2", "avx512_vnni", "avx_vnni"} & cpu_features()))


Recipe = DynamicRecipe
