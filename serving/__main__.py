"""`python -m serving SOURCE`: the command the image runs. `retort serve` calls the same `serve`."""

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
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

CodeOf = Callable[[Callable[[], None]], int]

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def serve(source: str, *, cache: Path = DEFAULT_CACHE, code_of: CodeOf | None = None, **options: Any) -> NoReturn:
    """Serve a bundle folder or a registered model until SIGTERM, and end the process. The options are those of
    serving.options.Options; `code_of` tells of what a call failed with, and says the exit code."""
    end_with(partial(code_of or _code_of, partial(_serve, source, cache=cache, **options)))


def _serve(source: str, *, cache: Path, **options: Any) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))  # until it serves; PID 1 has no default for it
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from serving.tracing import is_configured

    told = asked.Options(source=source, cache=cache.expanduser(), traces=is_configured(os.environ), **options)
    with logging_to(sys.stderr.fileno(), form=told.log_format):
        from serving.server import run

        run(told)


def end_with(code_of: Callable[[], int]) -> NoReturn:
    """Call it, and end the process with the exit code that it says; a bug is told with its trace, and is 1."""
    try:
        code = code_of()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)  # as Python reads it
    except BaseException:  # noqa: BLE001 - Python's own end would do the same, around the threads that are left
        with contextlib.suppress(OSError):
            traceback.print_exc()
        code = 1
    end(code)


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
    max_body_bytes: asked.MaxBodyBytes = asked.DEFAULT_BODY_BYTES,
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
    end_with(lambda: _code_of(lambda: app(prog_name="python -m serving", standalone_mode=False)))


def _code_of(call: Callable[[], object]) -> int:
    """Every failure is one message on stderr and its exit code."""
    try:
        call()
    except Failure as failure:
        message, code = str(failure), failure.exit_code
    except typer.TyperException as usage:
        message, code = f"{usage.format_message().rstrip('.')}; see python -m serving --help", BadRequest.exit_code
    except (typer.Abort, KeyboardInterrupt):
        message, code = "interrupted", _INTERRUPTED
    else:
        return 0
    print(f"error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
