"""What the variant that a search picks is worth, beside what one would pick instead: the same weights, machine, inputs.

    python -m benchmarks.quantize_bench CONFIG --bundle FOLDER --model FOLDER [--set a.b=c ...] [--out FILE.json]

FOLDER is the `bundle/` that `retort stage export-NAME` left, and the fine-tuned model it came from. The search chooses
on dev, once for its budget and once with `invariant`; both picks and fp32 are then scored on the test split, and raced
in one run with the other variants, OpenVINO and torch at (items x tokens) 1x16, 1x32, 1x128 and 8x128, each in
processes of its own. A figure is a ratio of medians. The last line is JSON.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console as Screen
from rich.table import Table

from benchmarks.machine import disturbance, read
from benchmarks.session import Variant
from benchmarks.shapes import Raced, race
from benchmarks.targets import OrtCpu, Torch
from pipeline import quality
from pipeline.artifact import write_json
from pipeline.build import git_state
from pipeline.config import RunConfig, load_config
from pipeline.data.progress import silent
from pipeline.errors import BadRequest
from pipeline.progress import Console
from pipeline.quantization import SearchRecipe
from pipeline.quantizing.given import Given
from pipeline.quantizing.pareto import Budget, Figures, choose
from pipeline.quantizing.searching import BASELINE, Search
from pipeline.tasking.base import ALL, TaskData
from pipeline.tasking.fitted import fitted_of
from pipeline.workspace import Workspace
from serving.bundle import read_bundle
from serving.cpu import usable_threads
from serving.engine import Engine

SHAPES: Final = ((1, 16), (1, 32), (1, 128), (8, 128))
ASKED: Final = {"1x32": 1.9, "1x128": 2.1, "8x128": 2.2}  # times as fast as ORT fp32
RECIPES: Final[tuple[dict[str, Any], ...]] = (
    {"kind": "fp32"},
    {"kind": "dynamic", "per_channel": False},
    {"kind": "dynamic"},
    {"kind": "dynamic", "fused": True},
    {"kind": "static"},
    {"kind": "static", "calibration": "moving-average"},
    {"kind": "static", "calibration": "moving-average", "fused": True},
    {"kind": "static", "calibration": "percentile", "fused": True},
    {"kind": "mixed", "calibration": "moving-average", "fused": True},
    {"kind": "smoothquant"},
    {"kind": "openvino", "precision": "fp32"},
    {"kind": "openvino", "precision": "bf16"},
    {"kind": "openvino", "precision": "int8"},
)
TORCH: Final = {
    "torch fp32": {"precision": "fp32"},
    "torch bf16": {"precision": "bf16"},
    "torch fp32 compiled": {"precision": "fp32", "compiled": True},
    "torch bf16 compiled": {"precision": "bf16", "compiled": True},
}


def picks(search: Search, facts: Mapping[str, Any]) -> dict[str, str]:
    """The search's own, and what it would pick were invariance asked for, of the same candidates."""
    out = {BASELINE, *search.losers}
    rows = [row for row in facts["rows"] if row.get("figures") and row["name"] not in out]
    found = [msgspec.convert(row["figures"], Figures) for row in rows]
    asked = search.config.budget.model_dump() | {"invariant": True}
    steady = choose(found, Budget(**asked))
    return {"pick": facts["winner"], "invariant pick": steady.winner or ""}


def scored(bundles: Mapping[str, Path], config: RunConfig, data: TaskData) -> dict[str, Any]:
    """Each bundle's first metric on the test split, and its difference to fp32's, paired, by the serving engine."""
    judged = {name: _judged(path, config, data) for name, path in bundles.items()}
    metric, fp32 = config.task.metrics[0], judged[BASELINE]
    found: dict[str, Any] = {}
    for name, one in judged.items():
        told = msgspec.to_builtins(quality.score(metric, one.answers, one.labels))
        lost = quality.paired_difference(metric, fp32.answers, one.answers, one.labels)
        found[name] = {"score": told, "drop": msgspec.to_builtins(lost)}
    return found


def _judged(path: Path, config: RunConfig, data: TaskData) -> Any:
    bundle = read_bundle(path)
    engine, fitted = Engine(bundle), fitted_of(bundle.spec)
    return config.task.judged(engine.logits(data.test.items), data, fitted)[config.task.metrics[0]]


def ratios(raced: Iterable[Raced]) -> dict[str, dict[str, float]]:
    """Times as fast as fp32 as it was exported, by variant and shape."""
    ms = {one.name: {f"{b}x{n}": one.at(b, n).median_ms for b, n in SHAPES} for one in raced}
    return {name: {shape: ms[BASELINE][shape] / took for shape, took in each.items()} for name, each in ms.items()}


