"""Of which versions a ledger still speaks, where a model was deleted and others have the numbers now."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from ledgers import entry, ledger, promotions

from pipeline.ledger import chain
from pipeline.model_state import CLOCKS, State, is_younger, speaks_of
from pipeline.tracking.versions import Version

MOVES = chain(promotions("1", "2"))
LAST = MOVES.valid()[-1][1]
AT = datetime.fromisoformat(LAST.at)
TAGS = {"retort.digest": LAST.digest, "retort.files": LAST.files}
SECOND = Version("m", 2, TAGS, (), AT, None, "s3://nowhere")
FIRST = replace(SECOND, number=1)
STATE = State("m", MOVES.head, MOVES, {"1": FIRST, "2": SECOND}, {"champion": "2"})
OTHERS = [{**TAGS, "retort.digest": "e" * 64}, {**TAGS, "retort.files": "e" * 64}, {}]


@pytest.mark.parametrize("tags", OTHERS, ids=["another bundle", "other files", "not ours"])
def test_an_entry_speaks_of_the_bytes_that_were_promoted_and_of_no_others(tags: dict[str, str]) -> None:
    assert speaks_of(LAST, SECOND)
    assert not speaks_of(LAST, replace(SECOND, tags=tags))


def test_an_entry_of_a_version_without_a_list_of_files_speaks_of_it() -> None:
    older = replace(SECOND, tags={"retort.digest": LAST.digest})
    assert speaks_of(entry(digest=LAST.digest, files=""), older)


def test_a_version_is_younger_where_no_difference_of_two_clocks_explains_it() -> None:
    assert not is_younger(replace(SECOND, created_at=AT + CLOCKS), LAST)
    assert is_younger(replace(SECOND, created_at=AT + CLOCKS + timedelta(seconds=1)), LAST)


@pytest.mark.parametrize("tags", OTHERS, ids=["another bundle", "other files", "not ours"])
def test_an_alias_is_promised_to_no_version_that_only_has_the_number(tags: dict[str, str]) -> None:
    assert STATE.promised == {"champion": "2"}
    assert replace(STATE, versions={"1": FIRST, "2": replace(SECOND, tags=tags)}).promised == {}
    assert replace(STATE, versions={"1": FIRST}).promised == {}


def test_an_alias_whose_version_is_gone_and_that_names_nothing_is_no_news() -> None:
    another = replace(STATE, versions={"2": replace(SECOND, tags={})}, named={})
    assert another.foreign == {}
    assert replace(STATE, named={}).foreign == {"champion": None}
    assert replace(another, named={"champion": "1"}).foreign == {"champion": "1"}


def test_what_an_alias_was_moved_from_is_known_by_the_entry_that_moved_one_there() -> None:
    assert STATE.is_known("1", by=LAST)
    assert not replace(STATE, versions={"1": replace(FIRST, tags={})}).is_known("1", by=LAST)
    assert not replace(STATE, versions={}).is_known("1", by=LAST)


def test_what_an_alias_named_before_the_ledger_is_known_where_it_was_there_already() -> None:
    moves = chain(ledger({"to": "2", "was": "1"}))
    (_, first), state = moves.valid()[0], replace(STATE, chain=moves)
    assert state.is_known("1", by=first)
    assert not replace(state, versions={"1": replace(FIRST, created_at=AT + 2 * CLOCKS)}).is_known("1", by=first)
