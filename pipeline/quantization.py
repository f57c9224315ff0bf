"""Quantization recipes (EXTENSION POINT: a class with `kind` and `apply` in pipeline/quantizing/, its name in the union
at the foot)."""

from typing import Annotated

from pydantic import Field

from pipeline.quantizing.aware import AwareRecipe
from pipeline.quantizing.dynamic import DynamicRecipe
from pipeline.quantizing.mixed import MixedRecipe
from pipeline.quantizing.openvino import OpenVinoRecipe
from pipeline.quantizing.plain import Fp16Recipe, Fp32Recipe
from pipeline.quantizing.search import TRIED, TRIED_LATER, SearchBase
from pipeline.quantizing.smoothquant import SmoothQuantRecipe
from pipeline.quantizing.static import StaticRecipe

AnyRecipe = (
    Fp32Recipe
    | Fp16Recipe
    | DynamicRecipe
    | StaticRecipe
    | MixedRecipe
    | SmoothQuantRecipe
    | AwareRecipe
    | OpenVinoRecipe
)
OneRecipe = Annotated[AnyRecipe, Field(discriminator="kind")]


class SearchRecipe(SearchBase):
    """A search over any of the recipes."""

    recipes: tuple[OneRecipe, ...] = TRIED
    fallbacks: tuple[OneRecipe, ...] = TRIED_LATER


Recipe = Annotated[AnyRecipe | SearchRecipe, Field(discriminator="kind")]
