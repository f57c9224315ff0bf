"""Arguments and options that several commands take, and the JSON line each ends with."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

Configs = Annotated[list[Path], typer.Argument(metavar="CONFIG...", help="YAML files as in configs/; run in order.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Change one setting; the value is YAML. May be repeated."),
]
Root = Annotated[
    Path,
    typer.Option("--workspace", help="Where artifacts, runs and the default MLflow live; else RETORT_WORKSPACE."),
]
StoreUrl = Annotated[
    str | None,
    typer.Option("--store", help="Share artifacts through an fsspec URL (s3://, gs://); else RETORT_STORE."),
]
TrackingUri = Annotated[
    str | None,
    typer.Option("--tracking-uri", help="The registry; else MLFLOW_TRACKING_URI, else the workspace's own."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the line of JSON alone.")]
Who = Annotated[
    str | None,
    typer.Option("--who", help="Who moves it; else RETORT_WHO, GITHUB_ACTOR, this machine's user."),
]
Key = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="A public key (PEM): what its owner signed alone will do.")
]
WORKSPACE = Path(".retort")


def echo(value: Any) -> None:
    """The last line on stdout, for machines."""
    typer.echo(msgspec.json.encode(value).decode())
