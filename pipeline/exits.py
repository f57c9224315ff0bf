"""How a command ends: one message on stderr and an exit code that CI and Kubernetes understand."""

import signal
import sys
from collections.abc import Callable, Mapping

import msgspec
import typer

from pipeline.artifact import Artifact
from pipeline.errors import BadRequest, Failure

INTERRUPTED, TERMINATED = 130, 143


def exit_code_of(call: Callable[[], int | None]) -> int:
    """Run `call`: every failure is one message on stderr and its exit code; a bug keeps its stack trace and is 1."""
    signal.signal(signal.SIGTERM, _terminate)  # as PID 1 of a container the default is to ignore it
    try:
        code = call() or 0
    except Failure as failure:
        typer.echo(f"retort: {failure}", err=True)
        code = failure.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except Exception as error:
        usage = getattr(error, "format_message", None)  # click's usage errors
        if usage is None:
            raise
        typer.echo(f"retort: {usage()}", err=True)
        code = BadRequest.exit_code
    if code == INTERRUPTED:  # typer turns ctrl-C into this code without a word
        typer.echo("retort: interrupted; finished stages are kept, run again to go on", err=True)
    sys.stdout.flush()
    return code


def end_by_verdict(artifacts: Mapping[str, Artifact]) -> None:
    """The gate's verdict becomes the exit code: raises GateFailed or Inconclusive unless it passed."""
    from pipeline.gates import Verdict, require_pass

    if "register" in artifacts:
        require_pass(msgspec.convert(artifacts["register"].manifest.facts["verdict"], Verdict))


def _terminate(*_: object) -> None:
    typer.echo("retort: terminated; finished stages are kept, run again to go on", err=True)
    sys.exit(TERMINATED)
