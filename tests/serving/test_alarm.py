import pytest

from serving.alarm import Thresholds, rings
from serving.errors import BadRequest
from serving.tallies import Rate

NONE_BEFORE = Rate(1000, 0)


@pytest.mark.parametrize(
    ("recent", "before", "expected"),
    [
        (Rate(50, 11), NONE_BEFORE, True),
        (Rate(50, 10), NONE_BEFORE, False),  # no more than 20 %
        (Rate(49, 49), NONE_BEFORE, False),  # too few to say
        (Rate(100, 60), Rate(100, 10), True),
        (Rate(100, 50), Rate(100, 10), False),  # no more than 5 times the version before
        (Rate(100, 21), Rate(0, 0), True),
        (Rate(1000, 1000), Rate(5, 1), True),  # what 5 requests say is nothing
        (Rate(1000, 1000), Rate(49, 49), True),
        (Rate(100, 61), Rate(100, 20), True),  # 5 times that is all
        (Rate(100, 60), Rate(100, 20), False),
        (Rate(1000, 1000), Rate(50, 50), False),  # no worse
    ],
)
def test_the_alarm_rings_where_many_fail_that_did_not_before(recent: Rate, before: Rate, expected: bool) -> None:
    assert rings(recent, before=before, thresholds=Thresholds()) is expected


def test_a_share_of_0_switches_the_alarm_off() -> None:
    assert not rings(Rate(100, 100), before=NONE_BEFORE, thresholds=Thresholds(share=0.0))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"share": 1.0}, "the alarm's share of failures is 1; give one from 0 (never) to below 1"),
        ({"share": float("nan")}, "the alarm's share of failures is nan; give one from 0 (never) to below 1"),
        ({"requests": 9}, "the alarm looks at 9 requests; let it see at least 10"),
        ({"window_s": 0.5}, "the alarm's window is 0.5 s; give one from 1 to 300"),
        ({"times": 0.5}, "the alarm asks for 0.5 times the failures before; give at least 1"),
    ],
)
def test_thresholds_that_mean_nothing_are_refused(options: dict[str, float], told: str) -> None:
    with pytest.raises(BadRequest) as refused:
        Thresholds(**options)  # type: ignore[arg-type]
    assert str(refused.value) == told
