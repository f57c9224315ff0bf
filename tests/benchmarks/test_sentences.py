"""What a comparison comes to in plain language."""

import pytest

from benchmarks.comparison import Change, QualityChange
from benchmarks.sentences import percent, quality_told, same_file_told, times_told


def change(ratio: float, low: float | None, high: float | None, figure: str = "p95_ms") -> Change:
    return Change(figure, 10.0, 10 * ratio, ratio, low, high)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (change(0.88, 0.85, 0.91), ("faster", "B is 12 % faster at p95 (9 to 15 %)")),
        (change(1.053, 1.021, 1.08), ("slower", "B is 5.3 % slower at p95 (2.1 to 8 %)")),
        (change(2.5, 2.4, 2.6, "p50_ms"), ("slower", "B is 150 % slower at p50 (140 to 160 %)")),
        (
            change(0.99, 0.97, 1.02),
            ("no difference seen", "no certain difference at p95 (3 % less to 2 % more time)"),
        ),
        (change(0.88, None, None), ("unknown", "B's p95 is 12 % lower, of which nothing says how sure it is")),
        (None, ("unknown", "too few samples to compare times")),
    ],
)
def test_times_are_told_in_percent_of_a_s_time(found: Change | None, told: tuple[str, str]) -> None:
    assert times_told(found) == told


def test_no_difference_is_claimed_that_the_same_file_shows_between_the_sessions() -> None:
    days = [change(1.05, 1.03, 1.07), change(1.02, 0.96, 1.08)]
    assert times_told(change(0.93, 0.92, 0.94), days=days) == (
        "unknown",
        "B is 7 % faster at p95 (6 to 8 %), but a file that is the same in both may differ by 8 %",
    )
    assert times_told(change(0.91, 0.9, 0.92), days=days)[0] == "faster"


def test_a_disturbed_session_gives_no_verdict_on_times() -> None:
    disturbed = ["A's session was disturbed", "B's session was disturbed"]
    assert times_told(change(0.5, 0.4, 0.6), disturbed=disturbed) == (
        "unknown",
        "no verdict on times, as A's session was disturbed and B's session was disturbed",
    )


def test_of_the_same_file_it_is_told_how_far_the_sessions_are_apart() -> None:
    assert same_file_told(change(1.05, 1.03, 1.07)) == (
        "slower",
        "the same file in both; B is 5 % slower at p95 (3 to 7 %)",
    )


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (("accuracy", -0.001, -0.0021, 0.0005), "accuracy unchanged within 0.3 points"),
        (("accuracy", 0.0, 0.0, 0.0), "accuracy unchanged"),
        (("accuracy", 0.0, -0.003, 0.003), "accuracy unchanged within 0.3 points"),
        (("accuracy", 0.0, -0.0001, 0.0001), "accuracy unchanged within 0.1 points"),
        (("macro_f1", -0.012, -0.02, -0.004), "macro f1 1.2 points lower (0.4 to 2.0)"),
        (("spearman", 0.012, 0.004, 0.02), "spearman 0.0120 higher (0.0040 to 0.0200)"),
        (("mse", 0.001, -0.002, 0.00401), "mse unchanged within 0.0041"),
    ],
)
def test_quality_is_told_in_points_where_it_is_a_share(found: tuple[str, float, float, float], told: str) -> None:
    assert quality_told(QualityChange(*found, paired=True)) == told


@pytest.mark.parametrize(("share", "text"), [(0.1234, "12"), (0.0432, "4.3"), (0.09, "9"), (0.0, "0"), (1.5, "150")])
def test_percentages_have_as_many_places_as_they_need(share: float, text: str) -> None:
    assert percent(share) == text
