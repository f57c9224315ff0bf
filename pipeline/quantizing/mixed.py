"""Static int8 in which the products that cost most quality for the time they save are given back to fp32."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from pipeline.errors import GateFailed
from pipeline.quantizing.base import Need
from pipeline.quantizing.static import StaticSettings, calibrate

if TYPE_CHECKING:
    from pipeline.quantizing.given import Given
    from pipeline.quantizing.sensitivity import Point, Sensitivity
    from pipeline.quantizing.static import Calibrated

_ROUNDING = 1e-9


class MixedRecipe(StaticSettings):
    """Products go back to fp32, the costliest first, until dev's first metric is at most `metric_drop` below that of
    fp32. What each costs is found on the first `sensitivity_items` of dev."""

    kind: Literal["mixed"] = "mixed"
    metric_drop: Annotated[float, Field(ge=0)] = 0.005
    sensitivity_items: int = Field(default=128, ge=16, le=512)

    needs: ClassVar[frozenset[Need]] = frozenset({"calibration", "dev"})

    def apply(self, source: Path, target: Path, given: "Given") -> dict[str, Any]:
        """Write the first mix that keeps the metric.

        Raises:
            GateFailed: none does that has a product of integers left.
        """
        from pipeline.quantizing.graphs import require_quantized
        from pipeline.quantizing.sensitivity import parameters_of, sensitivities

        calibrated = calibrate(self, source, given)
        ranked = sensitivities(calibrated, given, items=self.sensitivity_items)
        fp32, curve = self._search(calibrated, ranked, target, given)
        kept = tuple(each.product.name for each in ranked[: curve[-1].kept])
        return {
            "operators": require_quantized(target, excluded=(*self.exclude, *kept)),
            **calibrated.facts,
            "fp32": {"metric": fp32, "ms": given.milliseconds(calibrated.path)},
            "sensitivity": [_told(each, parameters_of(calibrated.model.graph)) for each in ranked],
            "curve": [point._asdict() for point in curve],
            "kept_fp32": [*self.exclude, *kept],
        }

    def _search(
        self, calibrated: "Calibrated", ranked: "tuple[Sensitivity, ...]", target: Path, given: "Given"
    ) -> "tuple[float, list[Point]]":
        """fp32's metric, and every mix that was tried; the last one holds and lies at `target`."""
        from pipeline.quantizing.sensitivity import measured

        wanted = given.dev_logits(calibrated.path)
        fp32 = given.metric_of(wanted)
        curve: list[Point] = []
        for count in range(len(ranked)):
            calibrated.write(target, kept=tuple(each.product for each in ranked[:count]))
            curve.append(measured(target, wanted, given, kept=count))
            if fp32 - curve[-1].metric <= self.metric_drop + _ROUNDING:
                return fp32, curve
        best = max(curve, key=lambda point: point.metric)
        raise GateFailed(
            f"{target}: no mix with int8 in it is within {self.metric_drop:g} of fp32's {fp32:.4f} on dev; the nearest "
            f"has {best.metric:.4f} with {best.kept} of {len(ranked)} products in fp32; allow a larger metric_drop, or "
            "use another recipe"
        )


def _told(each: "Sensitivity", parameters: dict[str, str]) -> dict[str, Any]:
    product = each.product
    return {
        "product": product.name,
        "parameter": parameters[product.output],
        "divergence": each.divergence,
        "ms": each.ms,
    }
