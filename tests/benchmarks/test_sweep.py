"""The sweep: which settings are tried, in which rounds, and which one wins, over measurements that are given."""

from collections.abc import Callable

import msgspec
import pytest

from benchmarks.openloop.plan import Plan
from benchmarks.openloop.results import Rate, ServerResult
from benchmarks.sweep import FINALISTS, splits, sweep, variations, winner
from serving.errors import BadArtifact, BadRequest, Failure, Transient
from serving.instances import Varies
from serving.tuning import Alone, Earned, Setting, Together, most_earned

PLAN = Plan(bound_ms=20.0)
WIDE, TWO = Setting(sessions=1, threads=2, executors=2), Setting(sessions=2, threads=1, executors=2)


def rate(rps: float, void: str = "") -> Rate:
    p99_ms = None if void else 12.0
    return Rate(rps, 3.0, 1000, 990, 6, 4, 5.0, 9.0, p99_ms, late_p50_ms=0.1, late_p99_ms=0.2, void=void)


def result(best_rps: float | None, *points: Rate) -> ServerResult:
    return ServerResult("engine", 20.0, 99, best_rps, points or (rate(best_rps or 50.0),))


class Machine:
    """Answers so many requests a second by each setting; keeps what it was asked, in order."""

    def __init__(self, rps: Callable[[Setting], float | None]) -> None:
        self.rps, self.asked = rps, list[Setting]()

    def measure(self, setting: Setting) -> ServerResult:
        self.asked.append(setting)
        return result(self.rps(setting))


def cells(settings: tuple[Setting, ...]) -> list[tuple[int, int, int]]:
    return [(each.sessions, each.threads, each.executors) for each in settings]


def test_splits_fill_the_cores_or_leave_some() -> None:
    assert cells(splits(1)) == [(1, 1, 1)]
    assert cells(splits(2)) == [(1, 1, 2), (1, 2, 2), (2, 1, 2)]
    assert cells(splits(6)) == [(1, 1, 2), (1, 2, 2), (1, 4, 2), (1, 6, 2), (2, 1, 2), (2, 2, 2), (2, 3, 2), (4, 1, 4)]


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 6, 16, 64])
def test_no_split_asks_for_more_cores_than_there_are(cores: int) -> None:
    found = splits(cores)
    assert len(set(found)) == len(found)
    assert max(each.sessions * each.threads for each in found) == cores
    assert {(1, cores), (1, 1)} <= {(each.sessions, each.threads) for each in found}


def test_variations_are_the_other_executors_and_where_requests_hold_several_items_batches() -> None:
    assert variations(TWO, items_per_request=1) == (msgspec.structs.replace(TWO, executors=4),)
    assert cells(variations(WIDE, items_per_request=1)) == [(1, 2, 1)]
    batches = [each.batch for each in variations(TWO, items_per_request=32)]
    assert batches == [Alone(), Together(4), Together(16)]
    assert [each.batch for each in variations(TWO, items_per_request=3)][1:] == [Together(3)]


def test_rounds_are_splits_then_variations_of_the_best_then_the_best_again_in_reverse() -> None:
    machine = Machine(lambda setting: 100.0 * setting.sessions + 10 * setting.threads + 20 * setting.executors)
    earned = sweep(2, machine.measure)
    first, last = machine.asked[:3], machine.asked[-FINALISTS:]
    assert first == list(splits(2))
    assert set(machine.asked[3:-FINALISTS]) == {
        other for each in first for other in variations(each, items_per_request=1)
    }
    best = sorted(set(machine.asked), key=machine.rps, reverse=True)[:FINALISTS]
    assert last == best[::-1]
    assert {each.setting for each in earned if len(each.best_rps) == 2} == set(best)
    assert winner(earned, plan=PLAN).setting == best[0] == Setting(sessions=2, threads=1, executors=4)


def test_luck_in_the_first_rounds_does_not_win() -> None:
    seen: set[Setting] = set()

    def rps(setting: Setting) -> float:
        lucky = setting == WIDE and setting not in seen
        seen.add(setting)
        return 900.0 if lucky else {WIDE: 400.0, TWO: 600.0}.get(setting, 100.0)

    assert winner(sweep(2, Machine(rps).measure), plan=PLAN).setting == TWO


