"""`retort serve`: the server, with this workspace's registry and the models that configs register."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import WORKSPACE, Key, Root, Settings, TrackingUri
from pipeline.exits import exit_code_of
from serving import options as asked


def serve(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="models:/NAME@ALIAS, .../3, a bundle, or a config.")],
    settings: Settings = None,
    host: asked.Host = "127.0.0.1",
    port: asked.Port = 8080,
    grpc_port: asked.GrpcPort = None,
    tracking_uri: TrackingUri = None,
    cache: Annotated[Path | None, typer.Option(help="For downloaded versions; default: in the workspace.")] = None,
    key: Key = None,
    threads: asked.Threads = None,
    queue: asked.Queue = asked.DEFAULT_QUEUE,
    max_wait_ms: asked.MaxWaitMs = None,
    max_connections: asked.MaxConnections = asked.DEFAULT_CONNECTIONS,
    max_body_bytes: asked.MaxBodyBytes = asked.DEFAULT_BODY_BYTES,
    drain_s: Annotated[float, typer.Option(min=0, help=asked.DRAIN_HELP)] = 0.0,
    api_keys: asked.ApiKeys = None,
    canary: asked.Canary = None,
    shadow: asked.Shadow = None,
    rollback_share: asked.RollbackShare = 20.0,
    rollback_requests: asked.RollbackRequests = 50,
    rollback_window_s: asked.RollbackWindowS = 30.0,
    access_log: asked.AccessLog = False,
    log_format: asked.LogFormatOption = "text",
    log_texts: asked.LogTexts = False,
    page: asked.Page = True,
    workspace: Root = WORKSPACE,
) -> None:
    """Serve a registered model (its alias is followed) or a bundle folder over HTTP.

    Examples:  retort serve models:/retort-demo@champion --port 8000

      retort serve models:/retort-demo@champion --shadow @challenger --canary @challenger=5%

      curl -s localhost:8000/classify -H 'content-type: application/json' -d '{"texts": ["Draw a bar plot."]}'
    """
    told = locals()
    from pipeline.config import followed
    from pipeline.tracking.client import default_uri
    from serving.__main__ import serve as serve_source

    options = {name: value for name, value in told.items() if name not in ("source", "settings", "workspace")}
    source, uri = followed(source, settings or ())
    options["tracking_uri"] = tracking_uri or uri or default_uri(workspace.resolve())
    options["cache"] = cache or workspace / "cache" / "served"
    serve_source(source, code_of=exit_code_of, **options)
