"""NNCF without what it does beside its work: it prints to stdout, draws bars, and reports its use to its makers."""

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from typing import Any

from pipeline.errors import BadRequest
from pipeline.quiet import below_error_muted


@contextmanager
def silent_nncf() -> Iterator[Any]:
    """The library.

    It sends events through openvino_telemetry where it can import that, so it is imported as if that were absent; where
    another part of this process was first, its sender is replaced by the stub it has for that case.

    Raises:
        BadRequest: it is not installed.
    """
    if find_spec("nncf") is None:
        raise BadRequest("NNCF is not installed here: pip install 'retort[quantization]'")
    with redirect_stdout(io.StringIO()), below_error_muted():
        library = _imported()
        # Its logger alone: NNCF's own set_log_level changes every handler it finds there, whoever's they are.
        logging.getLogger(library.__name__).setLevel(logging.ERROR)
        yield library


def _imported() -> Any:
    telemetry = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # what Python knows as "cannot be imported"
    try:
        import nncf
        from nncf.telemetry import decorator, wrapper
    finally:
        del sys.modules["openvino_telemetry"]
        if telemetry is not None:
            sys.modules["openvino_telemetry"] = telemetry
    decorator.telemetry = wrapper.NNCFTelemetryStub()
    return nncf