def test_every_point_is_kept_with_what_was_not_answered() -> None:
    (earned,) = (each for each in sweep(1, Machine(lambda _: 50.0).measure) if each.setting.executors == 1)
    assert len(earned.points) == 2
    point = earned.points[0]
    assert (point.offered_rps, point.answered, point.unanswered) == (50.0, 990, 10)
    assert (point.p50_ms, point.p90_ms, point.p99_ms) == (5.0, 9.0, 12.0)


def test_a_setting_that_would_move_answers_is_left_out() -> None:
    def rps(setting: Setting) -> float:
        if isinstance(setting.batch, Together):
            raise Varies("it moves")
        return 100.0

    earned = sweep(2, Machine(rps).measure, items_per_request=8)
    assert {type(each.setting.batch) for each in earned} == {Alone}


KILLED = Failure("the process was ended by SIGKILL")


def test_a_setting_whose_process_dies_is_told_and_the_others_go_on() -> None:
    def rps(setting: Setting) -> float:
        if setting == TWO:
            raise KILLED
        return 100.0

    told: list[tuple[Setting, Failure]] = []
    machine = Machine(rps)
    earned = sweep(2, machine.measure, left_out=lambda setting, why: told.append((setting, why)))
    assert told == [(TWO, KILLED)]
    assert {each.setting for each in earned} == {*machine.asked} - {TWO}
    assert len([each for each in earned if len(each.best_rps) == 2]) == FINALISTS


def test_a_finalist_that_dies_the_second_time_does_not_win_by_the_first() -> None:
    def rps(setting: Setting) -> float:
        if setting == TWO and machine.asked.count(TWO) == 2:
            raise KILLED
        return {TWO: 600.0, WIDE: 400.0}.get(setting, 100.0)

    machine = Machine(rps)
    assert winner(sweep(2, machine.measure), plan=PLAN).setting == WIDE


def test_where_every_process_dies_the_last_one_says_why() -> None:
    failures = (Failure(f"death {number}") for number in range(9))

    def rps(_: Setting) -> float:
        raise next(failures)

    with pytest.raises(Failure, match=r"^death 2$"):
        sweep(2, Machine(rps).measure)


@pytest.mark.parametrize("kind", [BadRequest, BadArtifact, Transient])
def test_what_would_fail_every_setting_ends_the_sweep(kind: type[Failure]) -> None:
    def rps(_: Setting) -> float:
        raise kind("it is altered")

    machine = Machine(rps)
    with pytest.raises(kind, match="it is altered"):
        sweep(2, machine.measure)
    assert len(machine.asked) == 1


def test_whoever_listens_hears_of_each_measurement() -> None:
    heard: list[Earned] = []
    machine = Machine(lambda _: 100.0)
    sweep(2, machine.measure, tell=heard.append)
    assert [each.setting for each in heard] == machine.asked


def test_where_nothing_keeps_the_bound_the_way_out_is_told() -> None:
    earned = sweep(1, Machine(lambda _: None).measure)
    assert most_earned(earned) is None
    with pytest.raises(BadRequest) as refused:
        winner(earned, plan=PLAN)
    assert str(refused.value) == (
        "no setting kept p99 <= 20 ms each time it was measured, down to 50 requests/s; allow a longer bound or serve "
        "a faster variant"
    )


def test_a_machine_that_lets_little_be_measured_is_told_apart() -> None:
    earned = sweep(1, lambda _: result(None, rate(50.0), rate(25.0, void="the generator lagged")))
    with pytest.raises(Transient) as refused:
        winner(earned, plan=PLAN)
    assert str(refused.value) == (
        "no setting kept p99 <= 20 ms each time it was measured, and 4 of 8 points are void (the generator lagged); "
        "leave the machine alone and run it again"
    )


def test_a_machine_that_lets_nothing_be_measured_ends_the_sweep_after_the_first_round() -> None:
    asked: list[Setting] = []

    def measure(setting: Setting) -> ServerResult:
        asked.append(setting)
        return result(None, rate(50.0, void="the generator lagged"))

    with pytest.raises(Transient) as refused:
        sweep(2, measure)
    assert asked == list(splits(2))
    assert str(refused.value) == (
        "nothing can be measured here: the generator lagged; leave the machine alone and run it again"
    )
