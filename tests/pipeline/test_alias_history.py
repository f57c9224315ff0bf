"""What a ledger says of aliases: the way back, what was named when, what lags and what something else moved."""

from typing import Any

import pytest
from ledgers import altered, ledger, promotions

from pipeline.alias_history import Span, astray, foreign, named_at, named_once, spans, unfinished, way_back
from pipeline.errors import BadRequest
from pipeline.ledger import Chain, chain


def back(to: str, **changes: Any) -> dict[str, Any]:
    return {"to": to, "action": "rollback", **changes}


def at(day: int, hour: int = 12) -> str:
    return f"2026-11-{day:02d}T{hour:02d}:00:00+00:00"


def told(found: list[Span]) -> list[tuple[str, str | None, int | None]]:
    return [(span.alias, span.version, span.number) for span in found]


# -- the way back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moves", "way"),
    [
        ([], []),
        ([{"to": "1"}], ["1"]),
        ([{"to": "2", "was": "1"}], ["1", "2"]),
        ([{"to": "1"}, {"to": "2"}, {"to": "3"}], ["1", "2", "3"]),
        ([{"to": "1"}, {"to": "2"}, {"to": "3"}, back("2")], ["1", "2"]),
        ([{"to": "1"}, {"to": "2"}, {"to": "3"}, back("2"), back("1")], ["1"]),
        ([{"to": "1"}, {"to": "2"}, {"to": "3"}, back("1")], ["1"]),
        ([{"to": "1"}, {"to": "2"}, back("1"), {"to": "2"}], ["1", "2"]),
        ([{"to": "1"}, {"to": "2"}, {"to": "1"}], ["1", "2", "1"]),
        ([{"to": "1"}, {"to": "2"}, {"to": "1"}, back("2")], ["1", "2"]),
        ([{"to": "2", "was": "1"}, back("1")], ["1"]),
        ([{"to": "1"}, {"to": "3", "was": "2"}], ["1", "2", "3"]),  # moved to 2 past the ledger
        ([{"to": "1"}, {"to": "2", "was": "2"}], ["1", "2"]),  # moved past the ledger, and put on record
        ([{"to": "1"}, {"to": "2", "alias": "challenger"}], ["1"]),
    ],
)
def test_a_promotion_comes_on_top_and_a_rollback_takes_off(moves: list[dict[str, Any]], way: list[str]) -> None:
    assert [version for version, _ in way_back(chain(ledger(*moves)), "champion")] == way


def test_each_stop_on_the_way_back_has_the_last_entry_that_moved_the_alias_there_or_else_away() -> None:
    """By it one knows whether the version of that number is still the same."""
    moves = ({"to": "2", "was": "1"}, {"to": "3"}, back("2", why="of the rollback"), {"to": "2", "why": "once more"})
    assert [(version, entry.to, entry.why) for version, entry in way_back(chain(ledger(*moves)), "champion")] == [
        ("1", "2", "it is better"),
        ("2", "2", "once more"),
    ]


def test_what_an_alias_named_once_is_what_it_was_moved_to_or_from() -> None:
    found = chain(ledger({"to": "2", "was": "1"}, {"to": "3"}, {"to": "4", "alias": "challenger"}))
    assert [(version, entry.to) for version, entry in named_once(found, "champion")] == [
        *(("2", "2"), ("3", "3")),
        ("1", "2"),
    ]
    assert named_once(found, "nobody") == []


# -- what was named when -----------------------------------------------------------------------------------------------

MOVES = chain(
    ledger(
        {"to": "2", "was": "1", "at": at(16), "who": "anna"},
        {"to": "3", "at": at(17, 9), "who": "ben", "alias": "challenger"},
        {"to": "3", "at": at(17, 10), "who": "ben"},
        {"to": "2", "at": at(17, 18), "who": "carl", "action": "rollback"},
    )
)


@pytest.mark.parametrize(
    ("when", "named"),
    [
        ("2026-11-15", [("champion", "1", None)]),
        ("2026-11-16", [("champion", "1", None), ("champion", "2", 1)]),
        (
            "2026-11-17",
            [("challenger", "3", 2), ("champion", "2", 1), ("champion", "3", 3), ("champion", "2", 4)],
        ),
        ("2026-11-18", [("challenger", "3", 2), ("champion", "2", 4)]),
        ("2026-11-17T09:59:59", [("challenger", "3", 2), ("champion", "2", 1)]),
        ("2026-11-17T10:00", [("challenger", "3", 2), ("champion", "3", 3)]),
        ("2026-11-17T10:30+01:00", [("challenger", "3", 2), ("champion", "2", 1)]),
        ("2026-11-17T17:59:59Z", [("challenger", "3", 2), ("champion", "3", 3)]),
    ],
)
def test_what_ran_on_tuesday(when: str, named: list[tuple[str, str, int | None]]) -> None:
    assert told(named_at(MOVES, when)) == named


def test_a_span_says_who_began_it_and_when_it_ended() -> None:
    found = [span for span in spans(MOVES) if span.alias == "champion"]
    assert [(span.who, span.since and span.since.isoformat()) for span in found] == [
        (None, None),
        ("anna", at(16)),
        ("ben", at(17, 10)),
        ("carl", at(17, 18)),
    ]
    assert [span.until for span in found] == [*(span.since for span in found[1:]), None]


