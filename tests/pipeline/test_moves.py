"""What may be asked of an alias, and who asks."""

import os
import pwd
from dataclasses import replace

import pytest

from pipeline.errors import BadRequest
from pipeline.moves import MAX_ALIAS, MAX_WHY, Move, checked, require_alias, signed, this_user

ASKED = Move("champion", "4", "it is better", "anna")


def refusal(move: Move) -> str:
    with pytest.raises(BadRequest) as refused:
        checked(move)
    return str(refused.value)


@pytest.mark.parametrize("alias", ["champion", "challenger", "Staging-2", "a_b", "versions", "v", "v1b", "latest2"])
def test_an_alias_that_mlflow_takes_is_taken(alias: str) -> None:
    assert require_alias(alias) == alias


@pytest.mark.parametrize("alias", ["v1", "V12", "latest", "LATEST"])
def test_an_alias_that_mlflow_keeps_is_refused(alias: str) -> None:
    told = f"alias '{alias}': MLflow keeps it for itself; choose another name, like champion"
    assert refusal(replace(ASKED, alias=alias)) == told


@pytest.mark.parametrize("alias", ["", "1", "a b", "a/b", "a:b", "é", "a\n"])
def test_an_alias_that_no_uri_could_hold_is_refused(alias: str) -> None:
    told = f"alias {alias!a}: write a letter, then letters, digits, _ or -, like champion"
    assert refusal(replace(ASKED, alias=alias)) == told


def test_an_alias_that_is_longer_than_mlflow_takes_is_refused() -> None:
    from mlflow.utils.validation import MAX_REGISTERED_MODEL_ALIAS_LENGTH, _validate_model_alias_name

    assert MAX_ALIAS == MAX_REGISTERED_MODEL_ALIAS_LENGTH
    _validate_model_alias_name(require_alias("a" * MAX_ALIAS))
    told = "alias aaaaaaaaaaaaaaaaaaaa... has 256 characters, and MLflow takes 255; shorten it"
    assert refusal(replace(ASKED, alias="a" * (MAX_ALIAS + 1))) == told


@pytest.mark.parametrize("blank", ["", " ", "\n\t "])
def test_reason_and_author_are_not_blank(blank: str) -> None:
    assert refusal(replace(ASKED, why=blank)) == "--why is blank: say why this is moved; the ledger keeps it"
    assert refusal(replace(ASKED, who=blank)) == "--who is blank: say who moves this; the ledger keeps it"


def test_reason_and_author_are_kept_on_one_line_each() -> None:
    found = checked(replace(ASKED, why=" faster,\n  and as good ", who=" Zoë\tB. "))
    assert (found.why, found.who) == ("faster, and as good", "Zoë B.")


def test_a_reason_that_is_too_long_is_refused() -> None:
    assert checked(replace(ASKED, why="x" * MAX_WHY)).why == "x" * MAX_WHY
    told = f"--why has {MAX_WHY + 1} characters, and the ledger keeps {MAX_WHY}; be brief, and link to more"
    assert refusal(replace(ASKED, why="x" * (MAX_WHY + 1))) == told


@pytest.mark.parametrize("text", ["red \x1b[31m", "a\x00b", "half \udcff"])
def test_what_cannot_be_printed_is_not_kept(text: str) -> None:
    told = "--why and --who must be plain text: one of them holds what cannot be printed"
    assert refusal(replace(ASKED, why=text)) == refusal(replace(ASKED, who=text)) == told


def test_who_runs_this_is_the_machine_s_user(monkeypatch: pytest.MonkeyPatch) -> None:
    assert this_user() == pwd.getpwuid(os.getuid()).pw_name

    def nameless(_: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", nameless)
    assert this_user() == f"uid {os.getuid()}"


def test_a_run_signs_with_who_runs_it_and_its_step() -> None:
    assert signed(" Zoë  B. ", step="register-1") == "Zoë B. (retort run, step register-1)"
    assert signed("", step="register-1") == "retort run, step register-1"


def test_a_name_that_cannot_be_printed_ends_no_run() -> None:
    who = signed("a\x00b", step="register-1")
    assert checked(replace(ASKED, who=who)).who == "a?b (retort run, step register-1)"
