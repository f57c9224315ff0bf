"""The ledger alone: who won a race, what was tampered with, where it was cut off. No registry."""

import itertools
import json
from typing import Any

import msgspec
import pytest
from ledgers import altered, entry, kept, ledger, promotions

from pipeline.errors import BadRequest
from pipeline.ledger import Chain, Entry, Kept, chain, entry_hash, entry_text, text_hash

OTHER: dict[str, Any] = {  # another value for every field but the schema
    "prev": "e" * 64,
    "at": "2026-11-18T12:00:00+00:00",
    "who": "mallory",
    "action": "rollback",
    "alias": "challenger",
    "was": "9",
    "to": "9",
    "why": "no reason",
    "digest": "0" * 64,
    "files": "1" * 64,
    "receipts": {},
    "run_id": "r9",
}


def faults(found: Chain) -> list[str]:
    return [fault.text for fault in found.faults]


def numbers(found: Chain) -> list[int]:
    return [number for number, _ in found.valid()]


# -- one entry ---------------------------------------------------------------------------------------------------------


def test_an_entry_is_canonical_json_in_ascii_and_reads_back_as_it_was() -> None:
    written = entry(who="Zoë", why='it is "better" 🙂')
    text = entry_text(written)
    assert text.isascii()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert msgspec.json.decode(text, type=Entry) == written
    assert entry_hash(written) == text_hash(text)


def test_every_field_is_in_the_hash() -> None:
    assert OTHER.keys() | {"schema"} == set(Entry.__struct_fields__)
    changed = [msgspec.structs.replace(entry(), **{field: value}) for field, value in OTHER.items()]
    hashes = {entry_hash(each) for each in (entry(), *changed)}
    assert len(hashes) == len(OTHER) + 1


@pytest.mark.parametrize("at", ["yesterday", "2026-11-17T12:00:00", ""])
def test_an_entry_without_a_time_and_its_zone_is_not_written(at: str) -> None:
    with pytest.raises(ValueError, match=r"isoformat|has no time zone"):
        entry(at=at)


# -- a whole ledger ----------------------------------------------------------------------------------------------------


def test_an_empty_ledger_is_whole_and_names_nothing() -> None:
    found = chain([])
    assert (found.links, found.faults, found.head, found.aliases()) == ((), (), "", {})


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_entries_count_by_their_numbers_in_whatever_order_they_are_read(order: tuple[int, ...]) -> None:
    written = promotions("1", "2", "3")
    found = chain([written[i] for i in order])
    assert (faults(found), numbers(found)) == ([], [1, 2, 3])
    assert found.head == f"3:{written[2].hash}"
    assert found.aliases() == {"champion": "3"}


def test_each_alias_names_what_its_own_last_entry_says() -> None:
    found = chain(
        ledger({"to": "1"}, {"to": "2", "alias": "challenger"}, {"to": "2"}, {"to": "1", "action": "rollback"})
    )
    assert found.aliases() == {"champion": "1", "challenger": "2"}
    number, last = found.last("challenger") or (0, entry())
    assert (number, last.to) == (2, "2")
    assert found.last("nobody") is None


# -- races -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", range(3))
@pytest.mark.parametrize("turn", ["anna first", "ben first"])
def test_of_two_authors_on_the_same_end_the_lower_number_counts(before: int, turn: str) -> None:
    written = promotions(*(str(i) for i in range(1, before + 1)))
    prev = written[-1].hash if written else ""
    anna, ben = entry(prev, who="anna", to="5"), entry(prev, who="ben", to="6")
    first, second = (anna, ben) if turn == "anna first" else (ben, anna)
    found = chain([*written, kept(before + 1, first), kept(before + 2, second)])
    assert faults(found) == []
    assert numbers(found) == list(range(1, before + 2))
    assert found.links[-1].won == before + 1
    assert found.head == f"{before + 1}:{entry_hash(first)}"
    assert found.aliases() == {"champion": first.to}


@pytest.mark.parametrize("order", list(itertools.permutations(("anna", "ben", "carl", "dora"))))
def test_of_many_authors_on_the_same_end_one_counts_and_the_next_entry_follows_it(order: tuple[str, ...]) -> None:
    raced = [kept(number, entry(who=who)) for number, who in enumerate(order, 1)]
    following = kept(5, entry(raced[0].hash, who="erik"))
    found = chain([*raced, following])
    assert faults(found) == []
    assert numbers(found) == [1, 5]
    assert [link.won for link in found.links] == [None, 1, 1, 1, None]


