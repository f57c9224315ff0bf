"""Arguments and options that several commands take, and the JSON line each ends with."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
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
ConfigsRegistry = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        help="The registry of a config that names none (register.tracking_uri); else MLFLOW_TRACKING_URI, else the "
        "workspace's own.",
    ),
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


@contextmanager
def for_people(*, unless: bool) -> Iterator[None]:
    """For a `with` around what prints for people: nothing of it, where the line of JSON alone is asked for."""
    if not unless:
        yield
        return
    with redirect_stdout(StringIO()):
        yield


def with_registry(path: Path, settings: Sequence[str] | None, tracking_uri: str | None) -> tuple[str, ...]:
    """A config's settings, and its registry where it names none and one is given: a part of the run as any other, which
    is sealed, looked up and compared with it. Raises as `load_config` does."""
    from pipeline.config import load_config

    settings = tuple(settings or ())
    if tracking_uri is None or load_config(path, settings).register.tracking_uri is not None:
        return settings
    return (*settings, f"register.tracking_uri={msgspec.json.encode(tracking_uri).decode()}")
