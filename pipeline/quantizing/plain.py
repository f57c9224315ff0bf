"""No quantization: the graph in fp32, fused or as it was exported, which a search picks where int8 costs too much; and
in fp16, for CUDA."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec

from pipeline.quantizing.base import RecipeBase

if TYPE_CHECKING:
    from pipeline.quantizing.given import Given
    from serving.bundle import ServingSpec


class Fp32Recipe(RecipeBase):
    """The graph in fp32; its answers must be those of the exported one."""

    kind: Literal["fp32"] = "fp32"
    fused: bool = True

    variant: ClassVar[str] = "onnx-fused"
    shrinks: ClassVar[bool] = False
    quantizes: ClassVar[bool] = False
    exact: ClassVar[bool] = True

    def apply(self, source: Path, target: Path, given: "Given") -> dict[str, Any]:
        """Copy the graph, or fuse it where that is asked for."""
        from pipeline.quantizing.graphs import operators

        if self.fused:
            _fuse(self.prepared(source, given.scratch), target)
        else:
            shutil.copyfile(source, target)
        return {"operators": operators(target)}

    def spec(self, spec: "ServingSpec") -> "ServingSpec":
        """fp32 needs nothing special of a CPU."""
        return spec


class Fp16Recipe(RecipeBase):
    """Products in fp16, ids in and fp32 answers out. It is for CUDA: on a CPU it is slower than fp32, and its answers
    are only checked there."""

    kind: Literal["fp16"] = "fp16"

    variant: ClassVar[str] = "onnx-fp16"
    quantizes: ClassVar[bool] = False

    def apply(self, source: Path, target: Path, given: "Given") -> dict[str, Any]:
        """Convert the graph, fused first where that is asked for."""
        from pipeline.half import to_fp16

        return {"operators": to_fp16(self.prepared(source, given.scratch), target)}

    def spec(self, spec: "ServingSpec") -> "ServingSpec":
        """What CUDA does not compute, the shapes, the CPU does."""
        return msgspec.structs.replace(spec, providers=("CUDAExecutionProvider", "CPUExecutionProvider"))


def _fuse(fused: Path, target: Path) -> None:
    """The fused graph less those of its operators that are slower than their parts."""
    import onnx

    from pipeline.quantizing.residuals import in_parts

    model = onnx.load(fused)
    in_parts(model.graph)
    onnx.save(model, target)
