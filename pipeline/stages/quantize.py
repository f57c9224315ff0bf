"""quantize: a smaller, faster bundle from an exported one; leaves `bundle/` with golden answers of its own."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.quantization import DynamicRecipe, Recipe

if TYPE_CHECKING:
    from pipeline.graph import Inputs, Tools

QuantizeConfig = Recipe
# Thread counts change the order of the fp32 sums between int8 products, and one more or less in a rounded activation
# is worth this many times what fp32 may differ by; on the CPUs the bundle allows, nothing else may.
INT8_OVER_FP32 = 500


def run(config: DynamicRecipe, inputs: "Inputs", out: Path, tools: "Tools") -> dict[str, Any]:
    """Apply the recipe and seal the result with the logits it gives here and the CPU features they were earned with."""
    import msgspec

    from pipeline.errors import BadArtifact
    from pipeline.exporting import golden_of
    from pipeline.quantization import qualified_features
    from serving.bundle import OPTIONAL, read_bundle, seal_core
    from serving.engine import Engine, check_golden

    source = read_bundle(inputs.artifacts["bundle"].path / "bundle")
    bundle = out / "bundle"
    bundle.mkdir()
    for name in ("config.json", "tokenizer.json", *OPTIONAL):
        if (source.path / name).is_file():
            shutil.copyfile(source.path / name, bundle / name)
    with tools.reporter.bar("quantize", total=None, unit="graph"):
        operators = config.apply(source.path / "model.onnx", bundle / "model.onnx")
    spec = msgspec.structs.replace(
        source.spec, name=source.spec.name.removesuffix("-onnx-fp32") + "-onnx-int8", cpu_features=qualified_features()
    )
    seal_core(bundle, spec=spec, golden=source.golden)
    items = [tuple(item) for item in source.golden.items]
    golden = golden_of(items, Engine(read_bundle(bundle)).logits(items), task=spec.task, slack=INT8_OVER_FP32)
    digest = seal_core(bundle, spec=spec, golden=golden)
    check_golden(Engine(read_bundle(bundle), threads=1))
    size, before = ((folder / "model.onnx").stat().st_size for folder in (bundle, source.path))
    if size >= before:
        raise BadArtifact(f"quantization made the graph larger ({before:,} to {size:,} bytes); use another recipe")
    return {"bundle_digest": digest, "operators": operators, "size_bytes": size, "size_bytes_before": before}
