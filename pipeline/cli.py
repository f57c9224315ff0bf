"""The command `retort`. Each command parses, calls one function, prints; the last line on stdout is JSON."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.commands import add_commands
from pipeline.commands.options import (
    WORKSPACE,
    Configs,
    ConfigsRegistry,
    Json,
    Root,
    Settings,
    StoreUrl,
    Who,
    echo,
    for_people,
    with_registry,
)
from pipeline.exits import end_by_verdict, exit_code_of

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.workspace import Workspace

app = typer.Typer(
    name="retort",
    help="Compress a Transformer encoder, prove what it lost and gained, register it, serve it.\n\n"
    "Start with:  retort run configs/demo.yaml   then   retort show configs/demo.yaml",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

# What an option is where it is not given: the first of these variables that is set.
ENVIRONMENT = {"workspace": ["RETORT_WORKSPACE"], "store": ["RETORT_STORE"], "tracking_uri": ["MLFLOW_TRACKING_URI"]}
ENVIRONMENT["who"] = ["RETORT_WHO", "GITHUB_ACTOR"]
# What libraries are told that come later, in this process and its children, where the environment does not say.
LIBRARIES = {"ORT_DISABLE_TELEMETRY": "1"}  # importing onnxruntime starts threads that report to its makers


@app.callback()
def _take_environment(context: typer.Context) -> None:
    for name, value in LIBRARIES.items():
        os.environ.setdefault(name, value)
    found = {name: next(filter(None, map(os.environ.get, names)), None) for name, names in ENVIRONMENT.items()}
    told = {name: value for name, value in found.items() if value is not None}
    context.default_map = dict.fromkeys(getattr(context.command, "commands", ()), told)


def _runs(
    configs: list[Path],
    settings: list[str] | None,
    workspace: Path,
    *,
    store: str | None = None,
    registry: str | None = None,
) -> "list[tuple[RunConfig, Workspace]]":
    """Every config, read before anything is done, with the workspace."""
    from pipeline.config import load_config
    from pipeline.workspace import Workspace

    place = Workspace.open(workspace, store_url=store)
    return [(load_config(path, with_registry(path, settings, registry)), place) for path in configs]


def _team() -> Any:
    """For a `with`: this process alone, or in its place among those that torchrun started."""
    from pipeline.team import team_of

    return team_of(int(os.environ.get("WORLD_SIZE", "1")))


@app.command()
def plan(
    configs: Configs,
    settings: Settings = None,
    tracking_uri: ConfigsRegistry = None,
    workspace: Root = WORKSPACE,
    store: StoreUrl = None,
    json_only: Json = False,
) -> None:
    """Say what `run` would do, step by step, without doing it.

    Example:  retort plan configs/demo.yaml --set distill.tokens=100000
    """
    from pipeline.runner import plan as plan_run
    from pipeline.summary import plan_table

    for config, place in _runs(configs, settings, workspace, store=store, registry=tracking_uri):
        planned = plan_run(config, place)
        with for_people(unless=json_only):
            plan_table(config.name, planned)
        echo({"run": config.name, "steps": {one.step.label: one.state for one in planned}})


@app.command()
def run(
    configs: Configs,
    settings: Settings = None,
    until: Annotated[str | None, typer.Option(help="Stop after this stage or step, e.g. quantize.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Only go on with a run that was left unfinished.")] = False,
    who: Who = None,
    tracking_uri: ConfigsRegistry = None,
    workspace: Root = WORKSPACE,
    store: StoreUrl = None,
    json_only: Json = False,
) -> None:
    """Run what is not finished yet, and end with the summary.

    Examples:

      retort run configs/demo.yaml

      retort run configs/sst2-minilm.yaml --until export --set finetune.seed=1

    Ends with 0 when a variant passed its own rules (and with it the version is registered, as challenger or champion),
    66 when none did, 67 when a figure is missing.
    """
    from pipeline.moves import this_user
    from pipeline.resuming import require_unfinished
    from pipeline.runner import plan as plan_run
    from pipeline.runner import run as run_steps
    from pipeline.summary import show_run

    with _team() as team:
        runs = _runs(configs, settings, workspace, store=store, registry=tracking_uri)
        for config, place in runs if resume else ():
            require_unfinished(config, plan_run(config, place), place)
        for config, place in runs:
            artifacts = run_steps(config, place, until=until, team=team, who=who or this_user())
            if team.leads:
                with for_people(unless=json_only):
                    told = show_run(config, place, artifacts)
                echo(told)
                end_by_verdict(artifacts)


@app.command()
def stage(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A stage (export) or a step (export-student).")],
    configs: Configs,
    settings: Settings = None,
    who: Who = None,
    tracking_uri: ConfigsRegistry = None,
    workspace: Root = WORKSPACE,
    store: StoreUrl = None,
    json_only: Json = False,  # noqa: ARG001  (it prints nothing else)
) -> None:
    """Run one stage alone: what a container does. What it reads must be finished.

    Examples:  retort stage quantize configs/demo.yaml

      torchrun --nproc-per-node 4 -m pipeline.cli stage distill configs/demo.yaml --set distill.micro_batches=4
    """
    from pipeline.moves import this_user
    from pipeline.runner import run as run_steps

    with _team() as team:
        for config, place in _runs(configs, settings, workspace, store=store, registry=tracking_uri):
            found = run_steps(config, place, only=name, team=team, who=who or this_user())
            done = {label: str(one.path) for label, one in found.items() if name in (one.manifest.stage, label)}
            if team.leads:
                echo({"run": config.name, "artifacts": done})
            if name == "register":
                end_by_verdict(found)


@app.command()
def pretrain(
    configs: Configs,
    settings: Settings = None,
    tracking_uri: ConfigsRegistry = None,
    workspace: Root = WORKSPACE,
    store: StoreUrl = None,
    json_only: Json = False,  # noqa: ARG001  (it prints nothing else)
) -> None:
    """Make the teacher of the `pretrain` section: masked language modelling, from scratch or continued.

    It gives a teacher the head that output distributions need, or adapts it to a domain.

    Example:  retort pretrain configs/demo.yaml --set 'pretrain={tokens: 1_000_000}'
    """
    from pipeline.runner import pretrain as pretrain_only

    with _team() as team:
        for config, place in _runs(configs, settings, workspace, store=store, registry=tracking_uri):
            made = pretrain_only(config, place, team=team)
            if team.leads:
                echo({"run": config.name, "teacher": str(made.path), **made.manifest.facts})


@app.command("distill-cost")
def distill_cost(
    configs: Configs,
    settings: Settings = None,
    steps: Annotated[int, typer.Option(min=2, help="Steps to measure, after two to warm up.")] = 10,
    workspace: Root = WORKSPACE,
    json_only: Json = False,
) -> None:
    """Measure a few distillation steps here: how long will the whole take, how much memory? Keeps nothing.

    Example:  retort distill-cost configs/demo.yaml --steps 20
    """
    from pipeline.cost import costs, show_costs

    for config, place in _runs(configs, settings, workspace):
        found = costs(config, place, steps=steps)
        with for_people(unless=json_only):
            show_costs(config.name, found)
        echo({"run": config.name, "passes": found})


@app.command()
def show(
    configs: Configs,
    settings: Settings = None,
    tracking_uri: ConfigsRegistry = None,
    workspace: Root = WORKSPACE,
    store: StoreUrl = None,
    json_only: Json = False,
) -> None:
    """Show a run's summary again: sizes, quality, latency, the gate's verdict, and where to look.

    Example:  retort show configs/demo.yaml
    """
    from pipeline.summary import show_run

    for config, place in _runs(configs, settings, workspace, store=store, registry=tracking_uri):
        with for_people(unless=json_only):
            told = show_run(config, place, place.finished(config.name, config=config.model_dump(mode="json")))
        echo(told)


add_commands(app)


def main() -> None:
    """The command `retort`."""
    sys.exit(exit_code_of(lambda: app(standalone_mode=False)))


if __name__ == "__main__":  # torchrun -m pipeline.cli
    main()
