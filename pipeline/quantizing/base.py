"""What all recipes share: what they need, what their variant is called, and how a graph becomes another one."""

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec

from pipeline.records import Record

if TYPE_CHECKING:
    from pipeline.quantizing.given import Given
    from serving.bundle import ServingSpec

Need = Literal["calibration", "dev", "model"]
"""Training texts, the dev split, the fine-tuned model the graph came from."""
Method = Literal["minmax", "moving-average", "percentile", "entropy"]
"""How the range of an activation is found (calibration.py)."""


class RecipeBase(Record):
    """`fused`: over the graph whose attention, normalisations and activations are one operator each."""

    fused: bool = False

    needs: ClassVar[frozenset[Need]] = frozenset()
    """what `Given` must offer; the step reads (and its key holds) no more than that"""
    variant: ClassVar[str] = "onnx-int8"
    """what the student's variant is called behind its own name"""
    shrinks: ClassVar[bool] = True
    """whether a graph that became no smaller is a mistake"""
    exact: ClassVar[bool] = False
    """whether answers must be those of the fp32 graph"""
    quantizes: ClassVar[bool] = True
    """whether the graph computes in integers: what does not loses nothing, and gains little"""

    @abstractmethod
    def apply(self, source: Path, target: Path, given: "Given") -> dict[str, Any]:
        """Write the graph `target`; return what is known of it, its `operators` counted among that.

        Raises:
            BadArtifact: nothing was quantized, or what was asked to be stayed as it was; the operator is named.
        """

    def spec(self, spec: "ServingSpec") -> "ServingSpec":
        """What a server must know of the new graph: int8 answers depend on the CPU's instructions."""
        from pipeline.quantizing.features import qualified_features

        return msgspec.structs.replace(spec, cpu_features=qualified_features())

    def prepared(self, source: Path, scratch: Path) -> Path:
        """The graph to start from: the plain one, or the fused one made of it."""
        if not self.fused:
            return source
        from pipeline.fusing import fuse

        fuse(source, scratch / "fused.onnx")
        return scratch / "fused.onnx"
