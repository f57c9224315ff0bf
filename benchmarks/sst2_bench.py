"""What distillation is worth: the same student fine-tuned with and without it, paired on the same test sentences.

    python -m benchmarks.sst2_bench [--set a.b=c ...] [--seeds 0 1 2] [--workspace .retort] [--out FILE.json]

Cells are student initialisation (random, teacher-layers) x objective (relation, none) x fine-tuning seed; the teacher
is fine-tuned with each seed too. Every cell is a run of configs/sst2-minilm.yaml up to quantize, so what is finished is
never run again, and two of these scripts share the work. The test split is read once, by the shipped engine, at the
end. The last line is JSON; a difference's interval is a paired bootstrap over the test sentences, mean over seeds.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.machine import read
from pipeline import quality, runner
from pipeline.artifact import Artifact, write_json
from pipeline.config import load_config
from pipeline.data.progress import silent
from pipeline.progress import Console, track
from pipeline.tasks import ALL, Split, Task
from pipeline.workspace import Workspace
from serving.bundle import read_bundle
from serving.engine import Engine

CONFIG = Path("configs/sst2-minilm.yaml")
OBJECTIVES = {"distilled": "{kind: relation, relation_heads: 48}", "undistilled": "{kind: none}"}
TEACHER = ("finetune-teacher", "export-teacher")
STUDENT = ("distill", "finetune-student", "export-student", "quantize-student")
# A student that begins with the teacher's layers has converged long before one that begins with noise.
TOKENS = {"random": 4_000_000, "teacher-layers": 1_500_000}
INITS = tuple(TOKENS)
Predictions = npt.NDArray[Any]


@dataclass(frozen=True)
class Cell:
    """One bundle to score: `group` names the row, seeds of a group are its repeats."""

    group: str
    seed: int
    bundle: Path
    dev_score: float


def run_cells(settings: Sequence[str], *, seeds: Sequence[int], workspace: Workspace) -> list[Cell]:
    """Run what is not finished and return every bundle."""
    cells: list[Cell] = []
    for seed in seeds:
        seeded = [*settings, f"finetune.seed={seed}", f"name=sst2-bench-{seed}"]
        cells += _cells(seeded, TEACHER, seed=seed, workspace=workspace, names={"teacher fp32": "export-teacher"})
        for init in INITS:
            for objective, written in OBJECTIVES.items():
                asked = [*seeded, f"distill.student.init={init}", f"distill.objective={written}"]
                asked.append(f"distill.tokens={TOKENS[init]}")
                group = f"student, {init}, {objective}"
                names = {f"{group}, fp32": "export-student", f"{group}, int8": "quantize-student"}
                cells += _cells(asked, STUDENT, seed=seed, workspace=workspace, names=names)
    return cells


def _cells(
    settings: Sequence[str],
    steps: Sequence[str],
    *,
    seed: int,
    workspace: Workspace,
    names: Mapping[str, str],
) -> Iterator[Cell]:
    """Run these steps of the config, one after the other, and name the bundles they end with."""
    config = load_config(CONFIG, settings)
    artifacts: dict[str, Artifact] = {}
    for label in steps:
        artifacts |= runner.run(config, workspace, only=label)
    tuned = next(artifact for label, artifact in artifacts.items() if label.startswith("finetune-"))
    for group, label in names.items():
        bundle = artifacts[label].path / "bundle"
        yield Cell(group=group, seed=seed, bundle=bundle, dev_score=max(tuned.manifest.facts["dev_scores"]))


def score_cells(cells: Sequence[Cell], task: Task, test: Split) -> dict[str, Any]:
    """Accuracy of every group with its interval, and the paired differences that matter."""
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
            for a, b in _pairs(found)
        },
    }


def _pairs(groups: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for init in INITS:
        base = f"student, {init}"
        for precision in ("fp32", "int8"):
            yield f"{base}, distilled, {precision}", f"{base}, undistilled, {precision}"
        yield f"{base}, distilled, int8", f"{base}, distilled, fp32"
        if "teacher fp32" in groups:
            yield f"{base}, distilled, fp32", "teacher fp32"


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
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="A.B=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workspace", type=Path, default=Path(".retort"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sst2.json"))
    asked = parser.parse_args()
    place = Workspace.open(asked.workspace)
    cells = run_cells(asked.settings, seeds=asked.seeds, workspace=place)
    task = load_config(CONFIG, asked.settings).task
    result = {"machine": msgspec.to_builtins(read()), "settings": asked.settings}
    result |= score_cells(cells, task, task.load(place.cache, silent, ALL).test)
    write_json(asked.out, result)
    show(result)
    print(json.dumps({name: row["sentences"] for name, row in result["differences"].items()}))


if __name__ == "__main__":
    main()
