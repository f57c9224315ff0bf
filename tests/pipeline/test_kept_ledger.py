"""Against a real MLflow sqlite store. Its migration takes seconds: one store is shared, each test has its own model."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ledgers import entry, make_versions, moved, promotions
from offers import offer_of, version_folder

from pipeline import kept_ledger
from pipeline.errors import BadArtifact, BadRequest, Transient
from pipeline.kept_ledger import (
    ENTRY_TAG,
    HASH_TAG,
    NoSuchModel,
    add_entry,
    existing_registry,
    own_models,
    read_chain,
    read_state,
    read_state_at_rest,
    read_versions,
    receipts_of,
)
from pipeline.ledger import chain, entry_hash, entry_text
from pipeline.model_state import HEAD_TAG, State
from pipeline.tracking.client import default_uri
from pipeline.tracking.registering import register
from pipeline.tracking.versions import Version, model_called, versions_of
from serving.signatures import FILES, FILES_TAG, files_listing


@pytest.fixture(scope="module")
def version(root: Path, client: Any) -> Version:
    """A version as the register stage makes it."""
    folder = version_folder(root / "made")
    (folder / "manifests").mkdir()
    (folder / "manifests" / "export.json").write_text("{}")
    (folder / FILES).write_text(files_listing(folder))
    register(offer_of(folder, name="real"), uri=default_uri(root), workspace=root)
    return versions_of(client, "real")[0]


def files_of(client: Any, version: Version) -> Path:
    place = client.get_model_version_download_uri(version.name, str(version.number))
    return Path(str(place).removeprefix("file://"))


# -- the registry ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "?timeout=5"])
def test_what_only_reads_makes_no_registry(tmp_path: Path, suffix: str) -> None:
    uri = f"sqlite:///{tmp_path}/none/mlflow.db{suffix}"
    with pytest.raises(NoSuchModel) as refused, existing_registry(uri):
        pass
    assert str(refused.value) == (
        f"there is no registry at {uri}; `retort run` makes it, or name another with --tracking-uri"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_registry_that_is_there_is_talked_to(root: Path, client: Any) -> None:
    make_versions(client, "there", 1)
    with existing_registry(default_uri(root)) as found:
        assert read_state(found, "there").versions.keys() == {"1"}


def test_an_unknown_model_is_answered_with_those_there_are_but_not_with_all(
    root: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_versions(client, "known", 1)
    moved(client, "known", "1")
    monkeypatch.setattr(kept_ledger, "model_names", lambda _: ["a", "known.ledger", "b", "c", "d"])
    uri = default_uri(root)
    with pytest.raises(NoSuchModel) as refused:
        read_state(client, "nobody")
    assert str(refused.value) == f"the registry {uri} has no model nobody; it has: a, b, c, d"
    monkeypatch.setattr(kept_ledger, "MAX_NAMES", 2)
    with pytest.raises(NoSuchModel) as refused:
        read_state(client, "nobody")
    assert str(refused.value) == f"the registry {uri} has no model nobody; it has: a, b and 2 more"


def test_ledgers_are_not_among_the_models(client: Any) -> None:
    make_versions(client, "listed", 2)
    moved(client, "listed", "1")
    found = own_models(client)
    assert [each.number for each in found["listed"]] == [1, 2]
    assert "listed.ledger" not in found


def test_a_model_that_something_else_named_like_a_ledger_is_a_model(client: Any) -> None:
    make_versions(client, "theirs.ledger", 1)
    assert [each.number for each in own_models(client)["theirs.ledger"]] == [1]
    assert read_state(client, "theirs.ledger").versions.keys() == {"1"}


def test_nothing_is_read_from_or_appended_to_a_ledger_that_something_else_registered(root: Path, client: Any) -> None:
    make_versions(client, "mine", 1)
    make_versions(client, "mine.ledger", 1)
    answer = (
        f"the model mine.ledger in the registry {default_uri(root)} was registered by something else than Retort (it "
        "has no tag retort.ledger), so the moves of mine cannot be kept there; rename it"
    )
    for call in (
        lambda: read_state(client, "mine"),
        lambda: moved(client, "mine", "1"),
        lambda: add_entry(client, "mine", entry(), first=True),
    ):
        with pytest.raises(BadRequest) as refused:
            call()
        assert str(refused.value) == answer
    assert len(versions_of(client, "mine.ledger")) == 1
    assert client.get_registered_model("mine").aliases == {}


def test_the_versions_of_a_model_are_read_whatever_its_ledger_is_like(client: Any) -> None:
    make_versions(client, "unread", 2)
    make_versions(client, "unread.ledger", 1)
    assert [each.number for each in read_versions(client, "unread")] == [1, 2]
    with pytest.raises(NoSuchModel, match=r" has no model nobody; it has: "):
        read_versions(client, "nobody")


# -- entries -----------------------------------------------------------------------------------------------------------


def test_an_entry_is_a_version_with_its_text_and_hash_from_the_first_moment(client: Any) -> None:
    make_versions(client, "entries", 2)
    written = entry(to="2", why="it is\u2028better ✓")
    assert add_entry(client, "entries", written, first=True) == 1
    assert add_entry(client, "entries", entry(entry_hash(written)), first=False) == 2

    kept = client.get_model_version("entries.ledger", "1")
    assert kept.tags == {ENTRY_TAG: entry_text(written), HASH_TAG: entry_hash(written)}
    assert (kept.source, kept.status) == ("models:/entries/2", "READY")
    assert client.get_registered_model("entries.ledger").tags == {"retort.ledger": "1"}
    assert read_chain(client, "entries").valid()[0] == (1, written)


def test_a_model_whose_name_leaves_no_room_for_its_ledger_s_is_refused_before_anything_is_written(client: Any) -> None:
    name = "n" * 250
    make_versions(client, name, 1)
    with pytest.raises(BadRequest) as refused:
        moved(client, name, "1")
    assert str(refused.value) == (
        "the name of model nnnnnnnnnnnnnnnnnnnn... has 250 characters, and 249 are what a registry has room for with "
        ".ledger after them, where its moves are kept; register it by a shorter name"
    )
    assert model_called(client, f"{name}.ledger") is None


def test_two_authors_may_make_the_ledger_at_once(client: Any) -> None:
    make_versions(client, "together", 1)
    assert [add_entry(client, "together", entry(who=who), first=True) for who in ("anna", "ben")] == [1, 2]
    assert [link.won for link in read_chain(client, "together").links] == [None, 1]


def test_a_ledger_of_more_entries_than_a_page_holds_is_read_whole(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tracking.versions.VERSIONS_A_PAGE", 2)
    make_versions(client, "long", 1)
    prev = ""
    for number in range(5):
        written = entry(prev, who=f"{number}")
        add_entry(client, "long", written, first=number == 0)
        prev = entry_hash(written)
    found = read_chain(client, "long")
    assert ([number for number, _ in found.valid()], found.faults) == ([1, 2, 3, 4, 5], ())


def test_a_version_of_the_ledger_that_is_no_entry_is_a_fault(client: Any) -> None:
    make_versions(client, "odd", 1)
    moved(client, "odd", "1")
    client.create_model_version("odd.ledger", "models:/odd/1", await_creation_for=0)
    assert [fault.text for fault in read_chain(client, "odd").faults] == ["entry 2 has no text"]


def test_the_ledger_s_end_is_read_before_the_ledger(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that an entry that comes in between does not make the ledger seem cut off."""
    make_versions(client, "order", 2)
    moved(client, "order", "1")
    read = kept_ledger.read_chain

    def late(*given: Any) -> Any:
        monkeypatch.setattr(kept_ledger, "read_chain", read)
        moved(client, "order", "2")
        return read(*given)

    monkeypatch.setattr(kept_ledger, "read_chain", late)
    state = read_state(client, "order")
    assert (state.head[:2], state.chain.head[:2]) == ("1:", "2:")
    assert not state.chain.lacks(state.head)


