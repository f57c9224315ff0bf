"""Static int8: the scales of activations are found once, on training texts, so that no answer depends on its batch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from pipeline.errors import BadArtifact, BadRequest
from pipeline.quantizing.base import Method, Need, RecipeBase

if TYPE_CHECKING:
    import onnx

    from pipeline.quantizing.calibration import Range
    from pipeline.quantizing.given import Given
    from pipeline.quantizing.products import Product


class StaticSettings(RecipeBase):
    """`samples` training texts, each alone and unpadded, give the range of every activation (calibration.py says how by
    each method; `percentile` is read by that method only). `exclude` names products that stay fp32."""

    calibration: Method = "minmax"
    samples: int = Field(default=256, ge=16)
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    exclude: tuple[str, ...] = ()

    needs: ClassVar[frozenset[Need]] = frozenset({"calibration"})


class StaticRecipe(StaticSettings):
    """Weights int8 with a scale a column, activations uint8 with a scale a tensor, both found ahead of time."""

    kind: Literal["static"] = "static"

    def apply(self, source: Path, target: Path, given: "Given") -> dict[str, Any]:
        """Quantize every product of the graph at `source` but the excluded ones into `target`."""
        from pipeline.quantizing.graphs import require_quantized

        calibrated = calibrate(self, source, given)
        calibrated.write(target)
        return {"operators": require_quantized(target, excluded=self.exclude), **calibrated.facts}


class Calibrated(NamedTuple):
    """A graph with what is known of its activations; `products` are those that may become integers."""

    path: Path
    model: "onnx.ModelProto"
    products: "tuple[Product, ...]"
    excluded: "tuple[Product, ...]"
    ranges: "dict[str, Range]"
    bits: int
    facts: dict[str, Any]

    def write(self, target: Path, *, kept: "tuple[Product, ...]" = ()) -> None:
        """The graph with all products quantized but the excluded and the `kept` ones."""
        import onnx

        from pipeline.quantizing.products import quantized

        outputs = {product.output for product in (*self.excluded, *kept)}
        onnx.save(quantized(self.model, self.ranges, kept=outputs, bits=self.bits), target)


def calibrate(settings: StaticSettings, source: Path, given: "Given") -> Calibrated:
    """Look at the activations of every product of the graph.

    Raises:
        BadArtifact: no product has a stored weight, or the texts do not serve.
        BadRequest: `exclude` names what is no product.
    """
    from pipeline.quantizing.calibration import find_ranges
    from pipeline.quantizing.graphs import without_value_info
    from pipeline.quantizing.products import products_of
    from pipeline.quantizing.residuals import in_parts

    path = settings.prepared(source, given.scratch)
    model = without_value_info(path)
    in_parts(model.graph)
    every = products_of(model.graph)
    if not every:
        raise BadArtifact(f"{source}: nothing was quantized; the graph has no MatMul or Gemm with a constant weight")
    if unknown := set(settings.exclude) - {product.name for product in every}:
        raise BadRequest(
            f"exclude names {', '.join(sorted(unknown))}, no product of {source}; it has "
            f"{', '.join(product.name for product in every)}"
        )
    feeds = given.calibration(settings.samples)
    ranges = find_ranges(
        path,
        sorted({product.activation for product in every}),
        feeds,
        method=settings.calibration,
        percentile=settings.percentile,
        threads=given.threads,
    )
    texts = {"texts": len(feeds), "tokens": sum(feed["input_ids"].size for feed in feeds)}
    kept = tuple(product for product in every if product.name in settings.exclude)
    products = tuple(product for product in every if product not in kept)
    return Calibrated(path, model, products, kept, ranges, bits=weight_bits(), facts={"calibrated_on": texts})


def weight_bits() -> int:
    """8, or 7 where the CPU's products of 8 bits saturate."""
    from pipeline.quantizing.features import multiplies_int8_exactly

    return 8 if multiplies_int8_exactly() else 7
