"""OpenVINO as the runtime: the same graph, computed by another library in fp32 or bf16, or quantized for it by NNCF."""

import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec
from pydantic import Field

from pipeline.errors import BadRequest
from pipeline.quantizing.base import Need, RecipeBase

if TYPE_CHECKING:
    from pipeline.quantizing.given import Feed, Given
    from serving.bundle import ServingSpec

Precision = Literal["fp32", "bf16", "int8"]
MULTIPLIES_BF16 = ("amx_bf16", "avx512_bf16", "bf16")  # the fastest first; the last is Arm's


class OpenVinoRecipe(RecipeBase):
    """`bf16` leaves the file as it is: the runtime rounds what it multiplies. `int8` has NNCF put scales around every
    product but not around the look-up of embeddings, found on `samples` training texts; what stays float is computed in
    bf16 where the CPU has that. The runtime fuses by itself, and does not know all of onnxruntime's operators."""

    kind: Literal["openvino"] = "openvino"
    fused: Literal[False] = False
    precision: Precision = "fp32"
    samples: int = Field(default=128, ge=2)

    shrinks: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]  # a setting decides, as for all below
        """Texts only where scales are looked for."""
        return frozenset({"calibration"}) if self.precision == "int8" else frozenset()

    @property
    def quantizes(self) -> bool:  # type: ignore[override]
        """In int8."""
        return self.precision == "int8"

    @property
    def variant(self) -> str:  # type: ignore[override]
        """openvino-fp32, -bf16 or -int8."""
        return f"openvino-{self.precision}"

    def apply(self, source: Path, target: Path, given: "Given") -> dict[str, Any]:
        """Copy the graph, or quantize it.

        Raises:
            BadRequest: a package is not installed, or the CPU does not multiply bf16.
            BadArtifact: nothing could be quantized.
        """
        from pipeline.quantizing.graphs import operators, require_quantized

        if find_spec("openvino") is None:
            raise BadRequest("OpenVINO is not installed here: pip install 'retort[openvino]'")
        bf16 = _bf16_feature()
        if self.precision == "bf16" and bf16 is None:
            raise BadRequest(
                f"this CPU does not multiply bf16 (it has none of {', '.join(MULTIPLIES_BF16)}), and precision: bf16 "
                "would be slower than fp32; use fp32 or int8"
            )
        start = self.prepared(source, given.scratch)
        if self.precision == "int8":
            _quantize(start, target, given.calibration(self.samples))
            return {"operators": require_quantized(target), "bf16_by": bf16}
        shutil.copyfile(start, target)
        return {"operators": operators(target), "bf16_by": bf16 if self.precision == "bf16" else None}

    def spec(self, spec: "ServingSpec") -> "ServingSpec":
        """bf16 depends on the CPU's instructions as int8 does."""
        from pipeline.quantizing.features import qualified_features

        bf16 = _bf16_feature() if self.precision != "fp32" else None
        features = {*(qualified_features() if self.precision == "int8" else ()), *([bf16] if bf16 else [])}
        return msgspec.structs.replace(
            spec,
            runtime="openvino",
            inference_precision="bf16" if bf16 else "fp32",
            cpu_features=tuple(sorted(features)),
        )


def _bf16_feature() -> str | None:
    """The instruction by which this CPU multiplies bf16; the faster one where it has both."""
    from serving.cpu import cpu_features

    return next((name for name in MULTIPLIES_BF16 if name in cpu_features()), None)


def _quantize(source: Path, target: Path, feeds: "Sequence[Feed]") -> None:
    """NNCF on the ONNX graph: scales around products, found with the runtime of ONNX."""
    import onnx

    from pipeline.quantizing.silent_nncf import silent_nncf

    with silent_nncf() as nncf:
        quantized = nncf.quantize(
            onnx.load(source),
            nncf.Dataset(list(feeds)),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(feeds),
            ignored_scope=nncf.IgnoredScope(types=["Gather"], validate=False),
        )
    onnx.save(quantized, target)
