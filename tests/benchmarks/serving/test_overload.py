"""What becomes of requests in a flood, told from a trace that is made up."""

import msgspec

from benchmarks.openloop.results import Rate, ServerResult
from benchmarks.openloop.trace import NEVER, Trace
from benchmarks.serving.figures import lost_of
from benchmarks.serving.overload import Overload, Window, back_to_normal_s, rows, window

MS = 1_000_000
Request = tuple[float, float | None, int]  # due in seconds, milliseconds until the answer, status


def trace(*requests: Request) -> Trace:
    due_ns = [round(due_s * 1e9) for due_s, _, _ in requests]
    took = [ms for _, ms, _ in requests]
    done_ns = [NEVER if ms is None else due + round(ms * MS) for due, ms in zip(due_ns, took, strict=True)]
    return Trace(100.0, 0.0, 1.0, due_ns, due_ns, done_ns, [status for _, _, status in requests])


def test_a_server_that_is_never_well_again_has_missed_the_figure() -> None:
    figure = msgspec.structs.replace(overload(good_rps=95.0), back_s=None).figures()[3]
    assert (figure.name, figure.kept) == ("back to normal", "NO")


def test_requests_of_a_window_are_accepted_rejected_or_lost() -> None:
    found = window(
        trace(
            (0.5, 1, 200), (1.0, 10, 200), (1.2, 60, 200), (1.4, 2, 503), (1.6, 3, 429), (1.8, None, 0), (3.0, 1, 200)
        ),
        from_s=1.0,
        to_s=3.0,
        bound_ms=25.0,
    )
    assert found == Window(
        seconds=2.0,
        sent=5,
        accepted=2,
        rejected=2,
        lost=1,
        good_rps=0.5,  # one of the two came after twice the bound
        accepted_p99_ms=60.0,
        rejected_p50_ms=2.0,
        rejected_p99_ms=3.0,
    )


def test_a_window_in_which_nothing_was_accepted_has_no_percentile() -> None:
    found = window(trace((1.0, 1, 503)), from_s=1.0, to_s=2.0, bound_ms=25.0)
    assert (found.accepted_p99_ms, found.good_rps, found.rejected_p99_ms) == (None, 0.0, 1.0)


def steady(
    begin_s: float, end_s: float, *, ms: float | None, status: int = 200
) -> list[tuple[float, float | None, int]]:
    """A hundred a second."""
    return [(begin_s + i / 100, ms, status) for i in range(round((end_s - begin_s) * 100))]


def test_all_is_well_again_from_the_first_second_whose_requests_keep_the_bound() -> None:
    bad = steady(2.0, 3.5, ms=90.0)
    assert back_to_normal_s(trace(*bad, *steady(3.5, 8.0, ms=5.0)), end_s=2.0, bound_ms=25.0) == 1.5
    refusing = steady(2.0, 3.5, ms=1.0, status=503)
    assert back_to_normal_s(trace(*refusing, *steady(3.5, 8.0, ms=5.0)), end_s=2.0, bound_ms=25.0) == 1.5
    assert back_to_normal_s(trace(*steady(2.0, 8.0, ms=5.0)), end_s=2.0, bound_ms=25.0) == 0.0


def test_a_server_that_stays_slow_is_never_well_again() -> None:
    assert back_to_normal_s(trace(*steady(2.0, 8.0, ms=90.0)), end_s=2.0, bound_ms=25.0) is None
    assert back_to_normal_s(trace(*steady(2.0, 8.0, ms=None)), end_s=2.0, bound_ms=25.0) is None


def overload(*, good_rps: float, void: str = "", lost: int = 0, broken_rps: float | None = 102.0) -> Overload:
    one = Window(5.0, 1000, 500, 490, 10, good_rps, 40.0, 1.0, 4.0)
    point = Rate(100.0, 5.0, 500, 500, 0, 0, 1.0, 2.0, 3.0, late_p50_ms=0.1, late_p99_ms=0.2)
    peak = ServerResult("http", 25.0, 99, best_rps=100.0, points=(point,), broken_rps=broken_rps)
    return Overload(25.0, peak, one, one, back_s=0.4, lost=lost, void=void)


def test_goodput_is_held_against_the_peak_of_the_same_server() -> None:
    kept = {each.name: (each.value, each.kept) for each in overload(good_rps=95.0).figures()}
    assert kept == {
        "goodput at twice the peak, of the peak": (0.95, "yes"),
        "accepted p99 at ten times": (40.0, "yes"),
        "rejected p99 at ten times": (4.0, "yes"),
        "back to normal": (0.4, "yes"),
        "overload, requests lost": (0, "yes"),
    }
    assert overload(good_rps=89.0).figures()[0].kept == "NO"


def test_a_peak_that_nothing_was_seen_to_break_is_none_to_hold_goodput_against() -> None:
    assert [each.kept for each in overload(good_rps=95.0, broken_rps=None).figures()] == ["not known", *["yes"] * 4]


def test_one_request_lost_in_a_flood_is_missed() -> None:
    assert overload(good_rps=95.0, lost=1).figures()[-1].row() == ("overload, requests lost", "1", "<= 0", "NO")


def test_lost_is_what_is_neither_answered_well_nor_refused_in_the_warm_up_too() -> None:
    found = trace((0.1, None, 0), (0.5, 1, 200), (1.0, 1, 503), (1.1, 1, 429), (1.2, 1, 500), (1.3, 1, 404))
    assert lost_of(msgspec.structs.replace(found, warm_s=1.0)) == 3


def test_a_flood_whose_generator_lagged_tells_nothing() -> None:
    assert {each.kept for each in overload(good_rps=95.0, void="it lagged").figures()} == {"not known"}


def test_a_row_a_flood() -> None:
    assert rows(overload(good_rps=95.0))[1] == (
        *("ten times", "1000", "500", "490", "10", "95", "40.00", "1.00", "4.00"),
    )
