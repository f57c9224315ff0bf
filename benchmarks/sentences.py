"""What a comparison comes to, in plain language. Percentages are of A's time: 12 % faster is 12 % less time."""

from collections.abc import Sequence
from math import ceil
from typing import Final

from benchmarks.comparison import Change, QualityChange, Times

# Metrics that are no share of anything: their differences are told as they are, not in points of a hundred.
NOT_SHARES: Final = ("matthews", "pearson", "spearman", "mse")


def times_told(
    change: Change | None, *, days: Sequence[Change] = (), disturbed: Sequence[str] = ()
) -> tuple[Times, str]:
    """A word and a clause about times.

    `days` are the changes of files that are the same on both sides: by as much as the farther end of their intervals,
    the sessions may differ and not the models. `disturbed` says what forbids a verdict on times.
    """
    if change is None:
        return "unknown", "too few samples to compare times"
    if disturbed:
        return "unknown", f"no verdict on times, as {' and '.join(disturbed)}"
    at, share = change.figure.partition("_")[0], abs(1 - change.ratio)
    word = "faster" if change.ratio < 1 else "slower"
    if change.low is None or change.high is None:
        lower = "lower" if change.ratio < 1 else "higher"
        return "unknown", f"B's {at} is {percent(share)} % {lower}, of which nothing says how sure it is"
    if not change.is_certain:
        return "no difference seen", f"no certain difference at {at} ({span(change.low, change.high)})"
    ends = sorted((abs(1 - change.low), abs(1 - change.high)))
    told = f"B is {percent(share)} % {word} at {at} ({percent(ends[0])} to {percent(ends[1])} %)"
    drift = max(
        (abs(1 - end) for day in days for end in (day.low, day.ratio, day.high) if end is not None), default=0.0
    )
    if share <= drift:
        return "unknown", f"{told}, but a file that is the same in both may differ by {percent(drift)} %"
    return ("faster" if word == "faster" else "slower"), told


def same_file_told(change: Change | None, *, disturbed: Sequence[str] = ()) -> tuple[Times, str]:
    """The same about one file in two sessions: how far apart the sessions are."""
    times, told = times_told(change, disturbed=disturbed)
    return times, f"the same file in both; {told}"


def quality_told(change: QualityChange) -> str:
    """`accuracy unchanged within 0.3 points`, or by how much it differs."""
    scale, unit, places = (1.0, "", 4) if change.metric in NOT_SHARES else (100.0, " points", 1)
    estimate, low, high = (scale * each for each in (change.estimate, change.low, change.high))
    name = change.metric.replace("_", " ")
    if low == high == 0:
        return f"{name} unchanged"
    if low <= 0 <= high:
        return f"{name} unchanged within {_up(max(-low, high), places)}{unit}"
    nearest, farthest = sorted((abs(low), abs(high)))
    word = "higher" if estimate > 0 else "lower"
    return f"{name} {abs(estimate):.{places}f}{unit} {word} ({nearest:.{places}f} to {farthest:.{places}f})"


def percent(share: float) -> str:
    """0.1234 -> 12, 0.0432 -> 4.3, 0.09 -> 9."""
    value = 100 * share
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}".removesuffix(".0")


def span(low: float, high: float) -> str:
    """(0.97, 1.02) -> 3 % less to 2 % more time."""
    ends = [f"{percent(abs(1 - end))} % {'less' if end < 1 else 'more'}" for end in (low, high)]
    return f"{ends[0]} to {ends[1]} time"


def _up(value: float, places: int) -> str:
    """Rounded away from zero, and never to zero: what it is within, it must be within."""
    steps = max(1, ceil(round(value * 10**places, 6)))
    return f"{steps / 10**places:.{places}f}"
