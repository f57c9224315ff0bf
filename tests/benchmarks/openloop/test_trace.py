"""From raw times to the figures of a rate, and to why there are none."""

import msgspec
import pytest

from benchmarks.openloop.trace import NEVER, NO_ANSWER, Trace, unmeasured

MS = 1_000_000


def trace(count: int, **changes: object) -> Trace:
    """A request a millisecond; request i answers after i + 1 ms, each sent on time."""
    due_ns = [i * MS for i in range(count)]
    found = Trace(
        offered_rps=1000.0,
        warm_s=0.0,
        seconds=count / 1e3,
        due_ns=due_ns,
        sent_ns=due_ns,
        done_ns=[due + (i + 1) * MS for i, due in enumerate(due_ns)],
        status=[200] * count,
    )
    return msgspec.structs.replace(found, **changes)


def test_percentiles_are_latencies_that_occurred_from_the_time_each_was_due() -> None:
    rate = trace(1000).rate()
    assert (rate.p50_ms, rate.p90_ms, rate.p99_ms) == (500, 900, 990)
    assert (rate.offered_rps, rate.seconds) == (1000, 1)
    assert (rate.sent, rate.answered, rate.refused, rate.failed) == (1000, 1000, 0, 0)
    assert rate.void == ""


def test_latency_includes_the_time_before_a_request_was_sent() -> None:
    held_back = [i * MS + MS // 2 for i in range(1000)]
    assert trace(1000, sent_ns=held_back).rate().p50_ms == 500


@pytest.mark.parametrize(
    ("count", "reported"),
    [
        (19, (False, False, False)),
        (20, (True, False, False)),
        (100, (True, True, False)),
        (999, (True, True, False)),
        (1000, (True, True, True)),
    ],
)
def test_a_percentile_with_fewer_than_ten_requests_beyond_it_is_none(count: int, reported: tuple[bool, ...]) -> None:
    rate = trace(count).rate()
    assert tuple(found is not None for found in (rate.p50_ms, rate.p90_ms, rate.p99_ms)) == reported


def test_a_request_without_a_good_answer_is_slower_than_any() -> None:
    """The ten fastest are refused: percentiles move up by ten ranks, as if the refused ones had never ended."""
    rate = trace(1000, status=[503] * 10 + [200] * 990).rate()
    assert (rate.p50_ms, rate.p90_ms, rate.p99_ms) == (510, 910, 1000)
    assert (rate.answered, rate.refused, rate.failed) == (990, 10, 0)


def test_a_percentile_among_requests_without_an_answer_is_none() -> None:
    rate = trace(1000, status=[503] * 11 + [200] * 989).rate()
    assert (rate.p90_ms, rate.p99_ms) == (911, None)


def test_each_request_is_answered_refused_or_failed() -> None:
    status = [200, 204, 503, 429, 500, 422, NO_ANSWER] + [200] * 13
    done_ns = [NEVER if code == NO_ANSWER else i * MS for i, code in enumerate(status)]
    rate = trace(20, status=status, done_ns=done_ns).rate()
    assert (rate.sent, rate.answered, rate.refused, rate.failed) == (20, 15, 2, 3)


def test_the_warm_up_is_not_counted() -> None:
    late_at_first = [i * MS + (50 * MS if i < 100 else 0) for i in range(1100)]
    found = trace(1100, warm_s=0.1, seconds=1.0, sent_ns=late_at_first, status=[503] * 100 + [200] * 1000)
    rate = found.rate()
    assert (rate.sent, rate.refused, rate.p50_ms) == (1000, 0, 600)
    assert (rate.late_p99_ms, rate.void) == (0, "")


def test_a_generator_that_lags_voids_the_run_and_one_just_within_does_not() -> None:
    def lagging(by_ns: int) -> Trace:
        return trace(1000, sent_ns=[i * MS + (by_ns if i % 50 == 0 else 20_000) for i in range(1000)])

    within, beyond = lagging(MS).rate(), lagging(3 * MS).rate()
    assert (within.late_p50_ms, within.late_p99_ms, within.void) == (0.02, 1.0, "")
    assert (beyond.late_p50_ms, beyond.late_p99_ms) == (0.02, 3.0)
    assert beyond.void == (
        "the generator lagged: its p99 lateness is 3.00 ms, more than 1 ms; give it a core of its own, or offer less"
    )


def test_a_little_stolen_time_is_what_the_counters_are_off_by_and_more_voids_the_run() -> None:
    assert [trace(1000, stolen=share).rate().void for share in (0.0, 0.04)] == ["", ""]
    assert trace(1000, stolen=0.041).rate().void.startswith("4.1% of a core's time went to other machines")
    assert trace(10_000, stolen=0.023).rate().void.startswith("2.3% of a core's time")


def test_with_few_requests_the_latest_one_decides() -> None:
    assert trace(10, sent_ns=[2 * MS, *(i * MS for i in range(1, 10))]).rate().void.startswith("the generator lagged")


def test_a_run_without_requests_is_void() -> None:
    assert trace(0).rate().void == "no request was due: offer a higher rate or measure longer"


def test_a_point_that_was_not_tried_has_no_figures_but_the_reason() -> None:
    rate = unmeasured(3.0, seconds=300.0, why="too slow")
    assert (rate.offered_rps, rate.sent, rate.p99_ms, rate.void) == (3.0, 0, None, "too slow")


def test_a_trace_survives_the_way_through_json() -> None:
    found = trace(5, done_ns=[NEVER] * 5)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Trace) == found
