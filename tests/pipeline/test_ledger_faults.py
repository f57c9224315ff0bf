"""What is said of a ledger and of aliases that do not follow it, and the way out of each."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from ledgers import promotions

from pipeline.ledger import chain
from pipeline.ledger_faults import alias_faults, ledger_faults
from pipeline.model_state import State
from pipeline.tracking.versions import Version

MOVES = chain(promotions("1", "2"))
TAGS = {"retort.digest": "d" * 64, "retort.files": "f" * 64}  # as tests/ledgers.py has them in its entries
VERSIONS = {
    str(number): Version("m", number, TAGS, (), datetime.now(UTC), None, "s3://nowhere") for number in (1, 2, 3)
}
STATE = State("m", MOVES.head, MOVES, VERSIONS, {"champion": "2"})
CUT = "9:" + "a" * 64
PROMOTE = "`retort promote m --to champion --version"


def test_of_a_model_that_is_whole_nothing_is_said() -> None:
    assert [*ledger_faults(STATE), *alias_faults(STATE, STATE.foreign)] == []


@pytest.mark.parametrize(
    ("named", "told"),
    [
        (
            "1",
            "@champion names version 1, and by entry 2 it is 2: something moved it past the ledger; "
            f"{PROMOTE} 1 --why ...` puts that on record, {PROMOTE} 2 --why ...` takes it back",
        ),
        (
            None,
            "@champion names nothing, and by entry 2 it is 2: something removed it past the ledger; "
            f"{PROMOTE} 2 --why ...` puts it back",
        ),
    ],
)
def test_an_alias_that_something_moved_or_removed_is_told_with_both_ways_out(named: str | None, told: str) -> None:
    state = replace(STATE, named={} if named is None else {"champion": named})
    assert list(alias_faults(state, state.foreign)) == [told]


def test_nobody_is_sent_to_a_version_that_is_gone() -> None:
    left = {"3": VERSIONS["3"]}
    gone = replace(STATE, versions=left, named={})
    assert list(alias_faults(gone, gone.foreign)) == [
        "version 2, which @champion names by entry 2, was deleted from the registry; "
        f"{PROMOTE} V --why ...` names another"
    ]
    moved = replace(STATE, versions=left, named={"champion": "3"})
    assert list(alias_faults(moved, moved.foreign)) == [
        "@champion names version 3, and by entry 2 it is 2: something moved it past the ledger; "
        f"{PROMOTE} 3 --why ...` puts that on record"
    ]


def test_where_the_ledger_was_cut_off_a_lost_entry_may_have_moved_an_alias() -> None:
    cut = replace(STATE, head=CUT, named={"champion": "1"})
    assert list(ledger_faults(cut)) == [
        "the ledger was cut off: model m says it reached to entry 9 (aaaaaaaaaaaa), which is not there"
    ]
    assert list(alias_faults(cut, cut.foreign)) == [
        "@champion names version 1, and by entry 2 it is 2: something moved it past the ledger, or by an entry that is "
        f"not there any more; {PROMOTE} 1 --why ...` puts that on record, {PROMOTE} 2 --why ...` takes it back"
    ]


def test_a_move_that_was_interrupted_is_told_with_how_to_finish_it() -> None:
    lags = replace(STATE, head=MOVES.links[0].head, named={"champion": "1"})
    assert list(alias_faults(lags, lags.foreign)) == [
        "@champion names version 1, and by entry 2 it is 2: that move is unfinished; `retort promote m --resume` "
        "finishes it"
    ]


@pytest.mark.parametrize("named", ["3", None])
def test_nobody_is_sent_to_a_version_that_only_has_the_number_of_the_one_that_was_promoted(named: str | None) -> None:
    another = replace(VERSIONS["2"], tags={**TAGS, "retort.digest": "e" * 64})
    state = replace(STATE, versions={**VERSIONS, "2": another}, named={} if named is None else {"champion": named})
    assert list(alias_faults(state, state.foreign)) == [
        "@champion names version 3, and by entry 2 it is 2: something moved it past the ledger; "
        f"{PROMOTE} 3 --why ...` puts that on record"
        if named
        else "version 2, which @champion names by entry 2, is another one now: it was deleted, and its number given "
        f"again, or its tags were changed; {PROMOTE} V --why ...` names one"
    ]
