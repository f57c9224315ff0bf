"""Peaks of several rounds: who is best, and what is held against what."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import tiny_bundle

from benchmarks.openloop.client import ClientJob
from benchmarks.openloop.plan import Plan
from benchmarks.openloop.results import Rate, ServerResult
from benchmarks.openloop.scenarios import QUEUE
from benchmarks.serving import peak
from benchmarks.serving.contest import Contest, Installed
from benchmarks.serving.contestants import OURS, chosen
from benchmarks.serving.peak import HEADINGS, IN_PROCESS, Half, Peak, Peaks, find_peaks, measure_half
from serving.choosing import choose_setting
from serving.options import Options


def searched(*rates: float | None, void: str = "") -> tuple[ServerResult, ...]:
    """Whole searches; where there is no rate, one that was void from its start."""
    return tuple(
        ServerResult("http", 25.0, 99, rps, points=(point(void=void),), broken_rps=rps and 1.01 * rps) for rps in rates
    )


def open_above(*rates: float) -> tuple[ServerResult, ...]:
    """Searches that ended at void points."""
    return tuple(ServerResult("http", 25.0, 99, rps, points=(point(void="it lagged"),)) for rps in rates)


def point(p99_ms: float | None = 5.0, *, void: str = "") -> Rate:
    return Rate(100.0, 5.0, 500, 500, 0, 0, 1.0, 2.0, p99_ms, late_p50_ms=0.1, late_p99_ms=0.2, void=void)


def peaks(rounds: int = 3, **changes: tuple[ServerResult, ...]) -> Peaks:
    """OURS by the name `ours`, and in process by `floor`."""
    found = {
        "ours": searched(700.0, 720.0, 690.0),
        "mlserver": searched(280.0, 270.0, 290.0),
        "fastapi": searched(450.0, 400.0, 460.0),
        "floor": searched(800.0, 900.0, 780.0),
    }
    names = {"ours": OURS, "floor": IN_PROCESS}
    return Peaks({names.get(name, name): each for name, each in {**found, **changes}.items()}, rounds)


def kept(found: Peaks) -> list[str]:
    """Of the best peer's peak, and of that in process."""
    return [each.kept for each in found.figures()]


def test_the_best_peer_is_the_one_with_the_highest_median() -> None:
    found = peaks()
    assert (found.best_peer(), found.rps("fastapi"), found.rps("nobody")) == ("fastapi", 450.0, None)


def test_ours_is_held_against_the_best_peer_and_against_itself_in_process() -> None:
    figures = {each.row()[0]: (round(each.value or 0, 3), each.kept) for each in peaks().figures()}
    assert figures == {
        f"peak over the best peer's (of 3 rounds: {OURS} 3, fastapi 3)": (1.556, "yes"),
        f"peak of that in process (of 3 rounds: {OURS} 3, {IN_PROCESS} 3)": (0.875, "yes"),
    }
    assert kept(peaks(fastapi=searched(480.0, 481.0, 482.0), floor=searched(900.0, 900.0, 900.0))) == ["NO", "NO"]


def test_rows_go_from_the_fastest_to_the_slowest_with_the_spread_of_their_rounds() -> None:
    assert peaks().rows() == (
        (IN_PROCESS, "800", "780 to 900", "1.78", "3 of 3", ""),
        (OURS, "700", "690 to 720", "1.56", "3 of 3", ""),
        ("fastapi", "450", "400 to 460", "1.00", "3 of 3", ""),
        ("mlserver", "280", "270 to 290", "0.62", "3 of 3", ""),
    )
    assert len(HEADINGS) == len(peaks().rows()[0])


def test_a_peak_that_nothing_is_known_above_is_told_as_the_least_it_is() -> None:
    found = peaks(fastapi=open_above(400.0, 400.0, 400.0))
    assert found.rows()[2] == ("fastapi", "at least 400", "400 to 400", "-", "3 of 3", "it lagged")


def test_a_figure_that_needs_a_peak_from_above_is_not_known_where_it_is_only_known_from_below() -> None:
    assert kept(peaks(fastapi=open_above(400.0, 400.0, 400.0))) == ["not known", "yes"]
    assert kept(peaks(floor=open_above(800.0, 800.0, 800.0))) == ["yes", "not known"]
    assert kept(peaks(mlserver=open_above(100.0, 100.0, 100.0))) == ["not known", "yes"], "it may be the best"


def test_a_figure_is_missed_where_even_the_least_that_the_other_keeps_is_too_much() -> None:
    assert kept(peaks(fastapi=open_above(600.0, 600.0, 600.0), floor=open_above(900.0, 900.0, 900.0))) == ["NO", "NO"]


def test_ours_suffices_or_stays_open_by_the_least_it_is() -> None:
    assert kept(peaks(ours=open_above(700.0, 700.0, 700.0))) == ["yes", "yes"]
    assert kept(peaks(ours=open_above(600.0, 600.0, 600.0))) == ["not known", "not known"]


def test_one_open_round_of_three_leaves_a_peak_known_only_if_the_median_does_not_rest_on_it() -> None:
    high, low = open_above(460.0), open_above(400.0)
    assert peaks(fastapi=(*searched(400.0, 450.0), *high)).peak("fastapi") == Peak(450.0, 450.0)
    assert peaks(fastapi=(*low, *searched(450.0, 460.0))).peak("fastapi") == Peak(450.0, 460.0)


