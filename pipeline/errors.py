"""The error tree and its exit codes: the interface to CI and Kubernetes.

    Failure                 1   a bug is 1 too: anything not in this tree
    ├── BadRequest         64   config, command line, a value that cannot work       never retried
    ├── BadArtifact        65   data, weights, bundle: missing, corrupt, unfit       never retried
    ├── GateFailed         66   measured, and not good enough                        never retried
    ├── Inconclusive       67   measured, and not known                              never retried
    └── Transient          75   registry away, port taken, no space                  may be retried
    (interrupted: 130 by ctrl-C, 143 by SIGTERM; both resume)

The first half lives in `serving.errors`, because serving imports nothing of ours.
"""

from serving.errors import BadArtifact, BadRequest, Failure, Transient

__all__ = ["FINAL_EXIT_CODES", "BadArtifact", "BadRequest", "Failure", "GateFailed", "Inconclusive", "Transient"]


class GateFailed(Failure):
    """No variant passed the gate; the verdict is kept, nothing is registered."""

    exit_code = 66


class Inconclusive(Failure):
    """A gate's figure is missing or too uncertain; nothing is registered."""

    exit_code = 67


# A Job must not be retried on these (k8s/job.yaml's podFailurePolicy agrees with them).
FINAL_EXIT_CODES = (1, BadRequest.exit_code, BadArtifact.exit_code, GateFailed.exit_code, Inconclusive.exit_code)
