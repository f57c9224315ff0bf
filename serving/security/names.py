"""What a request is called, in its answer and in the log: as its client calls it, or a name of our own.

A name of our own is a prefix that is this process's alone and a counter: a random one for each would cost more than all
else that is done for a request outside the model.
"""

import itertools
import re
import secrets
from typing import Final

HEADER: Final = b"x-request-id"
_FIT: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Names:
    """Names requests. `prefix` tells this process's from those of others."""

    def __init__(self, *, prefix: str | None = None) -> None:
        self._prefix = prefix or secrets.token_hex(6)
        self._numbers = itertools.count(1)

    def name(self, given: str | None) -> str:
        """The client's own where it is fit for a header and a log line, else a new one."""
        if given is not None and _FIT.fullmatch(given):
            return given
        return f"{self._prefix}-{next(self._numbers):x}"
