"""The choice among candidates, over figures written by hand."""

from typing import Any

import msgspec
import pytest
from pydantic import ValidationError

from pipeline.quantizing.pareto import Budget, Figures, beaten, choose, front, lacks_quality, misses, relative


def figures(name: str = "one", ms: float = 1.0, **changes: Any) -> Figures:
    """A candidate as good as fp32 that takes `ms` at a batch of 1 and four times that at 8."""
    one = Figures(
        name=name,
        metric=0.9 - changes.get("drop", 0.0),
        drop=0.0,
        size_mb=20.0,
        batch_difference=1e-6,
        batch_flips=0,
        ms={"1x16": ms, "8x128": 4 * ms},
        relative_ms=ms,
    )
    return msgspec.structs.replace(one, **changes)


def test_no_shape_counts_more_because_it_takes_longer() -> None:
    assert relative({"1x16": 1.0, "8x128": 50.0}, {"1x16": 2.0, "8x128": 100.0}) == pytest.approx(0.5)
    assert relative({"1x16": 0.5, "8x128": 200.0}, {"1x16": 1.0, "8x128": 100.0}) == pytest.approx(1.0)


# -- the budget --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "one", "told"),
    [
        ({}, {"drop": 0.005}, []),
        ({}, {"drop": 0.9 - 0.895}, []),
        ({}, {"drop": 0.0051}, ["metric_drop 0.0051 of 0.0050"]),
        ({}, {"drop": -0.1}, []),
        ({"size_mb": 20.0}, {}, []),
        ({"size_mb": 19.9}, {}, ["size_mb 20.0 of 19.9"]),
        ({"ms": {"8x128": 3.5}}, {}, ["ms of 8x128 4.00 of 3.50"]),
        ({"ms": {"1x16": 1.0}}, {}, []),
        ({}, {"batch_flips": 3, "batch_difference": 0.5}, []),
        ({"invariant": True}, {"batch_difference": 1e-3}, []),
        (
            {"invariant": True},
            {"batch_difference": 0.02},
            ["invariant: 0 flips, outputs differ by 0.02 of 0.001"],
        ),
        (
            {"invariant": True},
            {"batch_flips": 1},
            ["invariant: 1 flips, outputs differ by 1e-06 of 0.001"],
        ),
        (
            {"metric_drop": 0, "size_mb": 1},
            {"drop": 0.001},
            ["metric_drop 0.0010 of 0.0000", "size_mb 20.0 of 1.0"],
        ),
    ],
)
def test_a_budget_tells_what_a_candidate_has_too_much_of(
    budget: dict[str, Any], one: dict[str, Any], told: list[str]
) -> None:
    assert [miss.told for miss in misses(figures(**one), Budget(**budget))] == told


@pytest.mark.parametrize("wrong", [{"metric_drop": -0.1}, {"size_mb": 0}, {"ms": {"1x16": 0}}, {"metric_drop": "inf"}])
def test_a_budget_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Budget(**wrong)


# -- who is beaten -----------------------------------------------------------------------------------------------------


def beaten_names(*found: Figures, **budget: Any) -> dict[str, str]:
    return beaten(found, Budget(**budget))


def test_slower_at_every_shape_and_better_in_nothing_is_beaten() -> None:
    assert beaten_names(figures("fast"), figures("slow", ms=1.2)) == {"slow": "fast"}


def test_a_tenth_is_noise() -> None:
    assert beaten_names(figures("fast"), figures("slow", ms=1.09)) == {}


def test_one_shape_at_which_it_is_not_slower_keeps_a_candidate() -> None:
    mixed = msgspec.structs.replace(figures("mixed", ms=2.0), ms={"1x16": 5.0, "8x128": 4.1})
    assert beaten_names(figures("fast"), mixed) == {}


@pytest.mark.parametrize("better", [{"drop": -0.001}, {"size_mb": 15.0}], ids=["a smaller drop", "a smaller file"])
def test_what_is_slower_and_better_in_something_is_kept(better: dict[str, Any]) -> None:
    assert beaten_names(figures("fast"), figures("slow", ms=2.0, **better)) == {}


@pytest.mark.parametrize("unsteady", [{"batch_flips": 1}, {"batch_difference": 0.1}])
def test_what_is_slower_and_does_not_depend_on_the_batch_is_kept(unsteady: dict[str, Any]) -> None:
    assert beaten_names(figures("fast", **unsteady), figures("slow", ms=2.0)) == {}


