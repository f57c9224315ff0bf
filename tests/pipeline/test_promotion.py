"""Against a real MLflow sqlite store. Its migration takes seconds: one store is shared, each test has its own model."""

import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from ledgers import make_versions, moved, named
from turns import take_turns

from pipeline import promotion
from pipeline.errors import BadArtifact, BadRequest, Failure, Transient
from pipeline.kept_ledger import read_chain, read_state
from pipeline.ledger import entry_text, text_hash
from pipeline.model_state import HEAD_TAG
from pipeline.moves import Move, Moved, Overtaken
from pipeline.promotion import move, rollback
from pipeline.settling import settle, settled
from pipeline.tracking import versions
from serving.registry import DIGEST_TAG


@pytest.fixture
def model(client: Any, request: pytest.FixtureRequest) -> str:
    """A model with three versions, and no alias."""
    name = f"m{abs(hash(request.node.name))}"
    make_versions(client, name, 3)
    return name


def told(kind: type[Failure], call: Any) -> str:
    with pytest.raises(kind) as refused:
        call()
    return str(refused.value)


def back(client: Any, name: str, to: str | None = None, alias: str = "champion") -> Moved:
    return rollback(client, name, to=to, alias=alias, why="it failed", who="ben")


def heads(client: Any, name: str) -> dict[str, str | None]:
    """The ledger's end as the model and its versions say."""
    versions = {str(each.version): each.tags.get(HEAD_TAG) for each in client.search_model_versions(f"name='{name}'")}
    return {"model": client.get_registered_model(name).tags.get(HEAD_TAG), **versions}


def at_rest(client: Any, name: str) -> bool:
    """No fault, aliases as the ledger says, its end written on the model and on what the aliases name."""
    state = read_state(client, name)
    written = heads(client, name)
    ends = {written["model"], *(written[version] for version in state.chain.aliases().values())}
    return not state.chain.faults and named(client, name) == state.chain.aliases() and ends == {state.chain.head}


class Killed(BaseException):
    """As a process that is killed: nothing catches it."""


def killed_at(monkeypatch: pytest.MonkeyPatch, called: str) -> Any:
    """Within it, this request of every client kills."""

    def kill(*_: Any, **__: Any) -> None:
        raise Killed

    context = pytest.MonkeyPatch()
    context.setattr(f"mlflow.MlflowClient.{called}", kill)
    return context


# -- a move ------------------------------------------------------------------------------------------------------------


def test_a_promotion_is_an_entry_an_alias_and_the_ledger_s_end_beside_the_model(client: Any, model: str) -> None:
    found = moved(client, model, "2", why="faster,\nas accurate", who="anna")

    chain = read_chain(client, model)
    ((number, entry),) = chain.valid()
    assert found == Moved(model, "champion", None, "2", 1, chain.head)
    assert (number, entry.who, entry.action, entry.alias, entry.was, entry.to) == (
        *(1, "anna", "promote", "champion"),
        *(None, "2"),
    )
    assert (entry.why, entry.digest, entry.files, entry.receipts) == ("faster, as accurate", f"{2:064d}", "", {})
    assert named(client, model) == {"champion": "2"}
    assert heads(client, model) == {"model": chain.head, "1": None, "2": chain.head, "3": None}


def test_every_move_is_chained_to_the_one_before(client: Any, model: str) -> None:
    moved(client, model, "1")
    moved(client, model, "2", "challenger")
    found = moved(client, model, "3")
    assert (found.was, found.to, found.entry_number) == ("1", "3", 3)
    assert named(client, model) == {"champion": "3", "challenger": "2"}
    assert at_rest(client, model)
    assert heads(client, model)["1"] != found.head, "it is no alias's version any more"


def test_an_alias_of_any_other_name_may_be_moved(client: Any, model: str) -> None:
    moved(client, model, "1", "Staging-2")
    assert named(client, model) == {"Staging-2": "1"}


