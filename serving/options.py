"""What a server is told on its command line; `python -m serving` and `retort serve` take the same."""

from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from serving.security.notes import LogFormat
from serving.tallies import FEWEST_REQUESTS, LONGEST_WINDOW_S

DEFAULT_QUEUE: Final = 64
DEFAULT_CONNECTIONS: Final = 1024
DEFAULT_BODY_BYTES: Final = 4 * 2**20
DRAIN_HELP: Final = "Seconds to serve on after SIGTERM, while /v2/health/ready says 503 (Kubernetes: 15)."
API_KEYS_HELP: Final = "File of NAME:SHA256 lines: inference needs one of these keys. Read again when it changes."


def _share(percent: float) -> float:
    """More than all of the requests cannot fail."""
    if percent < 100:
        return percent
    raise typer.BadParameter(f"more than {percent:g} % never fail; give less than 100, or 0 to take no version back")


Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 in a container.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port and prints it.")]
GrpcPort = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Open Inference Protocol over gRPC, too; 0 takes any free port.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="Compute threads; by default what affinity and cgroup allow.")]
Queue = Annotated[int, typer.Option(min=1, help="Requests that may wait; more are answered 503.")]
MaxWaitMs = Annotated[
    float | None,
    typer.Option(min=0.001, help="Longest predicted wait; above it 503. By default 25, or 4 calls."),
]
MaxConnections = Annotated[int, typer.Option(min=1, help="Clients connected at a time; more are told 503 and closed.")]
MaxBodyBytes = Annotated[
    int, typer.Option(min=1, max=2**31 - 1, help="Largest body of a request, over gRPC its message; more is told 413.")
]
ApiKeys = Annotated[Path | None, typer.Option(help=API_KEYS_HELP)]
Canary = Annotated[
    str | None, typer.Option(help="Answer this share of requests by another alias' version, e.g. @challenger=5%.")
]
Shadow = Annotated[
    str | None,
    typer.Option(help="Compute what was answered by another alias' version too, when idle, and compare: @challenger."),
]
RollbackShare = Annotated[
    float,
    typer.Option(
        min=0, max=100, callback=_share, help="Percent of failures above which a new version is taken back; 0: never."
    ),
]
RollbackRequests = Annotated[int, typer.Option(min=FEWEST_REQUESTS, help="Of the last requests, at least this many.")]
RollbackWindowS = Annotated[float, typer.Option(min=1, max=LONGEST_WINDOW_S, help="Within this many seconds.")]
AccessLog = Annotated[
    bool,
    typer.Option("--access-log", help="A line for each request that asks for more than signs of life; else for 5xx."),
]
LogFormatOption = Annotated[LogFormat, typer.Option(help="Lines for people, or one JSON object each.")]
Page = Annotated[bool, typer.Option("--page/--no-page", help="The page for people at /.")]
LogTexts = Annotated[
    bool, typer.Option("--log-texts", help="Put the first 200 characters of a request's body into its line.")
]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Of one server."""

    source: str
    cache: Path
    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int | None = None
    tracking_uri: str | None = None
    key: Path | None = None
    threads: int | None = None
    queue: int = DEFAULT_QUEUE
    max_wait_ms: float | None = None
    max_connections: int = DEFAULT_CONNECTIONS
    max_body_bytes: int = DEFAULT_BODY_BYTES
    drain_s: float = 0.0
    api_keys: Path | None = None
    canary: str | None = None
    shadow: str | None = None
    rollback_share: float = 20.0
    rollback_requests: int = 50
    rollback_window_s: float = 30.0
    access_log: bool = False
    log_format: LogFormat = "text"
    log_texts: bool = False
    page: bool = True
    traces: bool = False  # OTEL_EXPORTER_OTLP_ENDPOINT is set
