"""Where a run's world is kept, and what a run called NAME did last."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pipeline.artifact import Artifact, write_json
from pipeline.errors import BadArtifact, BadRequest
from pipeline.store import Store, open_store

RECORD = "run.json"


@dataclass(frozen=True)
class Workspace:
    """Artifacts, checkpoints, locks, caches and run folders under one root."""

    root: Path
    store: Store

    @classmethod
    def open(cls, root: Path, *, store_url: str | None = None) -> "Workspace":
        """The workspace at `root`; artifacts also go to `store_url` when it is given (any fsspec URL).

        Raises BadRequest where no folder can be made there.
        """
        root = root.resolve()
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadRequest(
                f"the workspace {root} cannot be made ({error.strerror}); choose another with --workspace"
            ) from error
        return cls(root=root, store=open_store(store_url, root))

    @property
    def cache(self) -> Path:
        """What may be deleted at any time."""
        return self.root / "cache"

    def run_folder(self, name: str) -> Path:
        """Where a run says what it did."""
        return self.root / "runs" / name

    def record(self, name: str, *, config: Any, steps: Mapping[str, Any]) -> None:
        """Keep what a run did; steps of an earlier, longer run of the very same config stay known."""
        earlier = self._read(name) or {}
        known = earlier["steps"] if earlier.get("config") == config else {}
        write_json(self.run_folder(name) / RECORD, {"name": name, "config": config, "steps": {**known, **steps}})

    def finished(self, name: str, *, config: Any) -> dict[str, Artifact]:
        """What is there of a run of this very config, by label, whatever its age.

        Raises BadArtifact when nothing is, or when an artifact it made was removed since.
        """
        record = self._read(name)
        if record is None:
            raise BadArtifact(f"nothing of the run {name!r} is in {self.root}; `retort run` makes it")
        if record["config"] != config:
            raise BadArtifact(
                f"the last run called {name!r} had other settings; give its --set again, or `retort run` these"
            )
        found = {label: self.store.get(step["key"]) for label, step in record["steps"].items()}
        gone = [record["steps"][label]["key"] for label, artifact in found.items() if artifact is None]
        if gone:
            raise BadArtifact(f"run {name!r}: artifact {gone[0]} was removed since; `retort run` makes it again")
        return {label: artifact for label, artifact in found.items() if artifact is not None}

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.run_folder(name) / RECORD
        return read_record(path) if path.is_file() else None


def read_record(path: Path) -> dict[str, Any]:
    """What a run left of itself; BadArtifact where that cannot be read."""
    try:
        record: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadArtifact(f"{path} cannot be read ({error}); remove it and run again") from error
    return record
