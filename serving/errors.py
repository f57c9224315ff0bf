"""What can go wrong in the half that ships, each with the exit code it ends a process with.

    Failure                 1
    ├── BadRequest         64   what was asked for cannot be done: fix the request
    ├── BadArtifact        65   a bundle that is missing, altered or not for this machine
    └── Transient          75   try again later: registry away, port taken, no space

`pipeline.errors` adds the gate's verdicts to this tree; a message says what, the value, and the way out.
"""


class Failure(Exception):  # noqa: N818  (the tree is named by what happened)
    """An expected failure: its message is complete without a stack trace."""

    exit_code = 1


class BadRequest(Failure):
    """The request itself is wrong; repeating it cannot help."""

    exit_code = 64


class BadArtifact(Failure):
    """Data, weights or a bundle are missing, corrupt or unfit."""

    exit_code = 65


class Transient(Failure):
    """The world was not ready; the same request may succeed later."""

    exit_code = 75
