"""Whom a walk tells what it does: somebody who records it (recording.py), or nobody."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pipeline.artifact import Artifact
    from pipeline.graph import Step


class Record(Protocol):
    """What is told of each step. For a `with`: its end is the run's."""

    @property
    def outbox(self) -> Path | None: ...
    def started(self, step: "Step", key: str, digests: Mapping[str, str]) -> None: ...
    def sealed(self, step: "Step", artifact: "Artifact", digests: Mapping[str, str]) -> None: ...
    def done(self, step: "Step", artifact: "Artifact", digests: Mapping[str, str]) -> None: ...
    def __enter__(self) -> object: ...
    def __exit__(self, *_: object) -> None: ...


class Unrecorded:
    """Nobody is told."""

    @property
    def outbox(self) -> Path | None:
        """There is none."""
        return None

    def started(self, step: "Step", key: str, digests: Mapping[str, str]) -> None:
        """Nothing."""

    def sealed(self, step: "Step", artifact: "Artifact", digests: Mapping[str, str]) -> None:
        """Nothing."""

    def done(self, step: "Step", artifact: "Artifact", digests: Mapping[str, str]) -> None:
        """Nothing."""

    def __enter__(self) -> object:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing."""
