"""The registry as a command opens it, in a process that ends soon after."""

import gc
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def opened_registry(uri: str) -> Iterator[Any]:
    """`existing_registry`, sooner where this process has not loaded MLflow yet. Raises as it does."""
    from pipeline.kept_ledger import existing_registry

    with ExitStack() as stack:
        if "mlflow" in sys.modules:
            client = stack.enter_context(existing_registry(uri))
        else:
            with kept_for_good():
                client = stack.enter_context(existing_registry(uri))
        yield client


@contextmanager
def kept_for_good() -> Iterator[None]:
    """What is made in the block stays until the process ends, and so does the garbage there was: Python looks for no
    cycles in it. For a command alone, not for a run or a server.

    MLflow, pandas and SQLAlchemy make some hundred thousand objects while they are imported. Python would look at them
    again and again, and once more when it ends, which takes a third of the time of a whole `retort rollback`.
    """
    looked = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if looked:
            gc.enable()
