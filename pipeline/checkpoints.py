"""The states of a training run that survive a kill: each written whole or not at all, the last two kept."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

KEPT_CHECKPOINTS = 2


@dataclass
class Checkpoints:
    """A folder that keeps the last two states of a training run, each written whole or not at all."""

    folder: Path
    every_s: float = 60.0

    def save(self, state: Mapping[str, Any], *, step: int) -> None:
        """Write the state after `step` steps."""
        import torch

        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / "partial.pt"  # torch.save refuses a name that begins with a dot
        torch.save(dict(state), partial)
        partial.replace(self.folder / f"step-{step:08d}.pt")
        for old in self._newest_first()[KEPT_CHECKPOINTS:]:
            old.unlink()

    def latest(self) -> dict[str, Any] | None:
        """The newest state that can be read, or None: a power cut may take what a file held, so two are kept."""
        import torch

        for path in self._newest_first():
            with suppress(RuntimeError, EOFError, UnpicklingError):
                state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
                return state
        return None

    def _newest_first(self) -> list[Path]:
        """By the time of writing: a run that had to begin anew has lower steps than what it left behind."""
        return sorted(
            self.folder.glob("step-*.pt"), key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True
        )
