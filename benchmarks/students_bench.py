"""What distillation is worth: the students of a config fine-tuned on its task, paired on the same test examples.

    python -m benchmarks.students_bench CONFIG [--set a.b=c ...] [--seeds 0 1] [--taught] [--pairs mha:none] --out FILE

CONFIG names one student or several (`distill.students`), one of them perhaps with the objective none. They are
distilled once and fine-tuned with every seed, as the teacher is; --taught fine-tunes every student twice, alone and, as
NAME+taught, with its fine-tuned teacher beside it (`finetune.distill_from`). Every cell is a run of the config up to
quantize, so what is finished is never run again. The test split is read once, by the shipped engine, at the end. The
last line is JSON; a difference's interval is a paired bootstrap over the test examples, mean over seeds. Without
--pairs every student is compared with the last, and what was taught with what was not.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.machine import read
from pipeline import quality, runner
from pipeline.artifact import write_json
from pipeline.build import git_state
from pipeline.config import RunConfig, load_config
from pipeline.data.progress import silent
from pipeline.progress import Console, track
from pipeline.stages.finetune import TEACHER, FinetuneConfig
from pipeline.tasking.base import ALL, Judged, TaskData
from pipeline.tasking.fitted import fitted_of
from pipeline.tasks import AnyTask
from pipeline.workspace import Workspace
from serving.bundle import read_bundle
from serving.engine import Engine

TAUGHT = "+taught"


@dataclass(frozen=True)
class Cell:
    """One bundle to score: `group` names the row, seeds of a group are its repeats."""

    group: str
    seed: int
    bundle: Path
    dev_score: float


def run_cells(
    path: Path, settings: Sequence[str], *, seeds: Sequence[int], workspace: Workspace, taught: bool = False
) -> list[Cell]:
    """Run what is not finished and return every bundle; the teacher's once a seed."""
    cells: dict[tuple[str, int], Cell] = {}
    for seed, mark in product(seeds, ("", TAUGHT) if taught else ("",)):
        config = load_config(path, [*settings, f"finetune.seed={seed}"])
        named = {"name": f"{config.name}-seed-{seed}"}
        config = config.model_copy(update=named | ({"finetune": schooling(config, mark)} if taught else {}))
        found = runner.run(config, workspace, until="quantize")
        for name in ("teacher", *config.distill.each()):
            group = name if name == "teacher" else f"{name}{mark}"
            dev_score = max(found[f"finetune-{name}"].manifest.facts["dev_scores"])
            steps = {"fp32": f"export-{name}", "int8": f"quantize-{name}"}
            for precision, label in steps.items():
                if label in found:
                    key = f"{group}, {precision}"
                    cells[key, seed] = Cell(key, seed, found[label].path / "bundle", dev_score)
    return list(cells.values())


def schooling(config: RunConfig, mark: str) -> FinetuneConfig:
    """How a student is fine-tuned: with the teacher that the config names, or else its run's own; or alone, where there
    are labels to learn."""
    asked = config.finetune
    if mark:
        return asked.model_copy(update={"distill_from": asked.distill_from or TEACHER})
    return asked.alone() if config.task.learns_labels else asked.alone().model_copy(update={"epochs": 0})


def score_cells(
    cells: Sequence[Cell], pairs: Sequence[tuple[str, str]], task: AnyTask, data: TaskData
) -> dict[str, Any]:
    """Every figure of every group with its interval, and what it differs by from pair to pair."""
    judged: dict[str, list[dict[str, Judged]]] = {}
    for cell in track(Console(), cells, "score", len(cells), "bundles"):
        judged.setdefault(cell.group, []).append(judged_cell(cell, task, data))
    metric = task.metrics[0]
    groups = {
        group: {
            "seeds": [scored(repeat[metric]).value for repeat in repeats],
            "mean": float(np.mean([scored(repeat[metric]).value for repeat in repeats])),
            "figures": {name: [msgspec.to_builtins(scored(repeat[name])) for repeat in repeats] for name in repeats[0]},
            "dev": [cell.dev_score for cell in cells if cell.group == group],
        }
        for group, repeats in judged.items()
    }
    names = list(next(iter(judged.values()))[0])
    differences = {name: {f"{a} - {b}": compared(name, judged[a], judged[b]) for a, b in pairs} for name in names}
    n = next(iter(differences[metric].values()))["sentences"]["n"]
    return {"metric": metric, "n": n, "groups": groups, "differences": differences.pop(metric), "others": differences}


