"""Infinity's own command with the session options that everybody has: it has none for them, and onnxruntime's defaults
put a thread on a core that is not the server's, and spin there."""

from typing import Any

import onnxruntime
from classifier import session_options

Session = onnxruntime.InferenceSession


class OneCore(Session):  # type: ignore[misc, valid-type]
    """A session with those options, whatever it was given."""

    def __init__(self, path: Any, *_: Any, **how: Any) -> None:
        super().__init__(path, **how | {"sess_options": session_options()})


if __name__ == "__main__":
    onnxruntime.InferenceSession = OneCore  # before Infinity imports it
    from infinity_emb.cli import cli

    cli()