def test_what_an_alias_named_before_there_was_a_ledger_is_where_it_came_from(client: Any, model: str) -> None:
    client.set_registered_model_alias(model, "champion", "1")
    assert settle(client, model) == []
    assert moved(client, model, "2").was == "1"
    assert back(client, model).to == "1"


def test_an_alias_from_before_the_ledger_may_be_put_on_record_as_it_is(client: Any, model: str) -> None:
    client.set_registered_model_alias(model, "champion", "1")
    found = moved(client, model, "1")
    assert (found.was, found.to) == ("1", "1")
    assert at_rest(client, model)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_model_that_is_not_there_is_answered_with_those_that_are(client: Any, model: str) -> None:
    answer = told(BadRequest, lambda: moved(client, "nobody", "1"))
    uri = client.tracking_uri
    assert answer.startswith(f"the registry {uri} has no model nobody; it has: ")
    assert ".ledger" not in answer


def test_a_ledger_is_no_model_to_be_moved(client: Any, model: str) -> None:
    moved(client, model, "1")
    ledger = f"{model}.ledger"
    assert told(BadRequest, lambda: moved(client, ledger, "1")) == f"{ledger} is the ledger of {model}; name that model"


@pytest.mark.parametrize("version", ["4", "0", "x", "", "1 OR 1"])
def test_a_version_that_is_not_there_is_answered_with_those_that_are(client: Any, model: str, version: str) -> None:
    answer = told(BadRequest, lambda: moved(client, model, version))
    assert answer == f"model {model} has no version {version}; it has: 1, 2, 3"
    assert read_chain(client, model).links == ()


def test_what_the_alias_names_already_is_refused_with_the_entry_that_says_so(client: Any, model: str) -> None:
    moved(client, model, "1", why="the first")
    at = read_chain(client, model).valid()[0][1].at
    assert told(BadRequest, lambda: moved(client, model, "1")) == (
        f"version 1 of {model} is @champion already: entry 1, {at}, anna: the first"
    )
    assert len(read_chain(client, model).links) == 1


@pytest.mark.parametrize("alias", ["v1", "latest"])
def test_an_alias_that_mlflow_keeps_is_refused_before_anything_is_written(client: Any, model: str, alias: str) -> None:
    answer = told(BadRequest, lambda: moved(client, model, "1", alias))
    assert answer == f"alias '{alias}': MLflow keeps it for itself; choose another name, like champion"
    assert read_chain(client, model).links == ()


def test_a_version_that_retort_did_not_register_is_refused(client: Any, model: str) -> None:
    client.delete_model_version_tag(model, "1", DIGEST_TAG)
    assert told(BadArtifact, lambda: moved(client, model, "1")) == (
        f"model {model} version 1 has no tag retort.digest: Retort did not register it, so nothing says what its files "
        "must be; register it with `retort run`"
    )


