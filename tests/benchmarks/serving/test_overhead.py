"""A server's own time beside its phases, from what its answers say."""

from benchmarks.openloop.trace import Trace
from benchmarks.serving.overhead import Idle, overhead_of, parse_timing

HEADER = "queue;dur=0.100, tokenize;dur=0.200, infer;dur=1.000, total;dur={total}"


def trace(headers: list[str], *, status: int = 200) -> Trace:
    """Requests ten milliseconds apart, each answered 2 ms after it was sent, which was 1 ms after it was due."""
    due_ns = [i * 10_000_000 for i in range(len(headers))]
    sent_ns = [ns + 100_000 for ns in due_ns]
    done_ns = [ns + 2_000_000 for ns in sent_ns]
    return Trace(100.0, 0.0, 1.0, due_ns, sent_ns, done_ns, [status] * len(headers), headers)


def test_entries_with_a_duration_are_read() -> None:
    header = 'queue;dur=0.048, cache;desc="hit", infer; dur=1.5, total;dur=2'
    assert parse_timing(header) == {"queue": 0.048, "infer": 1.5, "total": 2.0}
    assert parse_timing("") == {}


def test_what_is_left_of_the_total_is_overhead_and_of_the_way_the_client_s_view() -> None:
    found = overhead_of(trace([HEADER.format(total=1.5)] * 99 + [HEADER.format(total=1.9)]))
    assert (found.requests, round(found.p50_ms or 0, 6), round(found.client_p50_ms or 0, 6)) == (100, 0.2, 0.7)
    assert found.phases_p50_ms == {"queue": 0.1, "tokenize": 0.2, "infer": 1.0, "total": 1.5}
    kept = [(each.name, each.kept) for each in found.figures()]
    assert kept == [("overhead, p50", "yes"), ("overhead, p99", "yes")]


def test_one_percent_of_slow_answers_is_no_p99_and_two_are() -> None:
    slow = HEADER.format(total=9.3)
    one, two = (overhead_of(trace([HEADER.format(total=1.5)] * (100 - n) + [slow] * n)) for n in (1, 2))
    assert [round(each.p99_ms or 0, 6) for each in (one, two)] == [0.2, 8.0]
    assert two.figures()[1].kept == "NO"


def test_a_server_that_tells_no_total_has_no_overhead_that_is_known() -> None:
    found = overhead_of(trace(["queue;dur=0.1, tokenize;dur=0.2, infer;dur=1.0"] * 50))
    assert (found.requests, found.p50_ms) == (0, None)
    assert [each.kept for each in found.figures()] == ["not known", "not known"]


def test_answers_that_are_no_good_ones_do_not_count() -> None:
    assert overhead_of(trace([HEADER.format(total=1.5)] * 50, status=503)).requests == 0


def test_a_server_at_rest_may_take_a_hundredth_of_a_core() -> None:
    assert [Idle(20.0, share).figures()[0].kept for share in (0.01, 0.011)] == ["yes", "NO"]