def test_who_is_late_by_several_entries_lost_against_the_one_that_was_made_on_the_same_end() -> None:
    written = promotions("1", "2", "3", "4")
    found = chain([*written, kept(5, entry(written[1].hash, who="late"))])
    assert (faults(found), found.links[-1].won) == ([], 3)
    assert found.head == f"4:{written[3].hash}"


def test_the_same_entry_twice_as_a_request_was_sent_again_counts_once() -> None:
    once = entry()
    found = chain([kept(1, once), kept(2, once)])
    assert (faults(found), numbers(found)) == ([], [1])


def test_nothing_may_follow_a_void_entry() -> None:
    first, void = kept(1, entry(who="anna")), kept(2, entry(who="ben"))
    found = chain([first, void, kept(3, entry(void.hash))])
    assert faults(found) == [
        f"entry 3 follows one that is not there ({void.hash[:12]}): an entry before it was altered or removed"
    ]


# -- tampering ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("field", OTHER)
def test_an_altered_field_is_found_wherever_it_stands(field: str, number: int) -> None:
    written = promotions("1", "2", "3")
    written[number - 1] = altered(written[number - 1], **{field: OTHER[field]})
    found = chain(written)
    assert faults(found) == [f"entry {number} was altered: its text is not what its hash says"]
    assert found.links[number - 1].sound is False


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("field", OTHER)
def test_an_altered_field_is_found_although_its_hash_was_made_to_fit(field: str, number: int) -> None:
    written = promotions("1", "2", "3")
    end = f"3:{written[2].hash}"
    written[number - 1] = altered(written[number - 1], hash_too=True, **{field: OTHER[field]})
    found = chain(written)
    assert found.faults or found.lacks(end)
    assert bool(found.faults) is (number < 3 or field == "prev")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_entry_made_void_by_a_false_prev_is_found(number: int) -> None:
    """So that it looks as if it had lost a race."""
    written = promotions("1", "2", "3", "4")
    end = f"4:{written[3].hash}"
    before = written[number - 2].hash if number > 1 else ""
    written[number] = altered(written[number], hash_too=True, prev=before)
    found = chain(written)
    assert found.links[number].won == number
    assert found.faults or found.lacks(end)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_missing_entry_is_found_by_the_next_one_or_by_the_end_written_elsewhere(number: int) -> None:
    written = promotions("1", "2", "3")
    end = f"3:{written[2].hash}"
    gone = written.pop(number - 1)
    found = chain(written)
    if number == 3:
        assert (faults(found), found.lacks(end)) == ([], True)
    else:
        assert faults(found) == [
            f"entry {number} is missing: it was removed from the ledger",
            f"entry {number + 1} follows one that is not there ({gone.hash[:12]}): an entry before it was altered or "
            "removed",
        ]


def test_a_removed_void_entry_is_found() -> None:
    first, following = promotions("1", "2")
    found = chain([first, Kept(3, following.text, following.hash)])
    assert faults(found) == ["entry 2 is missing: it was removed from the ledger"]
    assert found.aliases() == {"champion": "2"}


def test_entries_that_changed_places_are_found() -> None:
    one, two, three = promotions("1", "2", "3")
    found = chain([one, Kept(2, three.text, three.hash), Kept(3, two.text, two.hash)])
    assert faults(found) == [
        f"entry 2 follows one that is not there ({two.hash[:12]}): an entry before it was altered or removed"
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no text"),
        ("{", "cannot be read: Input data was truncated"),
        ("[]", "cannot be read: Expected `object`, got `array`"),
        ("{}", "cannot be read: Object missing required field `prev`"),
        ('{"schema": 0}', "cannot be read: Object missing required field `prev`"),
    ],
)
def test_an_entry_that_cannot_be_read_is_a_fault_and_the_next_may_follow_it(text: str, told: str) -> None:
    one, two, three = promotions("1", "2", "3")
    for broken in (Kept(2, text, two.hash), Kept(2, text, "")):
        found = chain([one, broken, three])
        assert faults(found)[0] == f"entry 2 {told}"
        assert found.links[1].entry is None
        assert numbers(found) == [1, 3]
    assert faults(chain([one, Kept(2, text, two.hash), three])) == [f"entry 2 {told}"]


def test_an_older_schema_that_never_was_cannot_be_read() -> None:
    text = entry_text(entry()).replace('"schema":1', '"schema":0')
    assert faults(chain([Kept(1, text, text_hash(text))])) == ["entry 1 cannot be read: schema 0 is not known"]


def test_an_altered_entry_moves_no_alias_until_a_sound_one_comes_after_it() -> None:
    written = ledger({"to": "1"}, {"to": "1", "alias": "challenger"}, {"to": "2"}, {"to": "3"})
    written[2] = altered(written[2], to="9")
    found = chain(written)
    assert found.aliases() == {"champion": "3"}, "the challenger's entry comes before the fault"
    assert chain(written[:3]).aliases() == {}


