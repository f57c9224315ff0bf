"""What is told of training data before it is learned from."""

import io
import re
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pipeline.data.survey import likely_typos, survey, table_of

TRAIN = [("One two.",), ("one  TWO.",), ("one two.",), ("Three.",)]
DEV = [("ONE two.",), ("One two.",), ("Four.",)]


def facts_of(**changes: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        "lengths": {"train": np.array([3, 8, 9, 16]), "dev": np.array([15, 16, 16])},
        "counts": {"train": {"good": 3, "bad": 1}, "dev": {"good": 1, "bad": 2}},
        "unknown": {"train": [], "dev": [1]},
        "cut": {"train": 1, "dev": 2},
    }
    return survey({"train": TRAIN, "dev": DEV}, **told | changes)


def shown(facts: dict[str, Any]) -> dict[str, list[str]]:
    """The printed table's rows by their titles."""
    out = io.StringIO()
    Console(file=out, width=150, color_system=None).print(table_of(facts))
    rows = [re.split(r"\s{2,}", line.strip()) for line in out.getvalue().splitlines() if line.strip(" ─\n")]
    return {title: cells for title, *cells in rows}


def test_a_survey_tells_balance_repeats_lengths_and_what_is_cut_or_unknown() -> None:
    assert facts_of() == {
        "splits": {
            "train": {
                "texts": 4,
                "labels": {"good": 3, "bad": 1},
                "repeated": 2,
                "lengths": {"1-8": 2, "9-16": 2},
                "cut_share": 0.25,
                "unknown_only": 0,
            },
            "dev": {
                "texts": 3,
                "labels": {"good": 1, "bad": 2},
                "repeated": 1,
                "lengths": {"9-16": 3},
                "cut_share": pytest.approx(2 / 3),
                "unknown_only": 1,
            },
        },
        "in_both": 2,
        "alike": [],
    }


def test_every_length_up_to_the_longest_that_fine_tuning_reads_is_counted() -> None:
    lengths = np.array([1, 8, 9, 64, 65, 257, 512])
    found = facts_of(lengths={"train": lengths, "dev": lengths})
    assert found["splits"]["dev"]["lengths"] == {"1-8": 2, "9-16": 1, "33-64": 1, "65-128": 1, "257-512": 2}


def test_a_task_without_labels_has_no_balance() -> None:
    found = facts_of(counts={"train": {}, "dev": {}})
    assert [each["labels"] for each in found["splits"].values()] == [{}, {}]
    assert shown(found)["labels"] == ["-", "-"]


def test_pairs_are_repeated_only_where_both_texts_are() -> None:
    pairs = [("a", "b"), ("A", "b"), ("a", "c"), ("b", "a")]
    told = {"lengths": dict.fromkeys(("train", "dev"), np.ones(4)), "counts": {}}
    none: dict[str, Any] = {"unknown": {"train": [], "dev": []}, "cut": {"train": 0, "dev": 0}}
    found = survey({"train": pairs, "dev": pairs[2:3]}, **none, **told)
    assert found["splits"]["train"]["repeated"] == 1
    assert found["in_both"] == 1


# -- labels that may be misspelt ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "alike"),
    [
        ({"Positive": 40, "positive": 50, "negative": 80}, [["Positive", "positive"]]),
        ({"card lost": 60, "card_lost": 50}, []),
        ({"card-lost": 60, "card_lost": 50}, [["card_lost", "card-lost"]]),
        ({"card  lost": 6, "card lost": 5}, [["card lost", "card  lost"]]),
        ({"cardlost": 60, "card lost": 50}, [["card lost", "cardlost"]]),
        ({"postive": 2, "positive": 50}, [["postive", "positive"]]),
        ({"positive": 50, "postive": 5}, [["postive", "positive"]]),
        ({"postive": 6, "positive": 50}, []),
        ({"card_lost": 40, "card_list": 50}, []),
        ({"cats": 1, "cat": 90}, []),
        ({"cat1": 1, "cat2": 90}, []),
        ({"positive": 50, "negative": 1}, []),
    ],
)
def test_labels_alike_but_for_case_or_rare_and_near_a_usual_one_may_be_misspelt(
    counts: dict[str, int], alike: list[list[str]]
) -> None:
    assert likely_typos(counts) == alike


def test_typos_are_looked_for_in_all_splits_together() -> None:
    found = facts_of(counts={"train": {"positive": 50}, "dev": {"positive": 5, "postive": 2}})
    assert found["alike"] == [["postive", "positive"]]


# -- the table ---------------------------------------------------------------------------------------------------------


def test_a_survey_is_shown_as_a_table() -> None:
    found = facts_of(counts={"train": {"good": 1200, "bad": 1}, "dev": {"bad": 2, "good": 3}})
    assert shown(found) == {
        "the data": [],
        "train": ["dev"],
        "texts": ["4", "3"],
        "labels": ["2: 1 (bad) to 1,200 (good)", "2: 2 (bad) to 3 (good)"],
        "repeated": ["2", "1"],
        "tokens": ["1-8: 2, 9-16: 2", "9-16: 3"],
        "cut at the limit": ["25.0%", "66.7%"],
        "unknown tokens only": ["0", "1"],
        "also in train": ["-", "2"],
    }


def test_labels_that_may_be_misspelt_are_named_below_the_table_the_first_three() -> None:
    names = ("anger", "doubt", "joy", "trust")
    counts = dict.fromkeys(names, 50) | {name.title(): 2 for name in names}
    told = table_of(facts_of(counts={"train": counts, "dev": {}})).caption
    assert str(told) == ("labels that may be misspelt: 'Anger' and 'anger'; 'Doubt' and 'doubt'; 'Joy' and 'joy'")


def test_a_label_that_looks_like_markup_is_shown_as_it_is() -> None:
    found = facts_of(counts={"train": {"[/b]": 1, ":bug:": 3}, "dev": {"[/B]": 1}})
    assert shown(found)["labels"] == ["2: 1 ([/b]) to 3 (:bug:)", "1: 1 ([/B]) to 1 ([/B])"]
    assert str(table_of(found).caption) == "labels that may be misspelt: '[/B]' and '[/b]'"
