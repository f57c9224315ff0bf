"""Raw outputs on disk: `NAME.npy` holds all rows (R, C) float32, and where an item has a row per token `NAME.rows.npy`
beside it says how many rows each item has (N,) int64.

Shapes: N items, L tokens of one item, C outputs, R rows of all items.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.errors import BadArtifact

Floats = npt.NDArray[np.float32]


def write_outputs(path: Path, outputs: Sequence[Floats]) -> None:
    """Write one array per item: (C,) for each, or (L, C) for each; L may differ."""
    rows_RC = np.concatenate([np.atleast_2d(output) for output in outputs])
    np.save(path, np.asarray(rows_RC, np.float32))
    if outputs[0].ndim == 2:
        np.save(_rows_file(path), np.array([len(output) for output in outputs], np.int64))
    else:
        _rows_file(path).unlink(missing_ok=True)  # left by an earlier measurement of another task


def read_outputs(path: Path) -> list[Floats]:
    """What was written, item by item.

    Raises:
        BadArtifact: a file is missing or damaged, or the two do not belong together.
    """
    rows_RC = _load(path, ndim=2)
    if not _rows_file(path).is_file():
        return list(rows_RC)
    counts_N = _load(_rows_file(path), ndim=1)
    if counts_N.sum() != len(rows_RC):
        raise BadArtifact(
            f"{path} does not hold logits: it has {len(rows_RC)} rows, and {_rows_file(path).name} counts "
            f"{counts_N.sum()}; run the benchmark again"
        )
    return np.split(rows_RC, np.cumsum(counts_N)[:-1])


def _rows_file(path: Path) -> Path:
    return path.with_suffix(".rows.npy")


def _load(path: Path, *, ndim: int) -> npt.NDArray[np.generic]:
    try:
        found: npt.NDArray[np.generic] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadArtifact(f"{path} does not hold logits: {error}; run the benchmark again") from error
    if found.ndim != ndim:
        raise BadArtifact(f"{path} does not hold logits: its shape is {found.shape}; run the benchmark again")
    return found