def test_a_peer_that_keeps_the_bound_at_no_rate_is_known_to_be_slow() -> None:
    slow = 3 * (ServerResult("http", 25.0, 99, None, points=(point(99.0),), broken_rps=25.0),)
    found = peaks(mlserver=slow)
    assert (found.rps("mlserver"), found.rows()[-1][:2], kept(found)) == (
        None,
        ("mlserver", "below 25"),
        ["yes", "yes"],
    )


def test_a_round_that_is_missing_or_was_void_from_its_start_is_not_counted() -> None:
    found = peaks(fastapi=searched(470.0, None, 450.0, void="it lagged"), litserve=searched(340.0, 340.0, 340.0))
    assert (found.best_peer(), found.rps("fastapi"), kept(found)) == ("fastapi", 460.0, ["yes", "yes"])
    assert found.figures()[0].note == f"of 3 rounds: {OURS} 3, fastapi 2"
    assert found.rows()[2] == ("fastapi", "460", "450 to 470", "1.00", "2 of 3", "it lagged")


def test_a_peer_with_fewer_than_half_of_its_rounds_is_not_the_best_and_leaves_open_what_it_beat() -> None:
    found = peaks(litserve=searched(470.0))
    assert (found.best_peer(), kept(found)) == ("fastapi", ["not known", "yes"])
    assert ("litserve", "470", "470 to 470", "1.04", "1 of 3: too few", "") in found.rows()
    assert kept(peaks(litserve=searched(440.0))) == ["yes", "yes"]


def test_a_peer_that_failed_in_every_round_has_a_row_that_says_so() -> None:
    found = peaks(litserve=())
    assert found.rows()[-1] == ("litserve", "-", "-", "-", "0 of 3: too few", "")
    assert (found.best_peer(), kept(found)) == ("fastapi", ["yes", "yes"])


def test_ours_without_a_round_leaves_all_open() -> None:
    assert kept(peaks(ours=searched(None, None, None, void="it lagged"))) == ["not known", "not known"]


def test_without_peers_nothing_is_best() -> None:
    found = Peaks({OURS: searched(700.0)}, rounds=1)
    assert (found.best_peer(), kept(found)) == (None, ["not known", "not known"])


# -- the rounds --------------------------------------------------------------------------------------------------------


@pytest.fixture
def contest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Contest:
    """Of servers that start nothing."""
    peers = {"fastapi": Installed(chosen(["fastapi"])[0], Path("bin"))}
    monkeypatch.setattr(
        Contest, "server", lambda self, name: nullcontext(SimpleNamespace(url="http://here", name=name))
    )
    return Contest(tiny_bundle(tmp_path / "bundle"), ("good", "bad"), peers, cores=(0,), generator=(1,))


def test_a_round_has_schedules_of_its_own_and_the_same_for_everybody(
    contest: Contest, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[tuple[str, int]] = []

    def load(*_: object, variant: str, plan: Plan, **__: object) -> ServerResult:
        seeds.append((variant, plan.seed))
        return searched(100.0)[0]

    def offer(job: ClientJob, **_: object) -> Rate:
        seeds.append((f"half {job.variant}", job.seed))
        return point()

    for name, does in {"load_url": load, "load_engine": load, "offer_http": offer}.items():
        monkeypatch.setattr(peak, name, does)
    kept_so_far: list[int] = []
    plan = Plan(bound_ms=25.0)
    found = find_peaks(
        contest, plan=plan, rounds=2, keep=lambda peaks: kept_so_far.append(sum(map(len, peaks.searches.values())))
    )
    assert sorted(seeds) == [(name, seed) for name in ("fastapi", IN_PROCESS, OURS) for seed in (0, 1)]
    assert ({len(each) for each in found.searches.values()}, found.rounds) == ({2}, 2)
    assert kept_so_far == [1, 2, 3, 4, 5, 6], "after every search"
    seeds.clear()
    measure_half(contest, rps=50.0, best_peer="fastapi", seconds=1.0, rounds=2, bound_ms=25.0)
    assert sorted(seeds) == [(f"half {name}", seed) for name in ("fastapi", OURS) for seed in (0, 1)]


def test_in_process_runs_as_the_server_that_is_told_its_threads(
    contest: Contest, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def load(*_: object, **named: object) -> ServerResult:
        seen.update(named)
        return searched(100.0)[0]

    monkeypatch.setattr(peak, "load_url", lambda *_, **__: searched(100.0)[0])
    monkeypatch.setattr(peak, "load_engine", load)
    find_peaks(contest, plan=Plan(bound_ms=25.0), rounds=1)
    assert seen["setting"] == choose_setting(contest.bundle, threads=contest.threads)
    assert Options(source="any", cache=Path()).queue == QUEUE
    assert "queue" not in seen


def test_a_void_point_at_half_of_the_peak_is_taken_again(contest: Contest, monkeypatch: pytest.MonkeyPatch) -> None:
    voids = iter(["it lagged", "it lagged", "", *3 * ["it lagged"]])
    monkeypatch.setattr(peak, "offer_http", lambda *_, **__: point(void=next(voids)))
    found = measure_half(contest, rps=50.0, best_peer="fastapi", seconds=1.0, rounds=1, bound_ms=25.0)
    assert {name: [each.void for each in points] for name, points in found.points.items()} == {
        OURS: [""],
        "fastapi": ["it lagged"],
    }


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
