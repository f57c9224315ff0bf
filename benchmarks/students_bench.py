"""What distillation is worth: the students of a config fine-tuned on its task, paired on the same test examples.

    python -m benchmarks.students_bench CONFIG [--set a.b=c ...] [--seeds 0 1 2] [--pairs mha:none hs:none] [--out FILE]

CONFIG names several students (`distill.students`), one of them perhaps with the objective none. They are distilled once
and fine-tuned with every seed, as the teacher is; every cell is a run of the config up to quantize, so what is finished
is never run again. The test split is read once, by the shipped engine, at the end. The last line is JSON; a
difference's interval is a paired bootstrap over the test examples, mean over seeds. Without --pairs every student is
compared with the last.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.machine import read
from pipeline import quality, runner
from pipeline.artifact import write_json
from pipeline.config import load_config
from pipeline.data.progress import silent
from pipeline.progress import Console, track
from pipeline.tasks import ALL, Split, Task
from pipeline.workspace import Workspace
from serving.bundle import read_bundle
from serving.engine import Engine

Predictions = npt.NDArray[Any]


@dataclass(frozen=True)
class Cell:
    """One bundle to score: `group` names the row, seeds of a group are its repeats."""

    group: str
    seed: int
    bundle: Path
    dev_score: float


def run_cells(path: Path, settings: Sequence[str], *, seeds: Sequence[int], workspace: Workspace) -> list[Cell]:
    """Run what is not finished and return every bundle."""
    cells: list[Cell] = []
    for seed in seeds:
        config = load_config(path, [*settings, f"finetune.seed={seed}"])
        config = config.model_copy(update={"name": f"{config.name}-seed-{seed}"})
        found = runner.run(config, workspace, until="quantize")
        for name in ("teacher", *config.distill.each()):
            dev_score = max(found[f"finetune-{name}"].manifest.facts["dev_scores"])
            steps = {"fp32": f"export-{name}", "int8": f"quantize-{name}"}
            for precision, label in steps.items():
                if label in found:
                    cells.append(Cell(f"{name}, {precision}", seed, found[label].path / "bundle", dev_score))
    return cells


def score_cells(cells: Sequence[Cell], pairs: Sequence[tuple[str, str]], task: Task, test: Split) -> dict[str, Any]:
    """The metric of every group with its interval, and the paired differences that matter."""
    found: dict[str, list[Predictions]] = {}
    for cell in track(Console(), cells, "score", len(cells), "bundles"):
        logits_NC = Engine(read_bundle(cell.bundle)).logits(test.items)
        found.setdefault(cell.group, []).append(quality.predictions(logits_NC))
    metric, labels = task.metric_name, test.labels
    return {
        "metric": metric,
        "n": len(labels),
        "groups": {
            group: {
                "seeds": [quality.score(metric, each, labels).value for each in repeats],
                "mean": float(np.mean([quality.score(metric, each, labels).value for each in repeats])),
                "dev": [cell.dev_score for cell in cells if cell.group == group],
            }
            for group, repeats in found.items()
        },
        "differences": {
            f"{a} - {b}": {
                units: msgspec.to_builtins(
                    quality.paired_seeds_difference(metric, found[a], found[b], labels, units=units)
                )
                for units in ("sentences", "sentences and seeds")
            }
            for a, b in pairs
        },
    }


def pairs_of(names: Sequence[str], asked: Sequence[str]) -> list[tuple[str, str]]:
    """(a, b) of every difference, in both precisions, and each student's int8 against its fp32."""
    chosen = [tuple(pair.split(":")) for pair in asked] or [(name, names[-1]) for name in names[:-1]]
    between = [(f"{a}, {precision}", f"{b}, {precision}") for precision in ("fp32", "int8") for a, b in chosen]
    return [*between, *((f"{name}, int8", f"{name}, fp32") for name in names), (f"{names[0]}, fp32", "teacher, fp32")]


def show(result: Mapping[str, Any]) -> None:
    """The tables for people."""
    from rich.console import Console as Terminal
    from rich.table import Table

    table = Table("group", "seeds", "mean")
    for group, row in result["groups"].items():
        table.add_row(group, "  ".join(f"{value:.4f}" for value in row["seeds"]), f"{row['mean']:.4f}")
    differences = Table("difference", "mean over seeds", "95 % over sentences", "95 % over sentences and seeds")
    for name, by_units in result["differences"].items():
        one, both = by_units["sentences"], by_units["sentences and seeds"]
        ends = [f"[{each['low']:+.4f}, {each['high']:+.4f}]" for each in (one, both)]
        differences.add_row(name, f"{one['estimate']:+.4f}", *ends)
    terminal = Terminal(width=150)
    terminal.print(table, differences)


def main() -> None:
    """Run, score, show, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="A.B=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pairs", nargs="+", default=[], metavar="A:B")
    parser.add_argument("--workspace", type=Path, default=Path(".retort"))
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    place = Workspace.open(asked.workspace)
    cells = run_cells(asked.config, asked.settings, seeds=asked.seeds, workspace=place)
    config = load_config(asked.config, asked.settings)
    pairs = pairs_of(list(config.distill.each()), asked.pairs)
    result = {"machine": msgspec.to_builtins(read()), "config": config.model_dump(mode="json"), "seeds": asked.seeds}
    result |= score_cells(cells, pairs, config.task, config.task.load(place.cache, silent, ALL).test)
    write_json(asked.out, result)
    show(result)
    print(json.dumps({name: row["sentences"] for name, row in result["differences"].items()}))


if __name__ == "__main__":
    main()
