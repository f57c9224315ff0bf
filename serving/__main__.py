"""`python -m serving SOURCE`: the command the image runs. `retort serve` calls the same `serve`."""

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from serving import options as asked
from serving.errors import BadRequest, Failure
from serving.security.notes import logging_to

# Set only where the environment does not say otherwise.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's own 7 keep an unreachable registry waiting for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "OMP_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",  # importing onnxruntime starts threads that report to its makers, and leaves a file
    "TOKENIZERS_PARALLELISM": "false",
}
DEFAULT_CACHE = Path("~/.cache/retort")
_INTERRUPTED = 130
_TERMINATED = 143

TrackingUri = Annotated[
    str | None, typer.Option(envvar=["RETORT_TRACKING_URI", "MLFLOW_TRACKING_URI"], help="The MLflow registry.")
]
Cache = Annotated[Path, typer.Option(envvar="RETORT_CACHE", help="Where downloaded versions are kept.")]
DrainS = Annotated[float, typer.Option(min=0, envvar="RETORT_DRAIN_S", help=asked.DRAIN_HELP)]
Key = Annotated[
    Path | None, typer.Option(envvar="RETORT_KEY", help="Public key (PEM): serve only what its owner signed.")
]
ApiKeys = Annotated[Path | None, typer.Option(envvar="RETORT_API_KEYS", help=asked.API_KEYS_HELP)]

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def serve(source: str, *, cache: Path = DEFAULT_CACHE, **options: Any) -> None:
    """Serve a bundle folder or a registered model until SIGTERM, and end the process; raises a Failure where that
    cannot begin. The options are those of serving.options.Options."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))  # until it serves; PID 1 has no default for it
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from serving.tracing import is_configured

    told = asked.Options(source=source, cache=cache.expanduser(), traces=is_configured(os.environ), **options)
    with logging_to(sys.stderr.fileno(), form=told.log_format):
        from serving.server import run

        run(told)
    end(0)


def end(code: int) -> NoReturn:
    """End the process: all of its work is done, and its log is written. A thread that is left, loading a version or
    computing what nobody waits for, may be in code that aborts the process when the interpreter ends around it: then
    the process goes as it is."""
    if threading.active_count() > 1:
        with contextlib.suppress(OSError):  # nobody reads it any more
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)


@app.command()
def command(
    source: Annotated[str, typer.Argument(help="A bundle folder, models:/NAME@ALIAS or models:/NAME/VERSION.")],
    host: asked.Host = "127.0.0.1",
    port: asked.Port = 8080,
    grpc_port: asked.GrpcPort = None,
    tracking_uri: TrackingUri = None,
    cache: Cache = DEFAULT_CACHE,
    key: Key = None,
    threads: asked.Threads = None,
    queue: asked.Queue = asked.DEFAULT_QUEUE,
    max_wait_ms: asked.MaxWaitMs = None,
    max_connections: asked.MaxConnections = asked.DEFAULT_CONNECTIONS,
    drain_s: DrainS = 0.0,
    api_keys: ApiKeys = None,
    canary: asked.Canary = None,
    shadow: asked.Shadow = None,
    rollback_share: asked.RollbackShare = 20.0,
    rollback_requests: asked.RollbackRequests = 50,
    rollback_window_s: asked.RollbackWindowS = 30.0,
    access_log: asked.AccessLog = False,
    log_format: asked.LogFormatOption = "text",
    log_texts: asked.LogTexts = False,
    page: asked.Page = True,
) -> None:
    """Answer HTTP requests with a model: POST /classify, /tag or /embed as its task is; a page at /, docs at
    /openapi.json.

    \b
    A folder that `retort run` exported:
        python -m serving runs/demo/student-int8
    The registered champion; follows the alias to each new version:
        python -m serving models:/retort-demo@champion --tracking-uri sqlite:///mlflow.db
    A twentieth of the requests is answered by the next version, and taken back where it fails:
        python -m serving models:/retort-demo@champion --canary @challenger=5%
    In a container:
        python -m serving models:/retort-demo@champion --host 0.0.0.0 --cache /tmp/models --drain-s 15 --log-format json
    For those who have a key; the first line makes one:
        python -m serving.security.keys new alice >> keys.txt
        python -m serving runs/demo/student-int8 --api-keys keys.txt

    \b
    Then:
        curl localhost:8080/classify -d '{"texts": ["what a fine day"]}'
    """
    serve(**locals())


def main() -> None:
    try:
        app(prog_name="python -m serving", standalone_mode=False)
    except SystemExit as ended:
        end(int(ended.code or 0))
    except Failure as failure:
        _exit(str(failure), code=failure.exit_code)
    except typer.TyperException as usage:
        _exit(f"{usage.format_message().rstrip('.')}; see python -m serving --help", code=BadRequest.exit_code)
    except typer.Abort:
        _exit("interrupted", code=_INTERRUPTED)


def _exit(message: str, *, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    end(code)


if __name__ == "__main__":
    main()