def test_where_something_moved_an_alias_past_the_ledger_both_versions_are_told_with_the_end_that_nobody_knows() -> None:
    moves = ({"to": "1", "at": at(16)}, {"to": "2", "was": "9", "at": at(18)}, {"to": "3", "at": at(19)})
    found = list(spans(chain(ledger(*moves))))
    assert [(span.version, span.number, span.unknown) for span in found] == [
        *(("1", 1, "until"), ("9", None, "since"), ("2", 2, None)),
        ("3", 3, None),
    ]
    assert [span.until and span.until.isoformat() for span in found] == [at(18), at(18), at(19), None]
    assert found[1].since is not None
    assert found[1].since.isoformat() == at(16), "the earliest that it can have been"


@pytest.mark.parametrize("now", ["9", None])
def test_what_an_alias_names_now_is_what_the_registry_says(now: str | None) -> None:
    named = {} if now is None else {"champion": now}
    found = named_at(chain(ledger({"to": "1", "at": at(16)})), "2026-11-17", named)
    assert [(span.version, span.until, span.unknown) for span in found] == [("1", None, "until"), (now, None, "since")]
    assert named_at(chain(promotions("1")), "2026-11-18", {"champion": "1"})[0].unknown is None


def test_before_the_first_entry_of_an_alias_that_named_nothing_there_is_nothing() -> None:
    assert named_at(chain(promotions("1")), "2026-11-16") == []
    assert named_at(Chain(), "2026-11-16") == []


@pytest.mark.parametrize("when", ["tuesday", "", "2026-13-01", "2026-11-17T25:00", "17.11.2026"])
def test_what_is_no_time_is_answered_with_how_to_write_one(when: str) -> None:
    with pytest.raises(BadRequest) as refused:
        named_at(MOVES, when)
    assert str(refused.value) == (
        f"--at {when}: expected a date or a time, as in 2026-11-17 or 2026-11-17T14:30; both are UTC unless they say "
        "another zone"
    )


# -- what the registry says --------------------------------------------------------------------------------------------


LAST, OLDER = 3, 2  # the entry that the end on the model names


def seen(found: Chain, named: dict[str, str], entry: int) -> tuple[dict[str, str], dict[str, str | None]]:
    """What lags and what is foreign where the end on the model is this entry; 0: there is none."""
    head = found.links[entry - 1].head if entry else ""
    return astray(found, named, head=head), foreign(found, named, head=head)


@pytest.mark.parametrize(
    ("entry", "named", "lags", "moved"),
    [
        (LAST, {"champion": "3"}, {}, {}),
        (LAST, {"champion": "2"}, {}, {"champion": "2"}),
        (LAST, {}, {}, {"champion": None}),
        (LAST, {"champion": "9"}, {}, {"champion": "9"}),
        (OLDER, {"champion": "3"}, {}, {}),
        (OLDER, {"champion": "2"}, {"champion": "3"}, {}),
        (OLDER, {}, {}, {"champion": None}),
        (OLDER, {"champion": "1"}, {}, {"champion": "1"}),
        (OLDER, {"champion": "9"}, {}, {"champion": "9"}),
        (1, {"champion": "1"}, {"champion": "3"}, {}),  # two moves since
        (0, {"champion": "2"}, {"champion": "3"}, {}),
        (0, {"champion": "1"}, {}, {"champion": "1"}),
        (LAST, {"champion": "3", "staging": "9"}, {}, {}),  # an alias that the ledger does not know
    ],
)
def test_an_alias_lags_only_where_its_last_move_was_not_completed(
    entry: int, named: dict[str, str], lags: dict[str, str], moved: dict[str, str | None]
) -> None:
    assert seen(chain(promotions("1", "2", "3")), named, entry) == (lags, moved)


def test_an_alias_that_named_nothing_lags_until_its_first_move_is_completed() -> None:
    assert seen(chain(promotions("1")), {}, 0) == ({"champion": "1"}, {})
    assert seen(chain(promotions("1")), {}, 1) == ({}, {"champion": None})


def test_a_move_of_one_alias_completes_those_before_it_of_others() -> None:
    found = chain(ledger({"to": "1"}, {"to": "2"}, {"to": "2", "alias": "challenger"}))
    assert seen(found, {"champion": "1"}, 2) == ({"challenger": "2"}, {"champion": "1"})
    assert unfinished(found, found.links[0].head) == {"champion", "challenger"}
    assert unfinished(found, found.links[1].head) == {"challenger"}
    assert unfinished(found, found.head) == set()


def test_where_the_end_on_the_model_is_missing_nothing_lags() -> None:
    cut = chain(promotions("1", "2", "1")[:2])
    lost = chain(promotions("1", "2", "1")).head
    assert astray(cut, {"champion": "1"}, head=lost) == {}
    assert foreign(cut, {"champion": "1"}, head=lost) == {"champion": "1"}


def test_what_an_alias_named_before_there_was_a_ledger_is_no_fault() -> None:
    assert seen(Chain(), {"champion": "4"}, 0) == ({}, {})
    adopted = chain(ledger({"to": "5", "was": "4"}))
    assert seen(adopted, {"champion": "4"}, 0) == ({"champion": "5"}, {})


def test_what_this_process_wrote_too_late_is_put_right() -> None:
    found = chain(promotions("1", "2", "3"))
    assert astray(found, {"champion": "1"}, head=found.head, ours={("champion", "1")}) == {"champion": "3"}
    assert astray(found, {"champion": "1"}, head=found.head, ours={("challenger", "1")}) == {}


def test_an_altered_entry_moves_nothing() -> None:
    written = promotions("1", "2")
    found = chain([written[0], altered(written[1], to="9")])
    assert seen(found, {"champion": "2"}, 0) == ({}, {})
