"""A server's own time beside its phases, from what its answers say."""

import msgspec
import pytest

from benchmarks.openloop.trace import NEVER, NO_ANSWER, Trace
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


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("a;dur=5e-05", {"a": 5e-05}),
        ("a;dur=1.2.3, b;dur=2", {"b": 2.0}),
        ("a;dur=, b;dur, c;dur=x, d;dur=-, e;dur=nan, f;dur=inf, g;dur=1", {"g": 1.0}),
        ('a;dur="1.5";desc="x, y;dur=9, z;dur=3", b;DUR=2', {"a": 1.5, "b": 2.0}),
        ('a;desc="say \\"hi\\", b;dur=7";dur=4', {"a": 4.0}),
        ("db.read|1 ; desc=x ; dur = 3 ;dur=4", {"db.read|1": 3.0}),
        ('no name;dur=1, ;dur=2, =, "a";dur=1, a;desc="not closed, b;dur=3', {}),
    ],
)
def test_a_stranger_s_header_is_read_as_far_as_it_is_one(header: str, found: dict[str, float]) -> None:
    assert parse_timing(header) == found


def test_what_is_left_of_the_total_is_overhead_and_of_the_way_the_client_s_view() -> None:
    found = overhead_of(trace([HEADER.format(total=1.5)] * 999 + [HEADER.format(total=1.9)]))
    assert (found.requests, round(found.p50_ms or 0, 6), round(found.client_p50_ms or 0, 6)) == (1000, 0.2, 0.7)
    assert found.phases_p50_ms == {"queue": 0.1, "tokenize": 0.2, "infer": 1.0, "total": 1.5}
    kept = [(each.name, each.kept) for each in found.figures()]
    assert kept == [("overhead, p50", "yes"), ("overhead, p99", "yes"), ("overhead, requests lost", "yes")]


def test_one_percent_of_slow_answers_is_no_p99_and_two_are() -> None:
    slow = HEADER.format(total=9.3)
    one, two = (overhead_of(trace([HEADER.format(total=1.5)] * (1000 - n) + [slow] * n)) for n in (10, 20))
    assert [round(each.p99_ms or 0, 6) for each in (one, two)] == [0.2, 8.0]
    assert two.figures()[1].kept == "NO"


def test_a_server_that_tells_no_total_has_no_overhead_that_is_known() -> None:
    found = overhead_of(trace(["queue;dur=0.1, tokenize;dur=0.2, infer;dur=1.0"] * 50))
    assert (found.requests, found.p50_ms) == (0, None)
    assert [each.kept for each in found.figures()] == ["not known", "not known", "yes"]


def test_answers_that_are_no_good_ones_do_not_count() -> None:
    assert overhead_of(trace([HEADER.format(total=1.5)] * 50, status=503)).requests == 0


def test_a_p99_of_fewer_than_a_thousand_answers_is_not_known() -> None:
    found = overhead_of(trace([HEADER.format(total=1.5)] * 999))
    assert [each.kept for each in found.figures()] == ["yes", "not known", "yes"]


def of_many(*, good: int, status: int) -> Trace:
    """Of two thousand those are good; the others have that status."""
    found = trace([HEADER.format(total=1.5)] * 2000)
    done_ns = [ns if i < good or status != NO_ANSWER else NEVER for i, ns in enumerate(found.done_ns)]
    return msgspec.structs.replace(found, status=[200] * good + [status] * (2000 - good), done_ns=done_ns)


def test_overhead_of_those_few_that_were_not_refused_is_not_known() -> None:
    assert [each.kept for each in overhead_of(of_many(good=1979, status=503)).figures()[:2]] == ["not known"] * 2
    assert [each.kept for each in overhead_of(of_many(good=1980, status=503)).figures()] == ["yes"] * 3


@pytest.mark.parametrize("status", [NO_ANSWER, 500])
def test_a_request_that_is_lost_is_missed_however_small_the_overhead(status: int) -> None:
    figures = overhead_of(of_many(good=1999, status=status)).figures()
    assert [each.kept for each in figures] == ["yes", "yes", "NO"]
    assert figures[2].row() == ("overhead, requests lost", "1", "<= 0", "NO")


def test_a_server_at_rest_may_take_a_hundredth_of_a_core() -> None:
    assert [Idle(20.0, share).figures()[0].kept for share in (0.01, 0.011)] == ["yes", "NO"]
