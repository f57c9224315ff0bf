"""What a search is asked: which recipes to try, what the winner may cost, and the shapes at which it must be fast.

It is a recipe of recipes, so its concrete class stands beside their union (pipeline/quantization.py); searching.py does
the work.
"""

import re
from hashlib import sha256
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from pipeline.errors import BadRequest
from pipeline.quantizing.base import Need, RecipeBase
from pipeline.quantizing.pareto import Budget, Limit, shape_name
from pipeline.records import Record

# What is tried where nothing is named: a dozen seconds each. Where a package or an instruction is not here, that one
# fails with its message, and the rest go on.
TRIED: Final[Any] = (
    {"kind": "fp32"},
    {"kind": "dynamic"},
    {"kind": "dynamic", "fused": True},
    {"kind": "dynamic", "fused": True, "per_channel": False},
    {"kind": "static"},
    {"kind": "static", "fused": True, "calibration": "moving-average"},
    {"kind": "static", "fused": True, "calibration": "percentile"},
    {"kind": "openvino", "precision": "fp32"},
    {"kind": "openvino", "precision": "bf16"},
    {"kind": "openvino", "precision": "int8"},
)
# What is tried after that, one after another, while nobody keeps the quality asked for: it takes minutes.
TRIED_LATER: Final[Any] = (
    {"kind": "mixed", "fused": True},
    {"kind": "smoothquant"},
    {"kind": "aware", "fused": True, "max_texts": 10_000},
)
LONGEST: Final = 80  # of a file's name
Shape = tuple[PositiveInt, PositiveInt]  # items, tokens of each


class SearchBase(Record):
    """Every recipe is tried in a process of its own, on at most `dev_items` of dev; the fastest within the budget, over
    `shapes` of (items, tokens), is the bundle. While none keeps the quality asked for, `fallbacks` are tried too, one
    after another. After `seconds` no candidate is begun and one under way is ended; the timing comes on top. A subclass
    says which recipes there are."""

    kind: Literal["search"] = "search"
    recipes: tuple[RecipeBase, ...]
    fallbacks: tuple[RecipeBase, ...] = ()
    budget: Budget = Budget()
    shapes: Annotated[tuple[Shape, ...], Field(min_length=1)] = ((1, 16), (1, 32), (1, 128), (8, 128))
    seconds: Limit | None = None
    dev_items: PositiveInt = 2000

    variant: ClassVar[str] = "onnx-best"

    @property
    def needs(self) -> frozenset[Need]:
        """What its recipes need, and dev to judge them on."""
        dev: frozenset[Need] = frozenset({"dev"})
        return dev.union(*(recipe.needs for recipe in (*self.recipes, *self.fallbacks)))

    @property
    def quantizing(self) -> frozenset[str]:
        """Names of those whose graphs compute in integers."""
        return frozenset(recipe_name(each) for each in (*self.recipes, *self.fallbacks) if each.quantizes)

    def named(self, recipes: tuple[RecipeBase, ...]) -> dict[str, dict[str, Any]]:
        """Their settings by name. How much a recipe may lose is what the search may, unless it says so itself."""
        found = {recipe_name(recipe): recipe.model_dump(mode="json") for recipe in recipes}
        for name, recipe in zip(found, recipes, strict=True):
            if "metric_drop" in found[name].keys() - recipe.model_fields_set:
                found[name]["metric_drop"] = self.budget.metric_drop
        return found

    @field_validator("recipes")
    @classmethod
    def _each_once(cls, recipes: tuple[RecipeBase, ...]) -> tuple[RecipeBase, ...]:
        if not recipes:
            raise ValueError("a search needs a recipe to try: name some, or leave `recipes` out")
        if twice := next((one for one in recipes if recipes.count(one) > 1), None):
            raise ValueError(f"{recipe_name(twice)!r} is named more than once: each recipe is tried once")
        return recipes

    @model_validator(mode="after")
    def _fallbacks_are_others(self) -> "SearchBase":
        every = (*self.recipes, *self.fallbacks)
        own = self.fallbacks if "fallbacks" in self.model_fields_set else ()
        if twice := next((one for one in own if every.count(one) > 1), None):
            raise ValueError(f"{recipe_name(twice)!r} is a fallback and named before: each recipe is tried once")
        return self

    @model_validator(mode="after")
    def _bounds_are_measured(self) -> "SearchBase":
        shapes = [shape_name(shape) for shape in self.shapes]
        if unknown := [shape for shape in self.budget.ms if shape not in shapes]:
            raise ValueError(f"budget.ms bounds {unknown[0]}, which is not measured; shapes has {', '.join(shapes)}")
        return self


def shapes_within(config: SearchBase, *, max_length: int) -> tuple[tuple[int, int], ...]:
    """The shapes the model reads: longer ones are cut to its length, and each is there once.

    Raises:
        BadRequest: the budget bounds a shape that was cut.
    """
    cut = tuple(dict.fromkeys((items, min(tokens, max_length)) for items, tokens in config.shapes))
    if lost := sorted(config.budget.ms.keys() - {shape_name(shape) for shape in cut}):
        raise BadRequest(f"budget.ms bounds {lost[0]}, and the model reads {max_length} tokens at most: bound less")
    return cut


def recipe_name(recipe: RecipeBase) -> str:
    """Its kind, whether it is fused, and what else was set: `dynamic fused per_channel=false`."""
    settings = recipe.model_dump(mode="json", exclude_unset=True, exclude={"kind", "fused"})
    return " ".join([recipe.model_dump()["kind"], *(["fused"] if recipe.fused else []), *_told(settings)])


def file_name(name: str) -> str:
    """dynamic per_channel=false -> dynamic-per_channel-false; a long one is cut, with a digest to tell it apart."""
    plain = re.sub(r"[^\w.]+", "-", name)
    return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]}-{sha256(name.encode()).hexdigest()[:8]}"


def _told(settings: dict[str, Any]) -> list[str]:
    """True is told by its name, a word by itself, anything else as name=value."""
    told = []
    for name, value in settings.items():
        if isinstance(value, dict):
            told += _told(value)
        elif value is True or isinstance(value, str):
            told.append(name if value is True else value)
        else:
            told.append(f"{name}={str(value).lower()}")
    return told
