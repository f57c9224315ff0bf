"""What people and machines are shown of a registry."""

import io
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from ledgers import altered, entry, kept, ledger, promotions
from rich.console import Console

from pipeline.alias_history import named_at
from pipeline.ledger import Chain, Kept, chain
from pipeline.model_state import State
from pipeline.model_verification import Findings
from pipeline.moves import Moved
from pipeline.registry_tables import (
    doubts_lines,
    findings_lines,
    history_table,
    history_told,
    model_told,
    models_table,
    moved_lines,
    moved_told,
    plain,
    settled_lines,
    settled_told,
    spans_table,
    spans_told,
    versions_table,
    when,
)
from pipeline.settling import Settled
from pipeline.tracking.versions import Version

AT = datetime(2026, 11, 17, 12, 30, 15, 999_000, tzinfo=UTC)
VERSION = Version("m", 3, {"retort.digest": "d" * 64, "retort.verdict": "PASS"}, ("champion",), AT, "r1", "models:/m-1")


def shown(table: Any, width: int = 200) -> list[list[str]]:
    """The cells of each row, headings first."""
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    lines = [line for line in out.getvalue().splitlines() if line.strip(" ─")]
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


def test_a_history_has_a_row_an_entry_whatever_became_of_it() -> None:
    one, two = promotions("1", "2")
    broken = [one, altered(two, why="x"), Kept(3, "{", ""), kept(4, entry(who="late"))]
    assert shown(history_table(chain(broken))) == [
        ["entry", "when (UTC)", "who", "move", "alias", "from", "to", "why", "counts"],
        ["1", "2026-11-17 12:00:00", "anna", "promote", "@champion", "-", "1", "it is better", "yes"],
        ["2", "2026-11-17 12:00:00", "anna", "promote", "@champion", "1", "2", "x", "altered"],
        ["3", "-", "-", "-", "-", "-", "-", "-", "unreadable"],
        ["4", "2026-11-17 12:00:00", "late", "promote", "@champion", "-", "1", "it is better", "void: 1 was first"],
    ]


def test_what_others_wrote_steers_no_terminal_and_is_no_markup() -> None:
    found = chain(ledger({"why": "[red]stop[/red] \x1b[31m", "who": "a\nb"}))
    row = shown(history_table(found))[1]
    assert (row[2], row[7]) == ("a?b", "[red]stop[/red] ?[31m")
    assert plain("Zoë ✓\x07") == "Zoë ✓?"


def test_a_history_for_machines_says_of_each_entry_whether_it_counts() -> None:
    one, two = promotions("1", "2")
    found = chain([one, altered(two, why="x"), kept(3, entry(who="late"))])
    told = msgspec.to_builtins(history_told(State("m", found.head, found, {}, {"champion": "1"})))
    assert (told["model"], told["head"]) == ("m", f"1:{one.hash}")
    assert told["faults"] == ["entry 2 was altered: its text is not what its hash says"]
    assert [(each["number"], each["sound"], each["lost_to"]) for each in told["entries"]] == [
        *((1, True, None), (2, False, None)),
        (3, True, 1),
    ]
    assert told["entries"][0] == {
        "number": 1,
        "hash": one.hash,
        "sound": True,
        "lost_to": None,
        "entry": msgspec.json.decode(one.text),
    }


def test_spans_are_shown_with_both_their_ends() -> None:
    found = chain(ledger({"to": "2", "was": "1"}, {"to": "3", "at": "2026-11-18T01:00:00+02:00", "who": "ben"}))
    assert shown(spans_table(named_at(found, "2026-11-17"))) == [
        ["alias", "version", "from (UTC)", "to (UTC)", "entry", "who"],
        ["@champion", "1", "before the ledger", "2026-11-17 12:00:00", "-", "-"],
        ["@champion", "2", "2026-11-17 12:00:00", "2026-11-17 23:00:00", "1", "anna"],
        ["@champion", "3", "2026-11-17 23:00:00", "now", "2", "ben"],
    ]


def test_a_span_whose_end_nobody_knows_says_why() -> None:
    found = chain(ledger({"to": "1"}, {"to": "2", "was": "9", "at": "2026-11-17T13:00:00+00:00", "who": "ben"}))
    rows = shown(spans_table(named_at(found, "2026-11-17", {})))[1:]
    assert rows == [
        ["@champion", "1", "2026-11-17 12:00:00", "past the ledger", "1", "anna"],
        ["@champion", "9", "past the ledger", "2026-11-17 13:00:00", "-", "-"],
        ["@champion", "2", "2026-11-17 13:00:00", "past the ledger", "2", "ben"],
        ["@champion", "nothing", "past the ledger", "now", "-", "-"],
    ]


