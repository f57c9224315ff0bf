"""`retort distill-cost`: what the passes of a config's distillation will take on this machine."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import msgspec

from pipeline.checks import check
from pipeline.config import RunConfig
from pipeline.graph import Tools, expand
from pipeline.progress import Console, summary_console
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.stages.distill import DistillConfig


def costs(config: RunConfig, workspace: Workspace, *, steps: int) -> list[dict[str, Any]]:
    """One entry for each pass of the teacher; the loss curve of a few steps is thrown away."""
    from pipeline.distillation.cost import measure_cost

    check(config, cache=workspace.cache)
    with TemporaryDirectory() as scratch:
        tools = Tools("cost", workspace.root, workspace.cache, Path(scratch), Console())
        folder = _teacher(config, Path(scratch), tools)
        found = [
            measure_cost(students, folder, config.text, tools, steps=steps) for students in _passes(config).values()
        ]
    return [msgspec.to_builtins(cost) for cost in found if cost is not None]


def _passes(config: RunConfig) -> "Mapping[str, dict[str, DistillConfig]]":
    """The students of each pass, by the group their steps run in."""
    groups: dict[str, dict[str, DistillConfig]] = {}
    distills = [step for step in expand(config) if step.stage == "distill"]
    for name, step in zip(config.distill.each(), distills, strict=True):
        groups.setdefault(step.group, {})[name] = step.config  # type: ignore[assignment]
    return groups


def _teacher(config: RunConfig, scratch: Path, tools: Tools) -> Path:
    """The teacher's folder; one that is yet to be pretrained costs the same before it is."""
    folder = config.teacher.folder(tools.cache)
    if config.pretrain is None:
        return folder
    from pipeline.encoders.students import save_encoder
    from pipeline.pretraining import starting_point

    model, tokenizer, _ = starting_point(config.pretrain, folder)
    save_encoder(model, tokenizer, scratch / "teacher")
    return scratch / "teacher"


def show_costs(name: str, found: Sequence[Mapping[str, Any]]) -> None:
    """The table for people."""
    from rich.table import Table

    table = Table(title=f"what the distillation of {name} will take here", title_justify="left")
    for heading in ("students", "steps", "tokens", "tokens/s", "padding", "time", "memory", "checkpoint"):
        table.add_column(heading, justify="left" if heading == "students" else "right")
    for cost in found:
        memory = f"{cost['memory_gb']:.1f} GB"
        if cost["gpu_memory_gb"] is not None:
            memory += f" + {cost['gpu_memory_gb']:.1f} GB of the GPU"
        table.add_row(
            ", ".join(cost["students"]),
            f"{cost['steps']:,}",
            f"{cost['tokens']:,}",
            f"{cost['tokens_per_s']:,.0f}",
            f"{cost['padding_share']:.1%}",
            f"{_minutes(cost['seconds'])} ({_minutes(cost['seconds_low'])} to {_minutes(cost['seconds_high'])})",
            memory,
            f"{cost['checkpoint_mb']:,.0f} MB",
        )
    terminal = summary_console()
    terminal.print(table)
    for cost in found:
        terminal.print(
            f"{cost['device']}, {cost['threads']} threads, {cost['precision']}, relation loss: {cost['relation_kl']}; "
            f"{cost['measured_steps']} steps measured"
        )


def _minutes(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