def show(result: Mapping[str, Any]) -> None:
    """A row a variant: milliseconds and times as fast as fp32 at each shape, and what it lost on the split named."""
    shapes = [f"{b}x{n}" for b, n in SHAPES]
    table = Table(title=result["title"])
    for name in ("variant", *(f"{shape}\nms (x fp32)" for shape in shapes), "dev drop", "test drop"):
        table.add_column(name)
    told: dict[str, str] = {}
    for name, called in result["picks"].items():
        told[called] = f"{told[called]}, {name}" if called in told else name
    for name, ms in result["ms"].items():
        dev, test = result["dev_drop"].get(name), result["test"].get(name)
        table.add_row(
            f"{name} [bold]{told.get(name, '')}[/bold]",
            *(f"{ms[shape]:.2f} ({result['ratios'][name][shape]:.2f})" for shape in shapes),
            "" if dev is None else f"{dev:+.4f}",
            "" if test is None else f"{test['drop']['estimate']:+.4f}",
        )
    Screen(width=150).print(table)


def main() -> None:
    """Search, score, race, write, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="A.B=VALUE")
    parser.add_argument("--title", default="")
    parser.add_argument("--n", type=int, default=60, help="forwards at each shape and process")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--workspace", type=Path, default=Path(".retort"))
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    config, place = load_config(asked.config, asked.settings), Workspace.open(asked.workspace)
    with tempfile.TemporaryDirectory() as folder:
        result = measured(config, asked, place, Path(folder))
    write_json(asked.out, result)
    show(result)
    Screen().print(json.dumps({"picks": result["picks"], "reached": result["reached"]}), soft_wrap=True)


def search_over(config: RunConfig, asked: argparse.Namespace, place: Workspace, folder: Path) -> Search:
    """The search that chooses on dev, all of it in a folder that vanishes."""
    given = Given(
        bundle=read_bundle(asked.bundle),
        scratch=folder,
        task=config.task,
        load=partial(config.task.load, place.cache, silent),
        model=asked.model,
        threads=usable_threads(),
        reporter=Console(),
    )
    (folder / "out").mkdir()
    recipes = SearchRecipe.model_validate({"kind": "search", "recipes": RECIPES, "fallbacks": ()})
    return Search(config=recipes, given=given, cache=place.cache, out=folder / "out", threads=usable_threads())


def measured(config: RunConfig, asked: argparse.Namespace, place: Workspace, folder: Path) -> dict[str, Any]:
    """Everything, as it is written."""
    before, search = disturbance(), search_over(config, asked, place, folder)
    given = search.given
    if given.spec.max_length < max(tokens for _, tokens in SHAPES):
        raise BadRequest(f"{asked.bundle} reads {given.spec.max_length} tokens, and 128 are timed: export a longer one")
    facts = search.run()["search"]
    picked = picks(search, facts)
    bundles = {name: search.bundle(name) for name in search.receipts if name not in search.failures}
    chosen = {BASELINE, *(name for name in picked.values() if name)}
    raced = race(variants(bundles, asked.model, given), shapes=SHAPES, items=given.data.dev.items[:512], **_load(asked))
    test = scored({name: bundles[name] for name in chosen}, config, config.task.load(place.cache, silent, ALL))
    found = ratios(raced)
    dev_drop = {row["name"]: row["figures"]["drop"] for row in facts["rows"] if row.get("figures")}
    return {
        "title": asked.title or config.name,
        "machine": msgspec.to_builtins(read()),
        "disturbance": msgspec.to_builtins(disturbance().since(before)),
        "git": git_state(),
        "config": config.model_dump(mode="json"),
        "threads": given.threads,
        "picks": picked,
        "reached": reached(found, picked, test, dev_drop | {"torch fp32": 0.0}),
        "ms": {one.name: {f"{b}x{n}": one.at(b, n).median_ms for b, n in SHAPES} for one in raced},
        "ratios": found,
        "dev_drop": dev_drop,
        "test": test,
        "search": facts,
        "raced": msgspec.to_builtins(raced),
    }


def variants(bundles: Mapping[str, Path], model: Path, given: Given) -> Sequence[Variant]:
    """All bundles by the serving engine, and the model in torch."""
    spec = given.spec
    torch = {
        name: Torch(task=spec.task, max_length=spec.max_length, **settings)  # type: ignore[arg-type]
        for name, settings in TORCH.items()
    }
    return [
        *(Variant(name, OrtCpu(), path) for name, path in bundles.items()),
        *(Variant(name, target, model) for name, target in torch.items()),
    ]


def _load(asked: argparse.Namespace) -> dict[str, Any]:
    return {"n": asked.n, "processes": asked.processes, "threads": usable_threads()}


def reached(
    found: Mapping[str, Mapping[str, float]],
    picked: Mapping[str, str],
    test: Mapping[str, Any],
    dev_drop: Mapping[str, float],
) -> dict[str, Any]:
    """The pick beside fp32, and beside the fastest of those whose drop on dev is within the budget (of torch in bf16
    none was measured: it stands in the table alone)."""
    pick, allowed = found[picked["pick"]], Budget().metric_drop
    equal = {name: each for name, each in found.items() if dev_drop.get(name, allowed + 1) <= allowed}
    drops = {name: test[called]["drop"]["estimate"] for name, called in picked.items() if called}
    return {
        "pick": {shape: {"times_fp32": pick[shape], "asked": ASKED.get(shape)} for shape in pick},
        "test_drop": drops,
        "fastest": {shape: max(equal, key=lambda name: equal[name][shape]) for shape in pick},
        "of_the_fastest": {shape: pick[shape] / max(each[shape] for each in equal.values()) for shape in pick},
    }


if __name__ == "__main__":
    main()