def test_who_writes_nothing_reads_again_while_moves_come_in_between(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version's end that is newer than the ledger as it was read would seem cut off, and its alias foreign."""
    make_versions(client, "restless", 3)
    moved(client, "restless", "1")
    read, to = kept_ledger.versions_of, iter(["2", "3"])

    def late(client: Any, name: str) -> Any:
        if name == "restless" and (version := next(to, None)):
            monkeypatch.setattr(kept_ledger, "versions_of", read)
            moved(client, "restless", version)
            monkeypatch.setattr(kept_ledger, "versions_of", late)
        return read(client, name)

    monkeypatch.setattr(kept_ledger, "versions_of", late)
    state = read_state_at_rest(client, "restless")
    assert (state.missing, state.foreign, state.named) == ({}, {}, {"champion": "3"})

    monkeypatch.setattr(kept_ledger, "TRIES", 0)
    with pytest.raises(Transient) as refused:
        read_state_at_rest(client, "restless")
    assert str(refused.value) == "the ledger of restless grows faster than it can be followed; run again"


def test_where_an_end_is_missing_the_next_entry_names_it_the_model_s_own_before_others() -> None:
    def version(number: int, head: str) -> Version:
        return Version("m", number, {HEAD_TAG: head}, (), datetime.now(UTC), None, "s3://nowhere")

    found = chain(promotions("1"))
    one, two, three = (f"{number}:{number:064d}" for number in (5, 6, 10))
    cut = {"1": version(1, one), "2": version(2, three), "3": version(3, found.head)}
    state = State("m", found.head, found, cut, {"champion": "1"})
    assert state.missing == {"version 1": one, "version 2": three}
    assert state.next_prev == three.partition(":")[2]
    assert replace(state, head=two).next_prev == two.partition(":")[2]
    assert replace(state, versions={}).next_prev == found.links[0].hash


def test_a_version_that_was_deleted_makes_its_alias_no_foreign_one() -> None:
    found = chain(promotions("1"))
    state = State("m", found.head, found, {}, {})
    assert state.foreign == {}
    assert replace(state, named={"champion": "2"}).foreign == {"champion": "2"}


def test_a_model_s_state_is_its_ledger_its_versions_and_what_its_aliases_name(client: Any) -> None:
    make_versions(client, "state", 2)
    client.set_registered_model_alias("state", "staging", "2")
    moved(client, "state", "1")
    state = read_state(client, "state")
    assert state.named == {"staging": "2", "champion": "1"}
    assert state.head == state.chain.head == client.get_registered_model("state").tags[HEAD_TAG]


# -- evidence ----------------------------------------------------------------------------------------------------------


def test_an_entry_carries_the_digests_of_the_receipts_and_manifests_as_registered(
    client: Any, version: Version
) -> None:
    moved(client, "real", "1")
    _, written = read_chain(client, "real").valid()[0]
    receipt = hashlib.sha256(b'{"p95_ms": 1.5}').hexdigest()
    assert written.receipts == {
        "bundle/receipts/latency@here.json": receipt,
        "manifests/export.json": hashlib.sha256(b"{}").hexdigest(),
    }
    assert written.files == version.tags[FILES_TAG]
    assert written.digest == version.tags["retort.digest"]


def test_a_version_of_an_older_retort_has_no_list_to_read(client: Any) -> None:
    make_versions(client, "older", 1)
    assert receipts_of(client, versions_of(client, "older")[0]) == {}


def test_a_list_that_is_not_the_one_registered_is_refused(client: Any, version: Version) -> None:
    other = replace(version, tags={FILES_TAG: "0" * 64})
    with pytest.raises(BadArtifact) as refused:
        receipts_of(client, other)
    found = version.tags[FILES_TAG][:12]
    assert str(refused.value) == (
        f"version 1 of real: files.sha256 is {found}, not the 000000000000 registered; register it again"
    )


def test_a_list_that_is_gone_is_refused(client: Any, version: Version) -> None:
    path = files_of(client, version) / FILES
    text = path.read_bytes()
    path.unlink()
    try:
        with pytest.raises(BadArtifact) as refused:
            receipts_of(client, version)
    finally:
        path.write_bytes(text)
    assert str(refused.value) == (
        "version 1 of real has no files.sha256 any more: its files are not those registered; register it again"
    )


@pytest.mark.parametrize("name", ["m.ledger", ".ledger", "a.ledger.ledger"])
def test_a_ledger_is_not_taken_for_a_model(client: Any, name: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_state(client, name)
    assert str(refused.value) == f"{name} is the ledger of {name[:-7]}; name that model"
