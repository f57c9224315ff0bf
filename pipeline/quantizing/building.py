"""One recipe over one exported bundle: a bundle of its own, sealed with the answers it gives here."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pipeline.errors import BadArtifact

if TYPE_CHECKING:
    from pipeline.quantizing.base import RecipeBase
    from pipeline.quantizing.given import Given
    from serving.bundle import Bundle

# Thread counts change the order of the fp32 sums between int8 products, and one more or less in a rounded activation
# is worth this many times what fp32 may differ by; on the CPUs the bundle allows, nothing else may.
INT8_OVER_FP32 = 500


def build(recipe: "RecipeBase", given: "Given", bundle: Path) -> dict[str, Any]:
    """Apply the recipe and seal the result in the folder `bundle` with the logits it gives here and the CPU features
    they were earned with.

    Raises:
        BadArtifact: as `apply`; or the graph became larger, or does not give its own golden answers with another number
            of threads.
    """
    from pipeline.exporting import golden_of
    from serving.bundle import OPTIONAL, read_bundle, seal_core
    from serving.engine import Engine, check_golden

    source = given.bundle
    bundle.mkdir()
    for name in ("config.json", "tokenizer.json", *OPTIONAL):
        if (source.path / name).is_file():
            shutil.copyfile(source.path / name, bundle / name)
    facts = recipe.apply(source.path / "model.onnx", bundle / "model.onnx", given)
    size, before = ((folder / "model.onnx").stat().st_size for folder in (bundle, source.path))
    if recipe.shrinks and size >= before:
        raise BadArtifact(f"quantization made the graph larger ({before:,} to {size:,} bytes); use another recipe")
    name = source.spec.name.removesuffix("onnx-fp32") + recipe.variant
    spec = recipe.spec(msgspec.structs.replace(source.spec, name=name))
    digest = seal_core(bundle, spec=spec, golden=source.golden)
    if not recipe.exact:
        items = [tuple(item) for item in source.golden.items]
        logits = Engine(_here(read_bundle(bundle)), threads=given.threads).logits(items)
        golden = golden_of(items, logits, task=spec.task, slack=INT8_OVER_FP32)
        digest = seal_core(bundle, spec=spec, golden=golden)
    check_golden(Engine(_here(read_bundle(bundle)), threads=1))
    return {"bundle_digest": digest, **facts, "size_bytes": size, "size_bytes_before": before}


def _here(bundle: "Bundle") -> "Bundle":
    """With those of its providers that this machine has: what is made for CUDA is checked on the CPU where there is
    none."""
    import onnxruntime

    found = tuple(name for name in bundle.spec.providers if name in onnxruntime.get_available_providers())
    return replace(bundle, spec=msgspec.structs.replace(bundle.spec, providers=found))
