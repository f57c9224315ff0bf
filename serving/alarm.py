"""When a version that was put in service is taken out again without anybody's word: it fails, and the one before it did
not."""

from collections.abc import Sequence

import msgspec

from serving.engine import Given
from serving.errors import BadRequest
from serving.models import Live
from serving.tallies import FEWEST_REQUESTS, LONGEST_WINDOW_S, Rate


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """Of at least `requests` requests in the last `window_s` seconds more than `share` failed, and more than `times`
    the share that failed of the version before it: of one that answered fewer than `requests` nothing is known, and
    half of what it answered is enough, however many times that is. A share of 0 switches the alarm off.

    Raises:
        BadRequest: one of them is no such number.
    """

    share: float = 0.20
    requests: int = 50
    window_s: float = 30.0
    times: float = 5.0

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise BadRequest(f"the alarm's share of failures is {self.share:g}; give one from 0 (never) to below 1")
        if self.requests < FEWEST_REQUESTS:
            raise BadRequest(f"the alarm looks at {self.requests} requests; let it see at least {FEWEST_REQUESTS}")
        if not 1 <= self.window_s <= LONGEST_WINDOW_S:
            raise BadRequest(f"the alarm's window is {self.window_s:g} s; give one from 1 to {LONGEST_WINDOW_S}")
        if not self.times >= 1:
            raise BadRequest(f"the alarm asks for {self.times:g} times the failures before; give at least 1")


def rings(recent: Rate, *, before: Rate, thresholds: Thresholds) -> bool:
    """Whether a version's `recent` failures are too many beside those of the version `before` it."""
    if not thresholds.share or recent.requests < thresholds.requests:
        return False
    return recent.share > thresholds.share and recent.share > _borne(before, thresholds=thresholds)


def _borne(before: Rate, *, thresholds: Thresholds) -> float:
    """The share of failures that is put up with beside the version before. Five times 20 % is all of them: more than
    half way from its share to all is too many of any."""
    if before.requests < thresholds.requests:
        return 0.0
    return min(thresholds.times * before.share, (1 + before.share) / 2)


def answers_most(live: Live, jobs: Sequence[Sequence[Given]]) -> bool:
    """Whether a model answers most of what another one failed on; not counted as its requests."""
    outcomes = []
    for job in jobs:
        try:
            outcomes += live.engine.answer_jobs([job], packing=live.costs)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
            outcomes.append(error)
    return 2 * sum(isinstance(outcome, Exception) for outcome in outcomes) < len(outcomes)
