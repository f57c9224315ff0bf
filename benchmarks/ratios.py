"""One variant's percentile over another's, with its own interval: what a gate with a baseline judges by.

Both were measured in turn, so what slowed a repeat slowed both: a resample draws the same repeats for either side, and
the ratio is known better than its two ends would say.
"""

from collections.abc import Sequence

import msgspec

from benchmarks import bootstrap
from benchmarks.measure import needed, percentile_ms
from serving.errors import BadRequest

Samples = Sequence[Sequence[int]]


class Ratio(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`value` with the ends of its 95 % interval; they are None where a side has one process."""

    value: float
    low: float | None
    high: float | None


def ratio(one: Samples, other: Samples, *, percent: int, seed: int = 0, paired: bool = True) -> Ratio:
    """One's percentile over the other's, each given as nanoseconds by process.

    `paired`: process i of either side ran in the same repeat of one session; False for two sessions, whose processes
    are drawn apart.

    Raises:
        BadRequest: too few samples for the percentile, or pairs that do not go up.
    """
    if paired and len(one) != len(other):
        raise BadRequest(f"a ratio pairs processes by repeat: {len(one)} and {len(other)} were measured")
    sides = [_percentile(side, percent=percent) for side in (one, other)]
    value = sides[0] / sides[1]
    if min(len(one), len(other)) < 2:
        return Ratio(value, None, None)
    seeds = (seed, seed if paired else seed + 1)
    above, below = (
        bootstrap.resampled(side, percent=percent, seed=each) for side, each in zip((one, other), seeds, strict=True)
    )
    return Ratio(value, *bootstrap.ends(above / below, processes=min(len(one), len(other))))


def _percentile(side: Samples, *, percent: int) -> float:
    pooled = [ns for process in side for ns in process]
    found = percentile_ms(pooled, percent=percent)
    if found is None:
        raise BadRequest(f"p{percent} needs {needed(percent)} samples, and there are {len(pooled)}: measure more")
    return found
