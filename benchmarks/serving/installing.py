"""An environment of its own for each peer, made once: its pinned requirements beside the marker that they are in."""

import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.children import last_lines
from benchmarks.serving.contestants import Peer
from serving.errors import Transient

MARKER: Final = "installed.txt"  # the requirements that were installed, written last
Run = Callable[[list[str]], "subprocess.CompletedProcess[str]"]


def bin_folder(peer: Peer, cache: Path) -> Path:
    return cache / peer.name / "bin"


def install(peer: Peer, cache: Path, *, run: Run | None = None) -> Path:
    """Make the peer's environment below `cache`, unless it is there with these very requirements; where its programs
    are.

    Raises:
        Transient: pip could not; its last lines.
    """
    folder, wanted = cache / peer.name, peer.requirements.read_text(encoding="utf-8")
    marker = folder / MARKER
    if marker.is_file() and marker.read_text(encoding="utf-8") == wanted:
        return bin_folder(peer, cache)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True, symlinks=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    told = (run or _run)([*pip, "-r", str(peer.requirements)])
    if told.returncode:
        raise Transient(
            f"{peer.name} cannot be installed (pip ended with {told.returncode}); its last lines:\n  "
            f"{last_lines(told.stderr)}"
        )
    marker.write_text(wanted, encoding="utf-8")
    return bin_folder(peer, cache)


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    sys.stderr.write(f"installing: {' '.join(command[-2:])}\n")
    return subprocess.run(command, capture_output=True, text=True, check=False)
