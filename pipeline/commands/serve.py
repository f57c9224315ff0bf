"""The command `retort serve`: it parses, and calls what the image runs."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import WORKSPACE, Key, Root, Settings, TrackingUri


def serve(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="models:/NAME@ALIAS, .../3, a bundle, or a config.")],
    settings: Settings = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one and prints it.")] = 8080,
    tracking_uri: TrackingUri = None,
    threads: Annotated[int | None, typer.Option(help="Of one inference; default: what the cgroup allows.")] = None,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; more are answered 503.")] = 64,
    drain_s: Annotated[float, typer.Option(min=0, help="Seconds to serve on after SIGTERM (Kubernetes: 15).")] = 0.0,
    cache: Annotated[Path | None, typer.Option(help="For downloaded versions; default: in the workspace.")] = None,
    key: Key = None,
    workspace: Root = WORKSPACE,
) -> None:
    """Serve a registered model (its alias is followed) or a bundle folder over HTTP.

    Examples:  retort serve models:/retort-demo@champion --port 8000

      curl -s localhost:8000/classify -H 'content-type: application/json' -d '{"texts": ["Draw a bar plot."]}'
    """
    from pipeline.config import followed
    from pipeline.tracking.client import default_uri
    from serving.__main__ import serve as serve_source

    source, uri = followed(source, settings or ())
    serve_source(
        source,
        host=host,
        port=port,
        tracking_uri=tracking_uri or uri or default_uri(workspace.resolve()),
        cache=cache or workspace / "cache" / "served",
        threads=threads,
        queue=queue,
        drain_s=drain_s,
        key=key,
    )
