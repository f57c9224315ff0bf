"""quantize: a smaller, faster bundle from an exported one; leaves `bundle/` with golden answers of its own. A search
also leaves every candidate's receipt, and a page about them."""

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.quantization import AnyRecipe, Recipe
from pipeline.quantizing.search import SearchBase

if TYPE_CHECKING:
    from pipeline.graph import Inputs, Tools
    from pipeline.quantizing.given import Given

QuantizeConfig = Recipe


def run(config: AnyRecipe | SearchBase, inputs: "Inputs", out: Path, tools: "Tools") -> dict[str, Any]:
    """Apply the recipe and seal the result with the logits it gives here and the CPU features they were earned with; or
    try several and keep the best."""
    tools.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=tools.cache) as scratch:  # a search's candidates are large: not into memory
        given = _given(inputs, tools, Path(scratch))
        if isinstance(config, SearchBase):
            return _search(config, given, out, tools)
        from pipeline.quantizing.building import build

        with tools.reporter.bar("quantize", total=None, unit="graph"):
            return build(config, given, out / "bundle")


def _search(config: SearchBase, given: "Given", out: Path, tools: "Tools") -> dict[str, Any]:
    from pipeline.quantizing.searching import Search
    from serving.cpu import usable_threads

    return Search(config=config, given=given, cache=tools.cache, out=out, threads=usable_threads()).run()


def _given(inputs: "Inputs", tools: "Tools", scratch: Path) -> "Given":
    """What the step reads: no more than the recipe needs."""
    from pipeline.quantizing.given import Given
    from serving.bundle import read_bundle

    view = inputs.sources.get("task")
    model = inputs.artifacts.get("model")
    return Given(
        bundle=read_bundle(inputs.artifacts["bundle"].path / "bundle"),
        scratch=scratch,
        task=view.task if view else None,
        load=partial(view.load, tools.cache, tools.progress) if view else None,
        model=model.path if model else None,
        checkpoints=tools.checkpoints,
        reporter=tools.reporter,
    )
