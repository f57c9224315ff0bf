"""Libraries talk on stderr in their own ways; here they are asked to leave it to the run's own bars and lines."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


def quiet_transformers() -> None:
    """No bars for loading and saving, and no warnings about heads that are new on purpose."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


@contextmanager
def below_error_muted() -> Iterator[None]:
    """Export and quantization advise through the root logger; what is wrong there is an error of ours, not advice."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