# -- newer ones --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"signed_by": "k"}])
def test_an_entry_of_a_newer_retort_is_refused_with_the_way_out(fields: dict[str, str]) -> None:
    one, two = promotions("1", "2")
    text = json.dumps({**json.loads(two.text), "schema": 2, **fields})
    with pytest.raises(BadRequest) as refused:
        chain([one, Kept(2, text, text_hash(text))])
    assert str(refused.value) == (
        "entry 2 of the ledger has schema 2, and this version reads 1: it was written by a newer Retort; upgrade"
    )


def test_an_entry_that_was_altered_to_seem_newer_is_a_fault() -> None:
    one, two = promotions("1", "2")
    text = two.text.replace('"schema":1', '"schema":2')
    assert faults(chain([one, Kept(2, text, two.hash)])) == ["entry 2 cannot be read: schema 2 is not known"]


# -- its end, as it is written elsewhere -------------------------------------------------------------------------------


def test_an_end_that_is_older_lags_and_one_that_is_not_there_was_cut_off() -> None:
    written = promotions("1", "2", "3")
    found = chain(written)
    ends = [f"{each.number}:{each.hash}" for each in written]
    assert [found.lacks(end) for end in ends] == [False, False, False]
    assert [found.outdates(end) for end in ends] == [True, True, False]
    for shorter in range(3):
        cut = chain(written[:shorter])
        assert (cut.lacks(ends[2]), cut.outdates(ends[2])) == (True, False)


@pytest.mark.parametrize("head", ["", "hello", "3", "3:abc", "0:" + "a" * 64])
def test_what_is_no_end_is_written_over(head: str) -> None:
    assert (chain([]).lacks(head), chain([]).outdates(head)) == (False, False)
    found = chain(promotions("1"))
    assert (found.lacks(head), found.outdates(head)) == (False, True)


def test_the_hash_of_a_void_entry_is_no_end() -> None:
    first, void = kept(1, entry(who="anna")), kept(2, entry(who="ben"))
    assert chain([first, void]).lacks(f"2:{void.hash}")


def test_an_end_whose_entry_was_altered_is_not_taken_back() -> None:
    written = promotions("1", "2")
    end = f"2:{written[1].hash}"
    found = chain([written[0], altered(written[1], why="none")])
    assert (found.head, found.lacks(end), found.outdates(end)) == (f"1:{written[0].hash}", False, False)
    resealed = chain([written[0], altered(written[1], hash_too=True, why="none")])
    assert (resealed.lacks(end), resealed.outdates(end)) == (True, False)


def test_a_move_after_a_cut_shows_for_ever_what_is_missing() -> None:
    written = promotions("1", "2", "3")
    end = f"3:{written[2].hash}"
    for left, number in ((written[:2], 4), (written[:0], 1)):
        prev = chain(left).next_prev(end)
        assert prev == written[2].hash
        following = [kept(number, entry(prev, to="7")), kept(number + 1, entry(prev, to="8"))]
        found = chain([*left, *following])
        told = f"entry {number} follows one that is not there ({prev[:12]}): an entry before it was altered or removed"
        assert faults(found)[-1] == told
        assert found.aliases() == {"champion": "7"}
        assert found.links[-1].won == number, "it was made on the same end as the one before"
        assert not found.lacks(end)
        assert found.next_prev(end) == following[0].hash


def test_an_end_covers_the_entries_up_to_it() -> None:
    found = chain(promotions("1", "2", "3"))
    assert [found.covers(found.links[1].head, number) for number in (1, 2, 3)] == [True, True, False]
    assert [found.covers(head, 1) for head in ("", "hello", "3:abc")] == [False, False, False]


def test_an_end_that_is_missing_may_cover_any_entry_and_one_that_was_followed_covers_none_after_it() -> None:
    written = promotions("1", "2", "3")
    end = f"3:{written[2].hash}"
    assert chain(written[:2]).covers(end, 2)
    following = kept(3, entry(written[2].hash, to="7"))  # a store that gives a number out again
    found = chain([*written[:2], following])
    assert [found.covers(end, number) for number in (1, 2, 3)] == [True, True, False]


def test_the_next_entry_follows_the_last_that_counts() -> None:
    written = promotions("1", "2")
    void = kept(3, entry(written[0].hash, who="late"))
    found = chain([*written, void])
    for head in ("", f"1:{written[0].hash}", found.head, "hello"):
        assert found.next_prev(head) == written[1].hash
    assert chain([]).next_prev("") == ""
