"""The timing of candidates around a race that is passed in: a look at each, a race of all, and who dies in it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure import Latency, WarmUp
from benchmarks.session import Variant
from benchmarks.shapes import Raced, RacedShape, Shape
from benchmarks.targets import Facts
from pipeline.errors import Failure
from pipeline.progress import Silent
from pipeline.quantizing.timing import Timing, look, time_properly

BUNDLES = {"a": Path("a"), "b": Path("b"), "c": Path("c")}


class Races:
    """Who was raced with whom, and for how long; those in `die` end every race that they are in."""

    def __init__(self, die: Sequence[str] = (), ms: Sequence[float] = ()) -> None:
        self.die, self.seen, self.ms = die, list[tuple[str, int, int]](), iter(ms)

    def __call__(self, variants: Sequence[Variant], **settings: Any) -> tuple[Raced, ...]:
        names = [variant.name for variant in variants]
        self.seen.append(("".join(names), settings["n"], settings["processes"]))
        if dead := [name for name in names if name in self.die]:
            raise Failure(f"measuring {dead[0]}: the process was ended by SIGKILL")
        return tuple(self._raced(name) for name in names)

    def _raced(self, name: str) -> Raced:
        ms = next(self.ms, 2.0)
        latency = Latency(ms, None, None, None, None, None, n=1, processes=1)
        shape = RacedShape(Shape(8, 128), ms, latency, (WarmUp(20, steady=True),), ([int(ms * 1e6)],))
        return Raced(name, Facts("d", 1.0, 1, ()), (shape,))


def settings(race: Races) -> dict[str, Any]:
    return {"shapes": ((8, 128),), "items": (("good",),), "threads": 1, "reporter": Silent(), "race": race}


def test_a_look_is_short_and_at_each_alone_there_and_back() -> None:
    races = Races(die="b")
    timing = look(BUNDLES, **settings(races))
    assert races.seen == [("a", 10, 1), ("b", 10, 1), ("c", 10, 1), ("c", 10, 1), ("a", 10, 1)]
    assert timing.ms() == {"a": {"8x128": 2.0}, "c": {"8x128": 2.0}}
    assert timing.failed == {"b": "measuring b: the process was ended by SIGKILL"}


def test_of_two_looks_the_better_one_counts() -> None:
    timing = look({"a": Path("a"), "b": Path("b")}, **settings(Races(ms=[1.0, 9.0, 2.0, 3.0])))
    assert timing.ms() == {"a": {"8x128": 1.0}, "b": {"8x128": 2.0}}


def test_a_race_is_longer_and_of_all() -> None:
    races = Races()
    timing = time_properly(BUNDLES, **settings(races))
    assert races.seen == [("abc", 40, 3)]
    assert (list(timing.ms()), timing.failed) == (["a", "b", "c"], {})


def test_who_dies_in_a_race_is_found_and_the_others_race_again() -> None:
    races = Races(die="b")
    timing = time_properly(BUNDLES, **settings(races))
    assert [names for names, _, _ in races.seen] == ["abc", "a", "b", "c", "c", "a", "ac"]
    assert (list(timing.ms()), list(timing.failed)) == (["a", "c"], ["b"])


def test_a_race_that_fails_for_a_reason_of_its_own_ends_the_search() -> None:
    class Fails(Races):
        def __call__(self, variants: Sequence[Variant], **settings: Any) -> tuple[Raced, ...]:
            if len(variants) > 1:
                raise Failure("other tokens")
            return super().__call__(variants, **settings)

    with pytest.raises(Failure, match="other tokens"):
        time_properly(BUNDLES, **settings(Fails()))


def test_a_process_that_was_killed_once_ends_no_race() -> None:
    class KilledOnce(Races):
        killed = False

        def __call__(self, variants: Sequence[Variant], **settings: Any) -> tuple[Raced, ...]:
            raced = super().__call__(variants, **settings)
            if len(variants) > 1 and not self.killed:
                self.killed = True
                raise Failure("the process was ended by SIGKILL")
            return raced

    races = KilledOnce()
    timing = time_properly(BUNDLES, **settings(races))
    assert [names for names, _, _ in races.seen] == ["abc", "a", "b", "c", "c", "b", "a", "abc"]
    assert (list(timing.ms()), timing.failed) == (["a", "b", "c"], {})


@pytest.mark.parametrize("measure", [look, time_properly])
def test_who_works_beside_a_search_rests_while_it_measures(measure: Callable[..., Timing]) -> None:
    told: list[str] = []

    class Told(Silent):
        def event(self, kind: str, **fields: Any) -> None:
            told.append(kind)

    class Noting(Races):
        def __call__(self, variants: Sequence[Variant], **settings: Any) -> tuple[Raced, ...]:
            told.append("race")
            return super().__call__(variants, **settings)

    measure({"a": Path("a")}, **{**settings(Noting()), "reporter": Told()})
    assert (told[0], told[-1], {*told[1:-1]}) == ("measure_start", "measure_end", {"race"})