def compared(name: str, a: Sequence[Mapping[str, Judged]], b: Sequence[Mapping[str, Judged]]) -> dict[str, Any]:
    """A figure's mean over A's repeats minus that over B's, with its interval over sentences, and over seeds too."""
    truths, metric = a[0][name].labels, a[0][name].metric
    sides = [[repeat[name].answers for repeat in repeats] for repeats in (a, b)]
    return {
        units: msgspec.to_builtins(quality.paired_seeds_difference(metric, sides[0], sides[1], truths, units=units))
        for units in ("sentences", "sentences and seeds")
    }


def judged_cell(cell: Cell, task: AnyTask, data: TaskData) -> dict[str, Judged]:
    """What a bundle answers, through the engine that serves it."""
    from tokenizers import Tokenizer

    bundle = read_bundle(cell.bundle)
    tokenizer = Tokenizer.from_file(str(bundle.path / "tokenizer.json"))
    places = task.places(data.test, tokenizer, max_length=bundle.spec.max_length)
    return task.judged(Engine(bundle).logits(data.reported), data, fitted_of(bundle.spec), places)


def scored(judged: Judged) -> quality.Score:
    """The figure with its interval."""
    return quality.score(judged.metric, judged.answers, judged.labels)


def pairs_of(names: Sequence[str], asked: Sequence[str], *, taught: bool = False) -> list[tuple[str, str]]:
    """(a, b) of every difference, in both precisions, and each student's int8 against its fp32."""
    chosen = [tuple(pair.split(":")) for pair in asked] or [(name, names[-1]) for name in names[:-1]]
    if taught:
        chosen += [(f"{name}{TAUGHT}", name) for name in names]
        names = [*names, *(f"{name}{TAUGHT}" for name in names)]
    between = [(f"{a}, {precision}", f"{b}, {precision}") for precision in ("fp32", "int8") for a, b in chosen]
    of_teacher = [(f"{name}, fp32", "teacher, fp32") for name in names]
    return [*between, *((f"{name}, int8", f"{name}, fp32") for name in names), *of_teacher]


def show(result: Mapping[str, Any]) -> None:
    """The tables for people."""
    from rich.console import Console as Terminal
    from rich.table import Table

    table = Table("group", "seeds", "mean")
    for group, row in result["groups"].items():
        table.add_row(group, "  ".join(f"{value:.4f}" for value in row["seeds"]), f"{row['mean']:.4f}")
    wide = ("figure", "difference", "mean over seeds", "95 % over sentences", "95 % over sentences and seeds")
    differences = Table(*wide)
    for figure, named in {result["metric"]: result["differences"], **result["others"]}.items():
        for name, by_units in named.items():
            one, both = by_units["sentences"], by_units["sentences and seeds"]
            ends = [f"[{each['low']:+.4f}, {each['high']:+.4f}]" for each in (one, both)]
            differences.add_row(figure, name, f"{one['estimate']:+.4f}", *ends)
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
    parser.add_argument("--taught", action="store_true")
    asked = parser.parse_args()
    place = Workspace.open(asked.workspace)
    cells = run_cells(asked.config, asked.settings, seeds=asked.seeds, workspace=place, taught=asked.taught)
    config = load_config(asked.config, asked.settings)
    pairs = pairs_of(list(config.distill.each()), asked.pairs, taught=asked.taught)
    result = {"machine": msgspec.to_builtins(read()), "config": config.model_dump(mode="json"), "seeds": asked.seeds}
    result |= {"taught": asked.taught, "git": git_state()}
    result |= score_cells(cells, pairs, config.task, config.task.load(place.cache, silent, ALL))
    write_json(asked.out, result)
    show(result)
    print(json.dumps({name: row["sentences"] for name, row in result["differences"].items()}))


if __name__ == "__main__":
    main()
