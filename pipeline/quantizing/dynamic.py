"""Dynamic int8: the scales of activations are found at run time, one a tensor."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.quantizing.base import RecipeBase
from pipeline.quiet import below_error_muted

if TYPE_CHECKING:
    from pipeline.quantizing.given import Given


class DynamicRecipe(RecipeBase):
    """Weights int8 ahead of time, activations uint8 at run time with one scale a tensor (onnxruntime's dynamic
    quantization).

    `per_channel` gives every output channel its own scale, which is what saves small encoders.
    """

    kind: Literal["dynamic"] = "dynamic"
    per_channel: bool = True

    def apply(self, source: Path, target: Path, given: "Given") -> dict[str, Any]:
        """Quantize the graph at `source` into `target`."""
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        from pipeline.quantizing.features import multiplies_int8_exactly
        from pipeline.quantizing.graphs import require_quantized, without_value_info
        from pipeline.quantizing.residuals import in_parts

        model = without_value_info(self.prepared(source, given.scratch))
        in_parts(model.graph)
        with below_error_muted():
            quantize_dynamic(
                model,
                target,
                per_channel=self.per_channel,
                reduce_range=not multiplies_int8_exactly(),
                weight_type=QuantType.QInt8,
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )
        return {"operators": require_quantized(target)}
