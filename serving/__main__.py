"""`python -m serving SOURCE`: the command the image runs. `retort serve` calls the same `serve`."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from serving.errors import BadRequest, Failure

# Set only where the environment does not say otherwise.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's own 7 keep an unreachable registry waiting for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
DEFAULT_CACHE = Path("~/.cache/retort")
_INTERRUPTED = 130

TrackingUri = Annotated[
    str | None, typer.Option(envvar=["RETORT_TRACKING_URI", "MLFLOW_TRACKING_URI"], help="The MLflow registry.")
]
Cache = Annotated[Path, typer.Option(envvar="RETORT_CACHE", help="Where downloaded versions are kept.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Compute threads; by default what affinity and cgroup allow.")]
DrainS = Annotated[
    float, typer.Option(min=0, envvar="RETORT_DRAIN_S", help="Seconds to serve on after SIGTERM (Kubernetes: 15).")
]
Key = Annotated[
    Path | None, typer.Option(envvar="RETORT_KEY", help="Public key (PEM): serve only what its owner signed.")
]

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def serve(
    source: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    tracking_uri: str | None = None,
    cache: Path = DEFAULT_CACHE,
    threads: int | None = None,
    queue: int = 64,
    drain_s: float = 0.0,
    key: Path | None = None,
) -> None:
    """Serve a bundle folder or a registered model until SIGTERM; raises a Failure where that cannot begin."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    from serving.server import run

    cache = cache.expanduser()
    run(
        source,
        host=host,
        port=port,
        tracking_uri=tracking_uri,
        cache=cache,
        threads=threads,
        queue=queue,
        drain_s=drain_s,
        key=key,
    )


@app.command()
def command(
    source: Annotated[str, typer.Argument(help="A bundle folder, models:/NAME@ALIAS or models:/NAME/VERSION.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 in a container.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port and prints it.")] = 8080,
    tracking_uri: TrackingUri = None,
    cache: Cache = DEFAULT_CACHE,
    threads: Threads = None,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; more are answered 503.")] = 64,
    drain_s: DrainS = 0.0,
    key: Key = None,
) -> None:
    """Answer HTTP requests with a model: POST /classify, /tag or /embed as its task is, GET /v2/health/ready, /metrics.

    \b
    A folder that `retort run` exported:
        python -m serving runs/demo/student-int8
    The registered champion; follows the alias to each new version:
        python -m serving models:/retort-demo@champion --tracking-uri sqlite:///mlflow.db
    In a container:
        python -m serving models:/retort-demo@champion --host 0.0.0.0 --cache /tmp/models --drain-s 15

    \b
    Then:
        curl localhost:8080/classify -d '{"texts": ["what a fine day"]}'
    """
    serve(
        source,
        host=host,
        port=port,
        tracking_uri=tracking_uri,
        cache=cache,
        threads=threads,
        queue=queue,
        drain_s=drain_s,
        key=key,
    )


def main() -> None:
    try:
        app(prog_name="python -m serving", standalone_mode=False)
    except Failure as failure:
        _exit(str(failure), code=failure.exit_code)
    except typer.TyperException as usage:
        _exit(f"{usage.format_message().rstrip('.')}; see python -m serving --help", code=BadRequest.exit_code)
    except typer.Abort:
        _exit("interrupted", code=_INTERRUPTED)


def _exit(message: str, *, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
