"""What becomes of a version that passed its own rules."""

from typing import Any

import pytest

from pipeline.challenge import CHALLENGER, Decision, Standing, Wanted, decide, require_unmoved
from pipeline.champion import NOBODY, Named
from pipeline.errors import Transient
from pipeline.gates import Outcome, Verdict

MINE, OTHER = "a" * 64, "b" * 64
REIGNS = Named("3", OTHER)
OWN = "int8 passes every rule: accuracy 0.9 is >= 0.5"


def verdict(promotion: Outcome | None = None, why: str = "") -> Verdict:
    return Verdict("PASS", OWN, "int8", (), promotion, why)


def decided(said: Verdict, **standing: Any) -> Decision:
    return decide(said, Standing(**standing), digest=MINE, alias="champion")


def test_where_nothing_is_in_service_it_becomes_the_champion_at_once() -> None:
    first = f"there was no champion yet; {OWN}"
    assert decided(verdict()) == Decision(
        True, "there was no champion yet", (Wanted(CHALLENGER, OWN), Wanted("champion", first))
    )
    passed = decided(verdict("PASS", "p95_ms: there is no champion yet to be compared with"))
    assert (passed.promoted, passed.why) == (True, "there was no champion yet")


def test_one_that_passes_against_the_champion_takes_its_place_for_the_gates_reason() -> None:
    assert decided(verdict("PASS", "p95_ms 2 is <= 3"), champion=REIGNS) == Decision(
        True,
        "it passes every rule against the champion, version 3: p95_ms 2 is <= 3",
        (Wanted(CHALLENGER, OWN), Wanted("champion", OWN)),
    )


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            verdict("FAIL", "p95_ms 4 is not <= 3"),
            "it does not pass against the champion, version 3: p95_ms 4 is not <= 3",
        ),
        (
            verdict("INCONCLUSIVE", "p95_ms cannot be trusted"),
            "whether it passes against the champion is not known, version 3: p95_ms cannot be trusted",
        ),
        (verdict(), "no rule of the gate compares with the champion, which is version 3"),
    ],
    ids=["fails", "open", "not asked"],
)
def test_every_other_one_stays_challenger_and_it_is_said_why(said: Verdict, why: str) -> None:
    assert decided(said, champion=REIGNS) == Decision(False, why, (Wanted(CHALLENGER, OWN),))


def test_the_champion_s_own_bytes_are_not_registered_twice() -> None:
    for said in (verdict(), verdict("PASS", "int8 is the champion itself, byte for byte")):
        assert decided(said, champion=Named("3", MINE)) == Decision(
            False, "these very bytes are version 3 already, which is the champion", already="3"
        )


# -- a try that goes on where an earlier one was killed ----------------------------------------------------------------


def test_nothing_is_left_to_do_where_the_ledger_has_both_moves() -> None:
    given = {CHALLENGER: OWN, "champion": "as said then"}
    done = decided(verdict(), champion=Named("4", MINE), mine="4", given=given)
    assert done == Decision(True, "as said then")


def test_a_try_that_was_killed_between_the_two_moves_makes_the_second_one() -> None:
    after = decided(verdict("PASS", "p95_ms 2 is <= 3"), champion=REIGNS, mine="4", given={CHALLENGER: OWN})
    assert [each.alias for each in after.wanted] == ["champion"]


def test_a_version_without_any_move_is_given_all_of_them() -> None:
    after = decided(verdict(), mine="4")
    assert ([each.alias for each in after.wanted], after.already) == ([CHALLENGER, "champion"], None)


def test_what_people_did_since_is_not_taken_back() -> None:
    """It was champion, and somebody rolled back to 3."""
    given = {CHALLENGER: OWN, "champion": "as said then"}
    after = decided(verdict("PASS", "p95_ms 2 is <= 3"), champion=REIGNS, mine="4", given=given)
    assert after == Decision(True, "as said then")


# -- the champion moves meanwhile --------------------------------------------------------------------------------------


def unmoved(measured: str | None, **standing: Any) -> None:
    require_unmoved(measured, Standing(**standing), source="models:/m@champion", alias="champion")


def test_the_champion_that_was_measured_or_that_nobody_asks_for_may_be_followed() -> None:
    unmoved(NOBODY)
    unmoved(OTHER, champion=REIGNS)
    unmoved(None, champion=REIGNS)


def test_what_this_very_step_made_champion_is_no_other_champion() -> None:
    unmoved(OTHER, champion=Named("4", MINE), mine="4", given={"champion": OWN})
    unmoved(NOBODY, champion=Named("4", MINE), mine="4", given={"champion": OWN})


@pytest.mark.parametrize(("measured", "told"), [(NOBODY, "none"), (MINE, "a" * 12)])
def test_a_champion_that_another_one_followed_since_is_not_taken_for_the_one_measured(measured: str, told: str) -> None:
    with pytest.raises(Transient) as moved:
        unmoved(measured, champion=REIGNS, mine="4", given={CHALLENGER: OWN})
    assert str(moved.value) == (
        "models:/m@champion has become another champion since its challengers were measured beside it (digest "
        f"{told}, now bbbbbbbbbbbb): run again, they are measured beside the new one"
    )