def test_what_no_budget_asks_about_keeps_nobody() -> None:
    """A few bytes of the file, and differences of an output that count as none."""
    slow = figures("slow", ms=2.0, size_mb=19.9, batch_difference=0.0)
    assert beaten_names(figures("fast", batch_difference=1e-4), slow) == {"slow": "fast"}


def test_who_misses_a_budget_beats_nobody_that_meets_it() -> None:
    found = (figures("fast", size_mb=20.1), figures("slow", ms=2.0))
    assert beaten_names(*found) == {"slow": "fast"}
    assert beaten_names(*found, size_mb=20.05) == {}


def test_the_fastest_beats() -> None:
    found = figures("slow", ms=4.0), figures("fast"), figures("middle", ms=2.0)
    assert beaten_names(*found) == {"slow": "fast", "middle": "fast"}


# -- the front and the winner ------------------------------------------------------------------------------------------


def test_the_front_has_those_that_nobody_beats_in_both() -> None:
    found = (
        figures("slow and good", ms=1.0, metric=0.92),
        figures("slower and worse", ms=1.1, metric=0.91),
        figures("fast", ms=0.4, metric=0.90),
        figures("as fast and worse", ms=0.4, metric=0.89),
        figures("as good and slower", ms=0.5, metric=0.90),
    )
    assert front(found) == ("fast", "slow and good")


def test_the_fastest_within_the_budget_wins_and_the_sentence_says_against_whom() -> None:
    found = (
        figures("reckless", ms=0.25, drop=0.02),
        figures("steady", ms=0.5, drop=0.004),
        figures("slow", ms=0.8, drop=0.001),
    )
    choice = choose(found, Budget())

    assert choice.winner == "steady"
    assert choice.reason == (
        "steady is the fastest of 2 within the budget (3 raced): 2.00x as fast as fp32, metric 0.8960, drop 0.0040; "
        "next is slow, 1.25x; reckless is faster, 4.00x, and misses metric_drop 0.0200 of 0.0050"
    )
    assert choice.front == ("reckless", "steady", "slow")


def test_of_equally_fast_ones_the_smaller_wins() -> None:
    found = figures("large", ms=0.5), figures("small", ms=0.5, size_mb=10.0)
    assert choose(found, Budget()).winner == "small"


def test_a_single_candidate_is_compared_with_nobody() -> None:
    assert choose([figures("only", ms=0.5)], Budget()).reason == (
        "only is the fastest of 1 within the budget (1 raced): 2.00x as fast as fp32, metric 0.9000, drop 0.0000"
    )


def test_where_nobody_meets_the_budget_the_nearest_three_are_told() -> None:
    found = (
        figures("far", ms=0.2, drop=0.05),
        figures("twice", ms=0.1, drop=0.006, size_mb=50.0),
        figures("near", ms=0.3, drop=0.0101),
        figures("between", ms=0.4, drop=0.02),
    )
    choice = choose(found, Budget(size_mb=40))

    assert choice.winner is None
    assert choice.reason == (
        "near misses metric_drop 0.0101 of 0.0050; between misses metric_drop 0.0200 of 0.0050; "
        "far misses metric_drop 0.0500 of 0.0050"
    )


def test_a_budget_of_zero_is_missed_by_some_amount() -> None:
    choice = choose([figures(drop=0.0002), figures("worse", drop=0.3)], Budget(metric_drop=0))
    assert choice.reason == "one misses metric_drop 0.0002 of 0.0000; worse misses metric_drop 0.3000 of 0.0000"


@pytest.mark.parametrize(
    ("found", "lacking"),
    [
        ([], False),
        ([{"drop": 0.001}, {"drop": 0.1}], False),
        ([{"drop": 0.1}, {"drop": 0.2}], True),
        ([{"drop": 0.1, "size_mb": 40.0}, {"size_mb": 40.0}], False),
        ([{"batch_flips": 2}, {"size_mb": 40.0}], True),
    ],
)
def test_quality_is_lacking_where_it_alone_keeps_somebody_out(found: list[dict[str, Any]], lacking: bool) -> None:
    budget = Budget(invariant=True, size_mb=30.0)
    assert lacks_quality([figures(**one) for one in found], budget) is lacking
