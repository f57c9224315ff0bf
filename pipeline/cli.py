"""The command `retort`. Thin: each command parses, calls one function, prints; the last line on stdout is JSON for
machines."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

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

Configs = Annotated[
    list[Path], typer.Argument(metavar="CONFIG...", help="YAML files, as in configs/; run in this order.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Change one setting; the value is YAML. May be repeated."),
]
Root = Annotated[
    Path,
    typer.Option("--workspace", envvar="RETORT_WORKSPACE", help="Where artifacts, runs and the default MLflow live."),
]
StoreUrl = Annotated[
    str | None,
    typer.Option("--store", envvar="RETORT_STORE", help="Share artifacts through an fsspec URL (s3://, gs://)."),
]
WORKSPACE = Path(".retort")


def _echo(value: Any) -> None:
    typer.echo(msgspec.json.encode(value).decode())


def _each(configs: list[Path], settings: list[str] | None) -> "list[RunConfig]":
    from pipeline.config import load_config

    return [load_config(path, settings or ()) for path in configs]


@app.command()
def plan(
    configs: Configs,
    settings: Settings = None,
    workspace: Root = WORKSPACE,
    store: StoreUrl = None,
) -> None:
    """Say what `run` would do, step by step, without doing it.

    Example:  retort plan configs/demo.yaml --set distill.tokens=100000
    """
    from pipeline.runner import plan as plan_run
    from pipeline.summary import plan_table

    place = _open(workspace, store)
    for config in _each(configs, settings):
        planned = plan_run(config, place)
        plan_table(config.name, planned)
        _echo({"run": config.name, "steps": {one.step.label: one.state for one in planned}})


@app.command()
def run(
    configs: Configs,
    settings: Settings = None,
    until: Annotated[str | None, typer.Option(help="Stop after this stage or step, e.g. quantize.")] = None,
    workspace: Root = WORKSPACE,
    store: StoreUrl = None,
) -> None:
    """Run what is not finished yet, and end with the summary.

    Examples:

      retort run configs/demo.yaml

      retort run configs/sst2-minilm.yaml --until export --set finetune.seed=1

    Ends with 0 when a model was registered, 66 when no variant passed the gate, 67 when a figure is missing.
    """
    from pipeline.runner import run as run_steps
    from pipeline.summary import show_run

    place = _open(workspace, store)
    for config in _each(configs, settings):
        artifacts = run_steps(config, place, until=until)
        _echo(show_run(config, place, artifacts))
        end_by_verdict(artifacts)


@app.command()
def stage(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A stage (export) or a step (export-student).")],
    configs: Configs,
    settings: Settings = None,
    workspace: Root = WORKSPACE,
    store: StoreUrl = None,
) -> None:
    """Run one stage alone: what a container does. What it reads must be finished.

    Example:  retort stage quantize configs/demo.yaml
    """
    from pipeline.runner import run as run_steps

    place = _open(workspace, store)
    for config in _each(configs, settings):
        artifacts = run_steps(config, place, only=name)
        done = {label: str(found.path) for label, found in artifacts.items() if name in (found.manifest.stage, label)}
        _echo({"run": config.name, "artifacts": done})
        if name == "register":
            end_by_verdict(artifacts)


@app.command()
def show(
    configs: Configs,
    settings: Settings = None,
    workspace: Root = WORKSPACE,
    store: StoreUrl = None,
) -> None:
    """Show a run's summary again: sizes, quality, latency, the gate's verdict, and where to look.

    Example:  retort show configs/demo.yaml
    """
    from pipeline.summary import show_run

    place = _open(workspace, store)
    for config in _each(configs, settings):
        _echo(show_run(config, place, place.finished(config.name, config=config.model_dump(mode="json"))))


@app.command()
def verify(
    targets: Annotated[
        list[Path], typer.Argument(metavar="CONFIG|FOLDER...", help="A run's config, an artifact or a bundle.")
    ],
    settings: Settings = None,
    workspace: Root = WORKSPACE,
    store: StoreUrl = None,
) -> None:
    """Read every sealed file again and compare it with its digest.

    Examples:  retort verify configs/demo.yaml      retort verify path/to/bundle
    """
    from pipeline.verification import verify_target

    place = _open(workspace, store)
    verified = [name for target in targets for name in verify_target(target, settings or (), place)]
    _echo({"verified": verified})


@app.command()
def serve(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="models:/NAME@ALIAS, models:/NAME/3, a bundle folder, or a run's config."
        ),
    ],
    settings: Settings = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one and prints it.")] = 8080,
    tracking_uri: Annotated[
        str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="The registry; default: the workspace's own.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of one inference; default: what the cgroup allows.")
    ] = None,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; more are answered 503.")] = 64,
    drain_s: Annotated[float, typer.Option(min=0, help="Seconds to serve on after SIGTERM (Kubernetes: 15).")] = 0.0,
    cache: Annotated[
        Path | None, typer.Option(help="Where downloaded versions are kept; default: in the workspace.")
    ] = None,
    workspace: Root = WORKSPACE,
) -> None:
    """Serve a registered model (its alias is followed) or a bundle folder over HTTP.

    Examples:  retort serve models:/retort-demo@champion --port 8000

      curl -s localhost:8000/classify -H 'content-type: application/json' -d '{"texts": ["Draw a bar plot."]}'
    """
    from pipeline.config import load_config
    from pipeline.tracking import default_uri
    from serving.__main__ import serve as serve_source

    uri = tracking_uri
    if source.endswith((".yaml", ".yml")):
        config = load_config(Path(source), settings or ())
        uri = uri or config.register.tracking_uri
        source = f"models:/{config.register.name}@{config.register.alias}"
    serve_source(
        source,
        host=host,
        port=port,
        tracking_uri=uri or default_uri(workspace.resolve()),
        cache=cache or workspace / "cache" / "served",
        threads=threads,
        queue=queue,
        drain_s=drain_s,
    )


def _open(workspace: Path, store: str | None) -> "Workspace":
    from pipeline.workspace import Workspace

    return Workspace.open(workspace, store_url=store)


def main() -> None:
    """The command `retort`."""
    sys.exit(exit_code_of(lambda: app(standalone_mode=False)))
