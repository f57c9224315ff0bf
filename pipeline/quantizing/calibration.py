"""Between which values an activation lies, found on texts: the ranges that static quantization gives 256 steps.

onnxruntime's own calibrators keep every activation until the end and stop at texts of several lengths; here each text's
activations are read once for the extremes, and once more for a histogram where the method needs one, and dropped. So
memory does not grow with the number of texts. Shapes: S texts, T tensors, B bins.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.quantizing.base import Method

if TYPE_CHECKING:
    from pipeline.quantizing.given import Feed

Doubles = npt.NDArray[np.float64]
BINS: Final = 4096
STEPS: Final = 256  # of uint8
_CANDIDATES = 100  # widths that entropy compares


class Range(NamedTuple):
    """An activation's smallest and largest value; 0 lies between them, so that padding and bias of 0 stay exact."""

    low: float
    high: float


def find_ranges(
    source: Path,
    names: Sequence[str],
    feeds: "Sequence[Feed]",
    *,
    method: Method = "minmax",
    percentile: float = 99.99,
    threads: int | None = None,
) -> dict[str, Range]:
    """The range of each named value of the graph over the texts.

    minmax: over all of them. moving-average: the mean of each text's own extremes, as onnxruntime's. percentile: the
    narrowest that leaves (100 - percentile) / 2 % of the values out on either side. entropy: the one whose 256 steps
    tell least apart (Kullback-Leibler) what the values' histogram does, as TensorRT's (Migacz 2017).
    """
    session = _observer(source, names, threads=threads)
    found_ST2 = np.array([[(row.min(), row.max()) for row in rows] for rows in _observed(session, names, feeds)])
    if method == "moving-average":
        ends_T2 = found_ST2.mean(axis=0, dtype=np.float64)
    else:
        ends_T2 = np.stack([found_ST2[..., 0].min(axis=0), found_ST2[..., 1].max(axis=0)], axis=1).astype(np.float64)
    ends_T2 = np.stack([np.minimum(ends_T2[:, 0], 0), np.maximum(ends_T2[:, 1], 0)], axis=1)
    if method in ("percentile", "entropy"):
        counts_TB = _histograms(session, names, feeds, ends_T2)
        pairs = zip(counts_TB, ends_T2, strict=True)
        cut = _cut_tails if method == "percentile" else _least_divergent
        ends_T2 = np.array([cut(counts_B, ends, percentile) for counts_B, ends in pairs])
    return {name: Range(float(low), float(high)) for name, (low, high) in zip(names, ends_T2, strict=True)}


def _observer(source: Path, names: Sequence[str], *, threads: int | None) -> Any:
    """A session over the graph whose outputs are the named values."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    model = onnx.load(source)
    del model.graph.value_info[:]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _observed(session: Any, names: Sequence[str], feeds: "Sequence[Feed]") -> Iterator[list[npt.NDArray[np.float32]]]:
    """Of every text, the named values; the next text's take their place."""
    for feed in feeds:
        yield session.run(list(names), feed)


def _histograms(session: Any, names: Sequence[str], feeds: "Sequence[Feed]", ends_T2: Doubles) -> Doubles:
    """How many values of each tensor fall in each of B equal bins between its ends."""
    counts_TB = np.zeros((len(names), BINS))
    widths_T = np.maximum(ends_T2[:, 1] - ends_T2[:, 0], np.finfo(np.float32).tiny)
    for rows in _observed(session, names, feeds):
        for counts_B, row, low, width in zip(counts_TB, rows, ends_T2[:, 0], widths_T, strict=True):
            places = ((row.ravel() - np.float32(low)) * np.float32(BINS / width)).astype(np.int32)
            counts_B += np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS)
    return counts_TB


def _cut_tails(counts_B: Doubles, ends: Doubles, percentile: float) -> tuple[float, float]:
    """Without the rarest values on either side."""
    tail = (100 - percentile) / 200 * counts_B.sum()
    first = int(np.searchsorted(np.cumsum(counts_B), tail, side="right"))
    last = int(np.searchsorted(np.cumsum(counts_B[::-1]), tail, side="right"))
    edges = np.linspace(ends[0], ends[1], BINS + 1)
    return min(0.0, float(edges[min(first, BINS - 1)])), max(0.0, float(edges[BINS - min(last, BINS - 1)]))


def _least_divergent(counts_B: Doubles, ends: Doubles, percentile: float) -> tuple[float, float]:  # noqa: ARG001
    """Cut at the same distance from 0 on both sides, where that loses least information."""
    edges = np.linspace(ends[0], ends[1], BINS + 1)
    reach = float(np.abs(ends).max())
    shares = np.linspace(1, STEPS / BINS, _CANDIDATES)
    cuts = [(max(ends[0], -reach * share), min(ends[1], reach * share)) for share in shares]
    best = min(range(len(cuts)), key=lambda index: _divergence(counts_B, edges, cuts[index]))
    return cuts[best]


def _divergence(counts_B: Doubles, edges: Doubles, cut: tuple[float, float]) -> float:
    """KL of the histogram, its outliers gathered at the edges of the cut, from what 256 steps between them keep of
    it: every step's count spread over those of its bins that hold anything."""
    first, last = (int(np.abs(edges - end).argmin()) for end in cut)
    last = max(last, first + 1)
    inside = counts_B[first:last]
    gathered = inside.copy()
    gathered[0] += counts_B[:first].sum()
    gathered[-1] += counts_B[last:].sum()
    step = np.minimum(np.arange(inside.size) * STEPS // inside.size, STEPS - 1)
    filled = gathered > 0
    kept = np.bincount(step, inside, STEPS) / np.maximum(np.bincount(step, filled, STEPS), 1)
    p, q = gathered[filled] / gathered.sum(), kept[step][filled]
    q = np.maximum(q / max(q.sum(), 1.0), 1e-12)
    return float((p * np.log(p / q)).sum())
