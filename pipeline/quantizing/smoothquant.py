"""SmoothQuant (2211.10438): a part of the activations' spread moves into the weights before both are quantized."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator

from pipeline.errors import BadArtifact
from pipeline.quantizing.base import Need, RecipeBase

if TYPE_CHECKING:
    import onnx

    from pipeline.quantizing.calibration import Range
    from pipeline.quantizing.given import Feed, Given

Alpha = Annotated[float, Field(ge=0, le=1)]


class SmoothQuantRecipe(RecipeBase):
    """NNCF smooths the graph, corrects its biases and finds its ranges on `samples` training texts, once for each of
    `alphas` (0: nothing moves; 1: all of it); the one whose answers on dev are nearest to fp32's stays.

    NNCF leaves pairs of QuantizeLinear and DequantizeLinear, of which onnxruntime fuses about half and is then slower
    than in fp32; its scales are written as products of integers instead, as `static` writes them.
    """

    kind: Literal["smoothquant"] = "smoothquant"
    alphas: Annotated[tuple[Alpha, ...], Field(min_length=1)] = (0.25, 0.5, 0.75, 0.9)
    samples: int = Field(default=256, ge=16)
    items: int = Field(default=256, ge=16, description="of dev, to compare the alphas by")

    needs: ClassVar[frozenset[Need]] = frozenset({"calibration", "dev"})

    @field_validator("fused")
    @classmethod
    def _plain_alone(cls, fused: bool) -> bool:
        if fused:
            raise ValueError("NNCF does not know onnxruntime's fused attention; use fused: false")
        return fused

    def apply(self, source: Path, target: Path, given: "Given") -> dict[str, Any]:
        """Write the graph of the best alpha.

        Raises:
            BadRequest: NNCF is not installed.
            BadArtifact: nothing was quantized.
        """
        import shutil

        from pipeline.quantizing.graphs import require_quantized
        from pipeline.quantizing.sensitivity import divergence

        feeds, wanted = given.calibration(self.samples), given.dev_logits(source, limit=self.items)
        curve, as_left = [], {}
        for alpha in self.alphas:
            graph = given.scratch / f"alpha-{alpha}.onnx"
            as_left = _write(source, graph, feeds, alpha=alpha, scratch=given.scratch)
            found = given.dev_logits(graph, limit=self.items)
            curve.append({"alpha": alpha, "divergence": divergence(wanted, found, task=given.spec.task)})
        best = min(curve, key=lambda point: point["divergence"])["alpha"]
        shutil.copyfile(given.scratch / f"alpha-{best}.onnx", target)
        facts = {"alpha": best, "curve": curve, "fused_by_onnxruntime_as_nncf_left_it": as_left}
        return {"operators": require_quantized(target), **facts}


class Smoothed(NamedTuple):
    """A graph of floats whose weights lie on NNCF's int8 steps, and the ranges it found."""

    model: "onnx.ModelProto"
    ranges: "dict[str, Range]"


def _write(source: Path, target: Path, feeds: "Sequence[Feed]", *, alpha: float, scratch: Path) -> dict[str, int]:
    """The graph smoothed by `alpha`, with products of integers; how onnxruntime would have fused NNCF's own."""
    import onnx

    from pipeline.quantizing.graphs import INTEGER_PRODUCTS, optimized_operators
    from pipeline.quantizing.products import products_of, quantized
    from pipeline.quantizing.static import weight_bits

    pairs = _smoothed_by_nncf(source, feeds, alpha=alpha)
    onnx.save(pairs, scratch / "nncf.onnx")
    found = optimized_operators(scratch / "nncf.onnx", scratch)
    smoothed = without_pairs(pairs)
    if not smoothed.ranges:
        raise BadArtifact(f"{source}: nothing was quantized; the graph has no MatMul or Gemm with a constant weight")
    unknown = {each.output for each in products_of(smoothed.model.graph) if each.activation not in smoothed.ranges}
    onnx.save(quantized(smoothed.model, smoothed.ranges, kept=unknown, bits=weight_bits()), target)
    done = sum(found.get(kind, 0) for kind in INTEGER_PRODUCTS)
    return {"integer_products": done, "dequantized": found.get("DequantizeLinear", 0)}


def _smoothed_by_nncf(source: Path, feeds: "Sequence[Feed]", *, alpha: float) -> "onnx.ModelProto":
    """Products of two activations and look-ups stay as they are."""
    import onnx

    from pipeline.quantizing.graphs import without_value_info
    from pipeline.quantizing.products import products_of
    from pipeline.quantizing.residuals import in_parts
    from pipeline.quantizing.silent_nncf import silent_nncf

    model = without_value_info(source)
    in_parts(model.graph)
    weighted = {product.output for product in products_of(model.graph)}
    others = [node.name for node in model.graph.node if node.op_type == "MatMul" and node.output[0] not in weighted]
    with silent_nncf() as nncf:
        found: onnx.ModelProto = nncf.quantize(
            model,
            nncf.Dataset(list(feeds)),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(feeds),
            ignored_scope=nncf.IgnoredScope(names=others, types=["Gather"], validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=alpha)
            ),
        )
    return found


def without_pairs(model: "onnx.ModelProto") -> Smoothed:
    """The graph without its pairs of QuantizeLinear and DequantizeLinear: weights become floats again, and the ranges
    of the activations are those that the scales meant."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made_by = {node.output[0]: node for node in graph.node}
    ranges: dict[str, Range] = {}
    plain: dict[str, str] = {}
    for node in [each for each in graph.node if each.op_type == "DequantizeLinear"]:
        scale, zero = constants[node.input[1]], constants[node.input[2]]
        if node.input[0] not in constants:
            plain[node.output[0]] = before = made_by[node.input[0]].input[0]
            ranges[before] = _range_of(scale, zero)
        else:
            steps = constants[node.input[0]]
            axis = next((each.i for each in node.attribute if each.name == "axis"), 1) % max(steps.ndim, 1)
            shape = [-1 if place == axis and scale.ndim else 1 for place in range(steps.ndim)]
            weight = (steps.astype(np.float32) - zero.reshape(shape)) * scale.reshape(shape)
            graph.initializer.append(numpy_helper.from_array(weight, node.output[0]))
    left = [node for node in graph.node if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    for node in left:
        node.input[:] = [plain.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend(left)
    opsets = list(model.opset_import)
    return Smoothed(onnx.helper.make_model(graph, ir_version=model.ir_version, opset_imports=opsets), ranges)


def _range_of(scale: Any, zero: Any) -> "Range":
    """The smallest and the largest value that 256 steps reach."""
    import numpy as np

    from pipeline.quantizing.calibration import STEPS, Range

    least = np.iinfo(zero.dtype).min - int(zero)
    return Range(least * float(scale), (least + STEPS - 1) * float(scale))