def test_a_ledger_of_a_newer_retort_is_left_alone(client: Any, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.kept_ledger.entry_text", lambda _: '{"schema":2}')
    monkeypatch.setattr("pipeline.kept_ledger.entry_hash", lambda _: text_hash('{"schema":2}'))
    with pytest.raises(BadRequest):
        moved(client, model, "1")
    monkeypatch.undo()
    for call in (lambda: moved(client, model, "1"), lambda: back(client, model), lambda: settle(client, model)):
        assert told(BadRequest, call) == (
            "entry 1 of the ledger has schema 2, and this version reads 1: it was written by a newer Retort; upgrade"
        )
    assert named(client, model) == {}


def test_an_entry_that_the_registry_did_not_keep_as_it_was_written_moves_nothing(
    client: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a database that cuts long texts short."""
    monkeypatch.setattr("pipeline.kept_ledger.entry_text", lambda entry: entry_text(entry)[:100])
    assert told(BadArtifact, lambda: moved(client, model, "1")) == (
        f"the registry did not keep entry 1 of the ledger of {model} as it was written, so nothing was moved; `retort "
        f"verify {model}` says what is wrong with it"
    )
    assert named(client, model) == {}
    assert len(read_chain(client, model).links) == 1


# -- taken back --------------------------------------------------------------------------------------------------------


def test_a_rollback_goes_to_what_the_alias_named_before_and_another_one_further(client: Any, model: str) -> None:
    for version in ("1", "2", "3"):
        moved(client, model, version)
    assert [(found.was, found.to) for found in (back(client, model), back(client, model))] == [("3", "2"), ("2", "1")]
    assert told(BadRequest, lambda: back(client, model)) == (
        f"the ledger of {model} knows of no version that @champion named before, so there is none to go back to; "
        "`retort promote` names another"
    )
    assert at_rest(client, model)
    assert [entry.action for _, entry in read_chain(client, model).valid()] == ["promote"] * 3 + ["rollback"] * 2


def test_a_rollback_may_say_where_to_if_the_alias_was_there(client: Any, model: str) -> None:
    moved(client, model, "1")
    moved(client, model, "2")
    assert told(BadRequest, lambda: back(client, model, "3")) == (
        f"@champion of {model} never named version 3, so there is no way back to it; it named: 1, 2; `retort promote` "
        "names one for the first time"
    )
    assert told(BadRequest, lambda: back(client, model, "9")) == f"model {model} has no version 9; it has: 1, 2, 3"
    assert back(client, model, "1").to == "1"
    assert told(BadRequest, lambda: back(client, model, "1")).startswith(f"version 1 of {model} is @champion already")


def test_where_nothing_was_moved_nothing_is_taken_back(client: Any, model: str) -> None:
    assert told(BadRequest, lambda: back(client, model, alias="challenger")) == (
        f"the ledger of {model} knows of no version that @challenger named before, so there is none to go back to; "
        "`retort promote` names another"
    )


def test_a_version_that_was_deleted_since_is_no_way_back(client: Any, model: str) -> None:
    for version in ("1", "2", "3"):
        moved(client, model, version)
    client.delete_model_version(model, "2")
    assert told(BadRequest, lambda: back(client, model)) == (
        f"version 2, which @champion of {model} named before, was deleted from the registry; say with --to which of "
        "these it is to be: 1, 3"
    )
    assert back(client, model, "1").to == "1"


def test_where_the_ledger_has_faults_the_way_back_must_be_said(client: Any, model: str) -> None:
    for version in ("1", "2", "3"):
        moved(client, model, version)
    client.set_model_version_tag(f"{model}.ledger", "2", "retort.entry", "{}")
    assert told(BadRequest, lambda: back(client, model)) == (
        f"the ledger of {model} has faults (`retort verify {model}` lists them), so what @champion named before is not "
        "sure; say it with --to"
    )
    assert back(client, model, "1").to == "1"


# -- interrupted -------------------------------------------------------------------------------------------------------

REQUESTS = ["create_model_version", "set_registered_model_alias", "set_model_version_tag", "set_registered_model_tag"]


@pytest.mark.parametrize("called", REQUESTS)
@pytest.mark.parametrize("how", ["the same again", "settle", "another move"])
def test_a_move_killed_at_any_request_is_finished_by_whoever_comes_next(
    client: Any, model: str, monkeypatch: pytest.MonkeyPatch, called: str, how: str
) -> None:
    moved(client, model, "1")
    killing = killed_at(monkeypatch, called)
    with pytest.raises(Killed):
        moved(client, model, "2")
    killing.undo()
    written = called != "create_model_version"
    if how == "settle":
        repaired = settle(client, model)
        alias = "@champion named 1, and names 2 as the ledger says"
        assert repaired == {
            "create_model_version": [],
            "set_registered_model_alias": [alias, "the model says now that its ledger ends with entry 2"],
        }.get(called, ["the model says now that its ledger ends with entry 2"])
        assert settle(client, model) == []
        assert named(client, model) == {"champion": "2" if written else "1"}
    elif how == "another move":
        assert moved(client, model, "3").was == ("2" if written else "1")
    else:
        found = moved(client, model, "2")
        assert (found.was, found.to, found.entry_number) == ("1", "2", 2)
        assert "is @champion already: entry 2" in told(BadRequest, lambda: moved(client, model, "2"))
    assert at_rest(client, model)


@pytest.mark.parametrize("called", REQUESTS)
@pytest.mark.parametrize("to", [None, "2"])
def test_a_rollback_killed_at_any_request_and_made_again_goes_back_once(
    client: Any, model: str, monkeypatch: pytest.MonkeyPatch, called: str, to: str | None
) -> None:
    for version in ("1", "2", "3"):
        moved(client, model, version)
    killing = killed_at(monkeypatch, called)
    with pytest.raises(Killed):
        back(client, model, to)
    killing.undo()
    found = back(client, model, to)
    assert (found.was, found.to, found.entry_number) == ("3", "2", 4)
    assert named(client, model) == {"champion": "2"}
    assert len(read_chain(client, model).links) == 4
    assert at_rest(client, model)
    assert back(client, model).to == "1", "a second one goes further"


def test_a_killed_first_promotion_leaves_an_alias_that_lags_though_it_names_nothing(
    client: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    killing = killed_at(monkeypatch, "set_registered_model_alias")
    with pytest.raises(Killed):
        moved(client, model, "1")
    killing.undo()
    assert settle(client, model)[0] == "@champion named nothing, and names 1 as the ledger says"
    assert named(client, model) == {"champion": "1"}


def test_an_alias_that_was_removed_is_left_until_somebody_says_what_it_is_to_be(client: Any, model: str) -> None:
    moved(client, model, "1")
    client.delete_registered_model_alias(model, "champion")
    assert settle(client, model) == []
    assert named(client, model) == {}
    assert settled(client, model).foreign == {"champion": None}
    assert back(client, model).to == "1"
    client.delete_registered_model_alias(model, "champion")
    assert moved(client, model, "1").was is None
    assert at_rest(client, model)


@pytest.mark.parametrize("other", ["1", "3"])
def test_from_where_something_moved_an_alias_past_the_ledger_the_way_back_is_what_the_ledger_says(
    client: Any, model: str, other: str
) -> None:
    moved(client, model, "1")
    moved(client, model, "2")
    client.set_registered_model_alias(model, "champion", other)
    found = back(client, model)
    assert (found.was, found.to) == (other, "2")
    assert at_rest(client, model)


@pytest.mark.parametrize("head", ["on the model", "on a version alone"])
def test_a_ledger_that_was_cut_off_takes_back_no_move_that_it_has_lost(client: Any, model: str, head: str) -> None:
    moved(client, model, "1")
    moved(client, model, "2")
    back(client, model)
    client.delete_model_version(f"{model}.ledger", "3")
    if head == "on a version alone":
        client.delete_registered_model_tag(model, HEAD_TAG)
    before = heads(client, model)
    assert settle(client, model) == []
    assert (named(client, model), heads(client, model)) == ({"champion": "1"}, before)
    assert "say it with --to" in told(BadRequest, lambda: back(client, model))

    found = moved(client, model, "3")
    assert (found.was, found.to) == ("1", "3")
    assert named(client, model) == {"champion": "3"}
    chain = read_chain(client, model)
    assert {fault.number for fault in chain.faults} == {3}, "the missing entry is shown for ever"
    assert heads(client, model)["model"] == chain.head


@pytest.mark.parametrize("other", ["1", "3"], ids=["to what it named before", "to what it never named"])
def test_an_alias_moved_past_the_ledger_is_left_until_a_move_puts_it_on_record(
    client: Any, model: str, other: str
) -> None:
    moved(client, model, "1")
    moved(client, model, "2")
    client.set_registered_model_alias(model, "champion", other)
    assert settle(client, model) == []
    assert named(client, model) == {"champion": other}
    assert settled(client, model).foreign == {"champion": other}

    found = moved(client, model, other)
    assert (found.was, found.to) == (other, other)
    assert at_rest(client, model)
    assert back(client, model).to == "2"


def test_an_alias_whose_version_was_deleted_is_left(client: Any, model: str) -> None:
    moved(client, model, "1")
    client.delete_model_version(model, "1")
    assert settle(client, model) == []
    assert named(client, model) == {}
    assert moved(client, model, "2").was is None


# -- deleted, and registered anew --------------------------------------------------------------------------------------


def register_anew(client: Any, name: str) -> None:
    """As one does in MLflow's own pages: the model goes, its ledger stays, and others get the numbers."""
    client.delete_registered_model(name)
    make_versions(client, name, 3, first=11)


def test_no_alias_is_given_to_a_version_that_only_has_the_number_of_one_that_was_promoted(
    client: Any, model: str
) -> None:
    moved(client, model, "1")
    moved(client, model, "1", "challenger")
    register_anew(client, model)
    assert settle(client, model) == ["the model says now that its ledger ends with entry 2"]
    assert named(client, model) == {}
    assert heads(client, model)["1"] is None
    assert settled(client, model).foreign == {}


def test_such_a_version_is_promoted_by_an_entry_of_its_own(client: Any, model: str) -> None:
    moved(client, model, "1")
    register_anew(client, model)
    found = moved(client, model, "1", why="it is the first again", who="bob")
    assert (found.was, found.to, found.entry_number) == (None, "1", 2)
    (_, entry) = read_chain(client, model).valid()[-1]
    assert (entry.who, entry.digest) == ("bob", f"{11:064d}")
    assert at_rest(client, model)
    assert told(BadRequest, lambda: moved(client, model, "1")).startswith(f"version 1 of {model} is @champion already")


def test_such_a_version_that_was_given_the_alias_past_the_ledger_may_be_put_on_record(client: Any, model: str) -> None:
    moved(client, model, "1")
    register_anew(client, model)
    client.set_registered_model_alias(model, "champion", "1")
    found = moved(client, model, "1")
    assert (found.was, found.to, found.entry_number) == ("1", "1", 2)


@pytest.mark.parametrize("to", ["1", None])
def test_such_a_version_is_no_way_back(client: Any, model: str, to: str | None) -> None:
    for version in ("1", "2"):
        moved(client, model, version)
    register_anew(client, model)
    moved(client, model, "3")
    if to is None:
        assert told(BadRequest, lambda: back(client, model)) == (
            f"version 2, which @champion of {model} named before, is another one now; say with --to which of these it "
            "is to be: 3"
        )
    else:
        assert told(BadRequest, lambda: back(client, model, to)) == (
            f"@champion of {model} never named version 1, so there is no way back to it; it named: 3; `retort promote` "
            "names one for the first time"
        )
    moved(client, model, "1")
    assert back(client, model).to == "3", "what was promoted since is one"


def test_a_rollback_that_was_killed_before_the_model_was_deleted_is_not_finished_with_another_version(
    client: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("1", "2"):
        moved(client, model, version)
    killing = killed_at(monkeypatch, "set_registered_model_alias")
    with pytest.raises(Killed):
        back(client, model)
    killing.undo()
    register_anew(client, model)
    assert "knows of no version that @champion named before" in told(BadRequest, lambda: back(client, model))
    assert "never named version 1" in told(BadRequest, lambda: back(client, model, "1"))
    assert named(client, model) == {}


# -- refused -----------------------------------------------------------------------------------------------------------

TOO_LONG = "a" * 300


@pytest.fixture
def stuck(client: Any, model: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model with the entry of an alias that MLflow does not take, as an older Retort wrote it."""
    moved(client, model, "1")
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.moves.MAX_ALIAS", 1000)
        assert "alias" in told(BadRequest, lambda: moved(client, model, "2", TOO_LONG))
    return model


def test_an_alias_that_the_registry_refuses_stops_no_move_of_another(client: Any, stuck: str) -> None:
    assert moved(client, stuck, "2").entry_number == 3
    assert moved(client, stuck, "2", "challenger").entry_number == 4
    assert back(client, stuck).to == "1"
    assert "knows of no version that @champion named before" in told(BadRequest, lambda: back(client, stuck))
    assert named(client, stuck) == {"champion": "1", "challenger": "2"}
    assert heads(client, stuck)["model"] == read_chain(client, stuck).head


def test_an_alias_that_the_registry_refuses_is_told_until_another_move_was_made(client: Any, stuck: str) -> None:
    for _ in range(2):
        after = settled(client, stuck)
        assert (after.repaired, after.foreign, list(after.refused)) == ((), {}, [f"@{TOO_LONG}"])
        unfinished, refused = after.faults
        assert unfinished == (
            f"@{TOO_LONG} names nothing, and by entry 2 it is 2: that move is unfinished; `retort promote {stuck} "
            "--resume` finishes it"
        )
        assert refused.startswith(f"@{TOO_LONG} could not be written: the registry {client.tracking_uri} refused: ")
    moved(client, stuck, "3")
    after = settled(client, stuck)
    assert (after.foreign, dict(after.refused)) == ({TOO_LONG: None}, {})
    assert after.faults[0].startswith(f"@{TOO_LONG} names nothing, and by entry 2 it is 2: something removed it past ")


def test_who_asks_for_the_alias_that_is_refused_is_refused_each_time_and_writes_one_entry(
    client: Any, stuck: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.moves.MAX_ALIAS", 1000)
    for version in ("2", "3"):
        assert "refused" in told(BadRequest, lambda version=version: moved(client, stuck, version, TOO_LONG))
    assert len(read_chain(client, stuck).links) == 2


def test_an_alias_that_is_too_long_is_refused_before_anything_is_written(client: Any, model: str) -> None:
    assert told(BadRequest, lambda: moved(client, model, "1", TOO_LONG)) == (
        "alias aaaaaaaaaaaaaaaaaaaa... has 300 characters, and MLflow takes 255; shorten it"
    )
    assert read_chain(client, model).links == ()


# -- several authors ---------------------------------------------------------------------------------------------------


def test_who_loses_a_race_is_told_who_won_and_moves_nothing(
    client: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved(client, model, "1")
    add = promotion.add_entry

    def late(*given: Any, **named: Any) -> int:
        monkeypatch.setattr(promotion, "add_entry", add)
        moved(client, model, "2", who="ben")
        return add(*given, **named)

    monkeypatch.setattr(promotion, "add_entry", late)
    assert told(Transient, lambda: moved(client, model, "3")) == (
        f"ben moved @champion of {model} to 2 first (entry 2), so entry 3 is void and moved nothing; look at `retort "
        f"history {model}` and run again"
    )
    assert named(client, model) == {"champion": "2"}
    assert [link.won for link in read_chain(client, model).links] == [None, None, 2]
    assert at_rest(client, model)


def test_who_loses_against_a_move_of_another_alias_tries_again(
    client: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = promotion.add_entry

    def late(*given: Any, **named: Any) -> int:
        monkeypatch.setattr(promotion, "add_entry", add)
        moved(client, model, "2", "challenger", who="ben")
        return add(*given, **named)

    monkeypatch.setattr(promotion, "add_entry", late)
    assert moved(client, model, "3").entry_number == 3
    assert named(client, model) == {"champion": "3", "challenger": "2"}
    assert at_rest(client, model)


def test_who_loses_against_two_others_is_told_of_the_one_who_moved_the_same_alias(
    client: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one comes after the race that was lost, and before the next try."""
    add, read = promotion.add_entry, promotion.read_chain

    def after(*given: Any) -> Any:
        monkeypatch.setattr(promotion, "read_chain", read)
        kept = read(*given)
        moved(client, model, "2", who="carl")
        return kept

    def late(*given: Any, **named: Any) -> int:
        monkeypatch.setattr(promotion, "add_entry", add)
        moved(client, model, "2", "challenger", who="ben")
        number = add(*given, **named)
        monkeypatch.setattr(promotion, "read_chain", after)
        return number

    monkeypatch.setattr(promotion, "add_entry", late)
    assert told(Transient, lambda: moved(client, model, "3")) == (
        f"carl moved @champion of {model} to 2 first (entry 3), so entry 2 is void and moved nothing; look at `retort "
        f"history {model}` and run again"
    )
    assert named(client, model) == {"champion": "2", "challenger": "2"}
    assert at_rest(client, model)


def test_a_rollback_from_what_is_not_in_service_any_more_is_told_so(
    client: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved(client, model, "1")
    moved(client, model, "2")
    look = promotion.named_once

    def late(*given: Any) -> Any:
        monkeypatch.setattr(promotion, "named_once", look)
        moved(client, model, "3", who="ben")
        return look(*given)

    monkeypatch.setattr(promotion, "named_once", late)
    assert told(Transient, lambda: back(client, model)) == (
        f"ben moved @champion of {model} to 3 first (entry 3), so entry 4 is void and moved nothing; look at `retort "
        f"history {model}` and run again"
    )
    assert named(client, model) == {"champion": "3"}
    assert at_rest(client, model)


def test_an_author_whose_request_was_sent_twice_is_not_beaten_by_itself(
    client: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = promotion.add_entry
    monkeypatch.setattr(promotion, "add_entry", lambda *given, **named: add(*given, **named) and add(*given, **named))
    assert moved(client, model, "1").entry_number == 1
    assert [link.won for link in read_chain(client, model).links] == [None, 1]
    assert named(client, model) == {"champion": "1"}


class Slow:
    """A client that others overtake before it makes a request."""

    def __init__(self, client: Any, called: str, overtake: Callable[[], Any]) -> None:
        self._client, self._called, self._overtake = client, called, overtake

    def __getattr__(self, called: str) -> Any:
        if called == self._called:
            self._called = ""
            self._overtake()
        return getattr(self._client, called)


@pytest.mark.parametrize("called", REQUESTS[1:])
@pytest.mark.parametrize("others", [["3"], ["3", "1"]], ids=" ".join)
def test_an_author_who_is_slow_moves_no_alias_and_no_end_back(
    client: Any, model: str, called: str, others: list[str]
) -> None:
    """Its late request comes last, and is put right by itself."""
    moved(client, model, "1")
    slow = Slow(client, called, lambda: [moved(client, model, version, who="ben") for version in others])
    found = moved(slow, model, "2")
    assert (found.was, found.to, found.entry_number) == ("1", "2", 2)
    assert named(client, model) == {"champion": others[-1]}
    assert at_rest(client, model)
    assert settle(client, model) == []


def orders() -> list[str]:
    """Whose request comes next: one after the other, in turns, and fifteen orders by chance."""
    chance = random.Random(7)
    return ["a" * 99 + "b" * 99, "ab" * 99, "aab" * 66, *("".join(chance.choices("ab", k=120)) for _ in range(15))]


@pytest.mark.parametrize("order", orders(), ids=lambda order: order[:16])
def test_in_every_order_of_two_authors_the_ledger_is_whole_and_the_aliases_follow_it(
    client: Any, model: str, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "_STORE", nullcontext())  # authors are processes: one that waits bars no other
    moved(client, model, "1")
    ended = take_turns(
        order,
        client,
        {
            "a": lambda anna: move(anna, model, Move("champion", "2", "anna's", "anna")),
            "b": lambda ben: move(ben, model, Move("champion", "3", "ben's", "ben")),
        },
    )
    assert at_rest(client, model)
    assert settle(client, model) == []
    winners = [found for found in ended.values() if isinstance(found, Moved)]
    losers = [found for found in ended.values() if not isinstance(found, Moved)]
    assert [type(each) for each in losers] == [Overtaken] * (2 - len(winners))
    valid = read_chain(client, model).valid()
    assert sorted(found.entry_number for found in winners) == [number for number, _ in valid[1:]]
    assert named(client, model) == {"champion": valid[-1][1].to}