def test_what_ran_then_is_told_with_what_is_wrong_with_the_ledger_and_the_aliases() -> None:
    found = chain([promotions("1")[0], Kept(2, "", "")])
    lost = "9:" + "a" * 64
    state = State("m", lost, found, {"1": replace(VERSION, number=1)}, {"champion": "3"})
    told = spans_told(state, "2026-11-17", [])
    faults = [
        "entry 2 has no text",
        "the ledger was cut off: model m says it reached to entry 9 (aaaaaaaaaaaa), which is not there",
    ]
    assert told == {"model": "m", "at": "2026-11-17", "named": [], "faults": faults, "foreign": {}}
    assert doubts_lines(state) == [f"fault:      {fault}" for fault in faults]
    whole = chain(promotions("1"))
    astray = replace(state, chain=whole, head=whole.head)
    assert history_told(astray)["foreign"] == {"champion": "3"}
    assert doubts_lines(astray)[0].startswith("fault:      @champion names version 3, and by entry 1 it is 1: ")


def test_models_are_shown_with_what_their_aliases_name_and_the_newest_version() -> None:
    other = replace(VERSION, number=12, aliases=("challenger", "staging"))
    assert shown(models_table({"m": [VERSION, other], "none": []})) == [
        ["model", "versions", "aliases", "newest", "registered (UTC)"],
        ["m", "2", "@challenger 12, @champion 3, @staging 12", "12", "2026-11-17 12:30:15"],
        ["none", "0", "-", "-", "-"],
    ]
    aliases = {"champion": "3", "challenger": "12", "staging": "12"}
    assert model_told("m", [VERSION, other]) == {
        "name": "m",
        "versions": 2,
        "aliases": aliases,
        "newest": "12",
        "registered_at": AT,
    }
    assert model_told("none", []) == {
        "name": "none",
        "versions": 0,
        "aliases": {},
        "newest": None,
        "registered_at": None,
    }


def test_versions_are_shown_with_what_the_gate_said() -> None:
    foreign = replace(VERSION, number=4, tags={}, aliases=())
    assert shown(versions_table([VERSION, foreign])) == [
        ["version", "aliases", "registered (UTC)", "variant", "verdict", "digest"],
        ["3", "@champion", "2026-11-17 12:30:15", "-", "PASS", "d" * 12],
        ["4", "-", "2026-11-17 12:30:15", "-", "-", "-"],
    ]


def test_a_move_is_told_without_a_password() -> None:
    moved = Moved("m", "champion", "3", "4", 7, "7:abc")
    assert moved_lines(moved, "postgresql://me:secret@host/db") == [
        "moved:      @champion of m names version 4 now (before: 3)",
        "ledger:     entry 7; `retort history m` shows all",
        "serve:      retort serve models:/m@champion --tracking-uri postgresql://host/db",
    ]
    assert moved_told(moved) == {
        "model": "m",
        "alias": "champion",
        "was": "3",
        "to": "4",
        "entry": 7,
        "head": "7:abc",
        "model_uri": "models:/m/4",
    }


def test_what_was_finished_is_told_and_that_there_was_nothing() -> None:
    state = State("m", "", Chain(), {}, {"champion": "4"})
    after = Settled(state, ("this", "that"), frozenset(), {})
    assert settled_lines(after) == ["repaired:   this", "repaired:   that"]
    assert settled_lines(replace(after, repaired=())) == ["resumed:    nothing was left unfinished"]
    whole = chain(promotions("4"))
    cut = replace(state, chain=whole, head="9:" + "a" * 64, versions={"4": VERSION})
    assert settled_lines(Settled(cut, (), frozenset(), {})) == [
        "resumed:    nothing was left unfinished",
        "fault:      the ledger was cut off: model m says it reached to entry 9 (aaaaaaaaaaaa), which is not there",
    ]
    assert settled_told(after) == {
        "model": "m",
        "repaired": ("this", "that"),
        "aliases": {"champion": "4"},
        "head": "",
        "faults": (),
        "foreign": {},
    }


def test_what_could_not_be_finished_is_told_to_people_and_to_machines() -> None:
    moves = chain(promotions("4"))
    tags = {"retort.digest": "d" * 64, "retort.files": "f" * 64}
    lags = State("m", "", moves, {"4": replace(VERSION, number=4, tags=tags)}, {"champion": "3"})
    after = Settled(lags, (), frozenset(), {"other": "7"}, {"@champion": "it is forbidden"})
    unfinished = "that move is unfinished; `retort promote m --resume` finishes it"
    faults = [
        f"@champion names version 3, and by entry 1 it is 4: {unfinished}",
        "@champion could not be written: it is forbidden",
    ]
    assert settled_lines(after) == [f"fault:      {fault}" for fault in faults]
    told = settled_told(after)
    assert (list(told["faults"]), told["foreign"]) == (faults, {"other": "7"})


@pytest.mark.parametrize(("void", "told"), [(0, ""), (2, " (2 void)")])
def test_findings_are_told_line_by_line(void: int, told: str) -> None:
    found = Findings("m", ("bad",), ("mended",), entries=9, void=void, head="7:abc", versions=("3", "4"))
    assert findings_lines(found) == [
        f"model:      m; entries of its ledger: 9{told}; versions read: 3, 4",
        "repaired:   mended",
        "fault:      bad",
    ]
    assert findings_lines(replace(found, versions=()))[0].endswith("; versions read: none")


def test_a_time_is_shown_to_the_second_in_utc() -> None:
    assert when(datetime.fromisoformat("2026-11-17T14:30:15.999+02:00")) == "2026-11-17 12:30:15"
