"""Peaks of several rounds: who is best, and what is held against what."""

from benchmarks.openloop.results import Rate, ServerResult
from benchmarks.serving.contestants import OURS
from benchmarks.serving.peak import IN_PROCESS, Half, Peaks


def searched(*rates: float | None, void: str = "") -> tuple[ServerResult, ...]:
    return tuple(ServerResult("http", 25.0, 99, best_rps=rps, points=(point(void=void),)) for rps in rates)


def point(p99_ms: float | None = 5.0, *, void: str = "") -> Rate:
    return Rate(100.0, 5.0, 500, 500, 0, 0, 1.0, 2.0, p99_ms, late_p50_ms=0.1, late_p99_ms=0.2, void=void)


FOUND = Peaks(
    {
        OURS: searched(700.0, 720.0, 690.0),
        "mlserver": searched(280.0, 270.0, 290.0),
        "fastapi": searched(450.0, 400.0, 460.0),
        IN_PROCESS: searched(800.0, 900.0, 780.0),
    }
)


def test_the_best_peer_is_the_one_with_the_highest_median() -> None:
    assert (FOUND.best_peer(), FOUND.rps("fastapi"), FOUND.rps("nobody")) == ("fastapi", 450.0, None)


def test_ours_is_held_against_the_best_peer_and_against_itself_in_process() -> None:
    figures = {each.name: (round(each.value or 0, 3), each.kept) for each in FOUND.figures()}
    assert figures == {"peak over the best peer's": (1.556, "yes"), "peak of that in process": (0.875, "yes")}


def test_rows_go_from_the_fastest_to_the_slowest_with_the_spread_of_their_rounds() -> None:
    assert FOUND.rows() == (
        (IN_PROCESS, "800", "780 to 900", "1.78", ""),
        (OURS, "700", "690 to 720", "1.56", ""),
        ("fastapi", "450", "400 to 460", "1.00", ""),
        ("mlserver", "280", "270 to 290", "0.62", ""),
    )


def test_a_server_of_which_one_round_found_nothing_has_no_peak_and_says_why() -> None:
    peaks = Peaks({OURS: searched(700.0, None, void="it lagged"), "fastapi": searched(450.0, 460.0)})
    assert peaks.rps(OURS) is None
    assert peaks.rows()[1] == (OURS, "-", "700 to 700", "-", "it lagged")
    assert [each.kept for each in peaks.figures()] == ["not known", "not known"]


def test_without_peers_nothing_is_best() -> None:
    assert Peaks({OURS: searched(700.0)}).best_peer() is None


def test_p99_at_the_same_rate_is_held_against_the_best_peer_s() -> None:
    points = {OURS: (point(5.0), point(7.0), point(6.0)), "fastapi": (point(10.0), point(12.0), point(11.0))}
    (figure,) = Half(225.0, "fastapi", points).figures()
    assert (round(figure.value or 0, 4), figure.kept) == (round(6 / 11, 4), "yes")
    assert Half(225.0, "fastapi", points).rows()[0] == (
        *(OURS, "1.00 (1.00 to 1.00)", "2.00 (2.00 to 2.00)", "6.00 (5.00 to 7.00)"),
    )


def test_a_void_round_leaves_the_ratio_open() -> None:
    (figure,) = Half(225.0, "fastapi", {OURS: (point(5.0, void="it lagged"),), "fastapi": (point(10.0),)}).figures()
    assert figure.kept == "not known"
