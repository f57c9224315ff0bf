"""The shape of one process's samples: whether slow ones follow slow ones, and whether they gather at two speeds.

Pure statistics over the samples of one fixed length, in the order in which they were taken; any unit does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Samples = Sequence[int] | npt.NDArray[np.float64]

_OUTLIERS = (5, 95)  # percentiles beyond which a sample is pulled in: one hiccup is no phase and no second speed
_SHARPEST = 100.0  # two points without any width are so many widths apart


class Modes(NamedTuple):
    """Samples split in two where that explains them best: the middle of each part, the share of the smaller one, and
    Ashman's D, how many of their own widths they are apart (a bell split in two has 2.7, a flat stretch 3.5)."""

    fast: float
    slow: float
    smaller_share: float
    separation: float


def autocorrelation(samples: Samples) -> float:
    """Correlation of each sample with the next one, outliers pulled in; 0 where nothing varies.

    Independent samples give 0 +- 1/sqrt(n).
    """
    values = _clipped(samples)
    off = values - values.mean()
    total = float(off @ off)
    return float(off[:-1] @ off[1:]) / total if total else 0.0


def phases(samples: Samples, *, window: int = 10) -> float:
    """How many times as long as in a fast window the series takes in a slow one: the upper quartile of the windows'
    medians over the lower one, so that what lasts for less than a quarter of the series is no phase. At least two
    windows of samples."""
    windows = np.array_split(np.asarray(samples, dtype=np.float64), len(samples) // window)
    low, high = np.percentile([np.median(each) for each in windows], (25, 75))
    return float(high / low)


def modes(samples: Samples) -> Modes:
    """Split at the threshold that leaves the least variance within the parts (Otsu's), outliers pulled in."""
    values = np.sort(_clipped(samples))
    middle = values.mean()
    values -= middle  # squares of numbers near zero lose no digits
    counts = np.arange(1, len(values))
    sums, squares = np.cumsum(values), np.cumsum(values**2)
    low = squares[:-1] - sums[:-1] ** 2 / counts
    high = (squares[-1] - squares[:-1]) - (sums[-1] - sums[:-1]) ** 2 / (len(values) - counts)
    cut = int(np.argmin(low + high)) + 1
    parts = values[:cut], values[cut:]
    apart, width = parts[1].mean() - parts[0].mean(), np.sqrt((parts[0].var() + parts[1].var()) / 2)
    return Modes(
        fast=float(np.median(parts[0]) + middle),
        slow=float(np.median(parts[1]) + middle),
        smaller_share=min(cut, len(values) - cut) / len(values),
        separation=float(apart / max(width, apart / _SHARPEST)) if apart else 0.0,
    )


def _clipped(samples: Samples) -> npt.NDArray[np.float64]:
    values = np.asarray(samples, dtype=np.float64)
    return np.clip(values, *np.percentile(values, _OUTLIERS))
