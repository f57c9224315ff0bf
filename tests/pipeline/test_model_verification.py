"""`retort verify NAME` against a real MLflow sqlite store, shared, each test with its own model: tampering is found,
and nothing is repaired but what an interruption left."""

import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes import tiny_bundle
from keys_in_pem import key_pair
from ledgers import make_old_versions, moved, named
from offers import offer_of, version_folder
from registries import without_root_s_powers

from pipeline.errors import BadRequest
from pipeline.kept_ledger import NoSuchModel, read_chain
from pipeline.model_state import HEAD_TAG
from pipeline.model_verification import Findings, verify_model
from pipeline.promotion import rollback
from pipeline.signing import sign
from pipeline.tracking.client import default_uri
from pipeline.tracking.registering import register
from serving.bundle import Bundle
from serving.registry import DIGEST_TAG
from serving.signatures import FILES_TAG

AGAIN = "fetch the version again, or register it again"


@pytest.fixture(scope="module")
def bundle(root: Path) -> Bundle:
    return tiny_bundle(root / "bundle")


@pytest.fixture
def model(client: Any, bundle: Bundle, request: pytest.FixtureRequest) -> str:
    """A model with three versions as an older Retort made them, the first two promoted one after the other."""
    name = f"m{abs(hash(request.node.name))}"
    make_old_versions(client, name, bundle, 3)
    moved(client, name, "1")
    moved(client, name, "2")
    return name


@pytest.fixture
def real(client: Any, root: Path, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[str, Path]:
    """A model with one version as the register stage makes it, promoted; and where the registry keeps its files."""
    name = f"r{abs(hash(request.node.name))}"
    register(offer_of(version_folder(tmp_path / "version"), name=name), uri=default_uri(root), workspace=root)
    moved(client, name, "1")
    return name, Path(client.get_model_version_download_uri(name, "1").removeprefix("file://"))


def found_of(root: Path, name: str, *, key: Path | None = None, every: bool = False) -> Findings:
    return verify_model(name, uri=default_uri(root), cache=root / "cache", key=key, every=every)


def faults(root: Path, name: str, **how: Any) -> list[str]:
    """What is found, and found again: a fault stays until somebody does something about it."""
    found = list(found_of(root, name, **how).faults)
    assert list(found_of(root, name, **how).faults) == found
    return found


# -- nothing wrong -----------------------------------------------------------------------------------------------------


def test_a_model_that_is_whole_is_said_to_be(client: Any, root: Path, model: str) -> None:
    head = read_chain(client, model).head
    assert found_of(root, model) == Findings(model, (), (), entries=2, void=0, head=head, versions=("2",))
    assert found_of(root, model).ok
    assert found_of(root, model, every=True).versions == ("1", "2", "3")


def test_a_model_whose_alias_is_older_than_its_ledger_is_whole(client: Any, root: Path, bundle: Bundle) -> None:
    make_old_versions(client, "adopted", bundle, 1)
    client.set_registered_model_alias("adopted", "champion", "1")
    assert found_of(root, "adopted") == Findings("adopted", (), (), entries=0, void=0, head="", versions=("1",))


def test_a_version_of_the_register_stage_is_read_whole(root: Path, real: tuple[str, Path]) -> None:
    found = found_of(root, real[0])
    assert (found.faults, found.versions) == ((), ("1",))
    assert list((root / "cache").iterdir()) == []


def test_an_entry_that_lost_a_race_is_no_fault(client: Any, root: Path, model: str) -> None:
    first = client.get_model_version(f"{model}.ledger", "1")
    client.create_model_version(f"{model}.ledger", f"models:/{model}/1", tags=first.tags, await_creation_for=0)
    found = found_of(root, model)
    assert (found.faults, found.entries, found.void) == ((), 3, 1)


# -- repaired, or not --------------------------------------------------------------------------------------------------


def test_what_an_interrupted_move_left_is_repaired_and_said(client: Any, root: Path, model: str) -> None:
    client.set_registered_model_alias(model, "champion", "1")
    client.delete_registered_model_tag(model, HEAD_TAG)
    found = found_of(root, model)
    assert found.repaired == (
        "@champion named 1, and names 2 as the ledger says",
        "the model says now that its ledger ends with entry 2",
    )
    assert (found.faults, found.versions) == ((), ("2",))
    assert named(client, model) == {"champion": "2"}
    assert found_of(root, model).repaired == ()


def test_an_alias_that_something_moved_past_the_ledger_is_a_fault_and_is_left(
    client: Any, root: Path, model: str
) -> None:
    client.set_registered_model_alias(model, "champion", "3")
    assert faults(root, model) == [
        "@champion names version 3, and by entry 2 it is 2: something moved it past the ledger; `retort promote "
        f"{model} --to champion --version 3 --why ...` puts that on record, `retort promote {model} --to champion "
        "--version 2 --why ...` takes it back"
    ]
    assert named(client, model) == {"champion": "3"}
    moved(client, model, "2")
    assert faults(root, model) == []
    assert read_chain(client, model).valid()[-1][1].was == "3"


@pytest.mark.parametrize(("now", "names"), [("1", "version 1"), (None, "nothing")])
def test_what_somebody_did_to_an_alias_on_purpose_is_told_and_not_undone(
    client: Any, root: Path, model: str, now: str | None, names: str
) -> None:
    client.delete_registered_model_alias(model, "champion")
    if now:
        client.set_registered_model_alias(model, "champion", now)
    (fault,) = faults(root, model)
    assert fault.startswith(f"@champion names {names}, and by entry 2 it is 2: something ")
    assert named(client, model) == ({"champion": now} if now else {})


def test_a_rollback_whose_entry_was_removed_is_not_undone(client: Any, root: Path, model: str) -> None:
    rollback(client, model, to=None, why="it failed", who="ben")
    client.delete_model_version(f"{model}.ledger", "3")
    found = faults(root, model)
    assert [fault.partition(":")[0] for fault in found[:2]] == ["the ledger was cut off"] * 2
    assert found[-1].startswith(
        "@champion names version 1, and by entry 2 it is 2: something moved it past the ledger, or by an entry that is "
        "not there any more; "
    )
    assert named(client, model) == {"champion": "1"}


def test_a_version_that_was_deleted_under_its_alias_is_a_fault(client: Any, root: Path, model: str) -> None:
    client.delete_model_version(model, "2")
    assert faults(root, model) == [
        "version 2, which @champion names by entry 2, was deleted from the registry; `retort promote "
        f"{model} --to champion --version V --why ...` names another"
    ]
    rollback(client, model, to="1", why="it is gone", who="ben")
    assert faults(root, model) == []


# -- deleted, and registered anew --------------------------------------------------------------------------------------


def registered_anew(client: Any, name: str, folder: Path, *, long_after: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    """Another model's version 1 instead; the digest of its bundle."""
    from pipeline import model_state

    client.delete_registered_model(name)
    another = tiny_bundle(folder, bias=9.0)
    make_old_versions(client, name, another, 2)
    if long_after:
        monkeypatch.setattr(model_state, "CLOCKS", timedelta(days=-1))
    return another.digest


def test_of_a_model_that_was_deleted_and_registered_anew_long_after_nothing_is_wrong(
    client: Any, root: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered_anew(client, model, tmp_path / "another", long_after=True, monkeypatch=monkeypatch)
    assert found_of(root, model).repaired == ("the model says now that its ledger ends with entry 2",)
    (fault,) = faults(root, model)
    assert fault.startswith("version 2, which @champion names by entry 2, is another one now: it was deleted, and its ")
    assert named(client, model) == {}
    moved(client, model, "1")
    assert faults(root, model) == []


def test_a_version_that_stands_in_the_place_of_the_one_that_was_promoted_is_a_fault_however_young(
    client: Any, root: Path, model: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = registered_anew(client, model, tmp_path / "another", long_after=True, monkeypatch=monkeypatch)
    client.set_registered_model_alias(model, "champion", "2")
    assert faults(root, model) == [
        f"version 2: its tag retort.digest is {digest[:12]}, and was {bundle.digest[:12]} when entry 2 was written"
    ]


def test_where_the_clocks_leave_a_doubt_another_digest_is_a_fault(
    client: Any, root: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered_anew(client, model, tmp_path / "another", long_after=False, monkeypatch=monkeypatch)
    assert [fault.partition(":")[0] for fault in faults(root, model)[1:]] == ["version 1", "version 2"]


# -- who may not write -------------------------------------------------------------------------------------------------


def found_by_who_may_only_read(root: Path, name: str, place: Path) -> tuple[str, Findings]:
    """In a copy of the registry, and where that is: who has it open may write it."""
    file = Path(shutil.copy(root / "mlflow.db", place))
    file.chmod(stat.S_IRUSR)
    uri = f"sqlite:///{file}"
    with ThreadPoolExecutor(1, initializer=without_root_s_powers) as bound:
        told = bound.submit(verify_model, name, uri=uri, cache=place / "cache", key=None)
        return uri, told.result()


def test_who_may_only_read_is_told_what_lags_and_the_files_are_read(
    client: Any, root: Path, real: tuple[str, Path], tmp_path: Path
) -> None:
    name, files = real
    client.delete_registered_model_alias(name, "champion")
    client.delete_registered_model_tag(name, HEAD_TAG)
    client.set_registered_model_alias(name, "staging", "1")
    (files / "MLmodel").write_text("flavors: {}\n")
    uri, found = found_by_who_may_only_read(root, name, tmp_path)
    assert (found.repaired, found.versions) == ((), ("1",))
    assert found.faults == (
        "@champion names nothing, and by entry 1 it is 1: that move is unfinished; `retort promote "
        f"{name} --resume` finishes it",
        f"@champion could not be written: the registry {uri} cannot be written (readonly database); use an account "
        "that may write, or name another with register.tracking_uri or --tracking-uri",
        f"version 1 of {name}: MLmodel is not as files.sha256 lists it: it was altered; {AGAIN}",
    )


def test_who_may_only_read_is_told_that_the_end_on_the_model_lags(
    client: Any, root: Path, model: str, tmp_path: Path
) -> None:
    client.delete_registered_model_tag(model, HEAD_TAG)
    uri, found = found_by_who_may_only_read(root, model, tmp_path)
    assert found.faults == (
        f"the ledger's end on the model could not be written: the registry {uri} cannot be written (readonly "
        "database); use an account that may write, or name another with register.tracking_uri or --tracking-uri",
    )


# -- the ledger --------------------------------------------------------------------------------------------------------


def test_an_altered_entry_is_a_fault(client: Any, root: Path, model: str) -> None:
    text = client.get_model_version(f"{model}.ledger", "1").tags["retort.entry"]
    client.set_model_version_tag(f"{model}.ledger", "1", "retort.entry", text.replace("anna", "nobody"))
    assert faults(root, model) == ["entry 1 was altered: its text is not what its hash says"]


def test_a_missing_entry_is_a_fault(client: Any, root: Path, model: str) -> None:
    gone = client.get_model_version(f"{model}.ledger", "1").tags["retort.entry_hash"]
    client.delete_model_version(f"{model}.ledger", "1")
    assert faults(root, model) == [
        "entry 1 is missing: it was removed from the ledger",
        f"entry 2 follows one that is not there ({gone[:12]}): an entry before it was altered or removed",
    ]


def test_a_ledger_that_was_cut_off_is_a_fault_told_by_the_model_and_by_its_version(
    client: Any, root: Path, model: str
) -> None:
    end = client.get_model_version(f"{model}.ledger", "2").tags["retort.entry_hash"][:12]
    client.delete_model_version(f"{model}.ledger", "2")
    client.set_registered_model_alias(model, "champion", "1")

    def told(where: str) -> str:
        return f"the ledger was cut off: {where} says it reached to entry 2 ({end}), which is not there"

    assert faults(root, model) == [told(f"model {model}"), told("version 2")]
    client.delete_registered_model_tag(model, HEAD_TAG)
    assert faults(root, model)[-1:] == [told("version 2")]


def test_a_ledger_that_was_removed_is_a_fault_and_stays_one_after_the_next_move(
    client: Any, root: Path, model: str
) -> None:
    client.delete_registered_model(f"{model}.ledger")
    assert [fault.partition(":")[0] for fault in faults(root, model)] == ["the ledger was cut off"] * 3
    moved(client, model, "3")
    assert any("entry 1 follows one that is not there" in fault for fault in faults(root, model))
    assert named(client, model) == {"champion": "3"}


def test_a_ledger_of_a_newer_retort_is_refused(client: Any, root: Path, model: str) -> None:
    from pipeline.ledger import text_hash

    for tag, value in (("retort.entry", '{"schema":9}'), ("retort.entry_hash", text_hash('{"schema":9}'))):
        client.set_model_version_tag(f"{model}.ledger", "2", tag, value)
    with pytest.raises(BadRequest) as refused:
        found_of(root, model)
    assert str(refused.value) == (
        "entry 2 of the ledger has schema 9, and this version reads 1: it was written by a newer Retort; upgrade"
    )


# -- the versions ------------------------------------------------------------------------------------------------------


def test_a_tag_that_is_not_what_it_was_when_an_alias_was_moved_is_a_fault(
    client: Any, root: Path, model: str, bundle: Bundle
) -> None:
    client.set_model_version_tag(model, "1", DIGEST_TAG, "0" * 64)
    assert faults(root, model) == [
        f"version 1: its tag retort.digest is 000000000000, and was {bundle.digest[:12]} when entry 1 was written"
    ]
    assert faults(root, model, every=True)[1:] == [
        f"version 1 of {model}: its bundle is {bundle.digest[:12]}, not the 000000000000 registered; register it again"
    ]


def test_a_file_that_was_altered_is_a_fault(root: Path, real: tuple[str, Path]) -> None:
    name, files = real
    (files / "MLmodel").write_text("flavors: {}\n")
    assert faults(root, name) == [
        f"version 1 of {name}: MLmodel is not as files.sha256 lists it: it was altered; {AGAIN}"
    ]


def test_a_file_that_came_later_is_a_fault(root: Path, real: tuple[str, Path]) -> None:
    name, files = real
    (files / "bundle" / "receipts" / "latency@other.json").write_text("{}")
    assert faults(root, name) == [
        f"version 1 of {name}: bundle/receipts/latency@other.json is not listed in files.sha256; {AGAIN}"
    ]


def test_files_that_are_gone_are_a_fault(client: Any, root: Path, real: tuple[str, Path]) -> None:
    name, files = real
    shutil.rmtree(files)
    (fault,) = faults(root, name)
    assert "does not hold the registered files" in fault


def test_a_version_without_the_digest_of_its_list_is_a_fault(client: Any, root: Path, real: tuple[str, Path]) -> None:
    name, _ = real
    was = client.get_model_version(name, "1").tags[FILES_TAG][:12]
    client.delete_model_version_tag(name, "1", FILES_TAG)
    assert faults(root, name) == [
        f"version 1: its tag retort.files is gone, and was {was} when entry 1 was written",
        f"version 1 of {name} has no tag retort.files, so nothing says what its files must be; register it again",
    ]


def test_a_version_that_retort_did_not_register_is_a_fault_where_an_alias_names_it(
    client: Any, root: Path, bundle: Bundle
) -> None:
    make_old_versions(client, "theirs", bundle, 1)
    client.delete_model_version_tag("theirs", "1", DIGEST_TAG)
    client.set_registered_model_alias("theirs", "staging", "1")
    assert faults(root, "theirs") == [
        "model theirs version 1 has no tag retort.digest: Retort did not register it, so nothing says what its files "
        "must be; register it with `retort run`"
    ]


# -- signatures --------------------------------------------------------------------------------------------------------


def test_with_a_key_only_what_its_owner_signed_will_do(client: Any, root: Path, tmp_path: Path) -> None:
    mine, other = key_pair(tmp_path / "mine"), key_pair(tmp_path / "other")
    folder = version_folder(tmp_path / "version")
    sign(folder, mine.private)
    register(offer_of(folder, name="signed"), uri=default_uri(root), workspace=root)
    moved(client, "signed", "1")
    assert faults(root, "signed") == faults(root, "signed", key=mine.public) == []
    (fault,) = faults(root, "signed", key=other.public)
    assert fault.startswith(f"version 1 of signed: model.sig does not fit these files and {other.public}: ")


def test_what_nobody_signed_is_a_fault_where_a_key_is_given(
    client: Any, root: Path, model: str, real: tuple[str, Path], tmp_path: Path
) -> None:
    key = key_pair(tmp_path / "keys").public
    assert faults(root, model, key=key) == [
        f"version 2 of {model} was registered by an older Retort, which signed nothing; register it again"
    ]
    assert faults(root, real[0], key=key) == [
        f"version 1 of {real[0]} is not signed: it has no model.sig; verify it without a key, or sign it"
    ]


def test_a_key_that_cannot_be_used_is_a_bad_request(root: Path, real: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"^key .*/none\.pub cannot be read: No such file or directory; "):
        found_of(root, real[0], key=tmp_path / "none.pub")


# -- what is not there -------------------------------------------------------------------------------------------------


def test_an_unknown_model_and_a_registry_that_is_not_there_are_bad_requests(
    client: Any, root: Path, tmp_path: Path
) -> None:
    with pytest.raises(NoSuchModel, match=r"^the registry sqlite:///.*/mlflow\.db has no model nobody; it has: "):
        found_of(root, "nobody")
    with pytest.raises(NoSuchModel, match=r"^there is no registry at sqlite:///.*/mlflow\.db; `retort run` makes it, "):
        found_of(tmp_path, "nobody")
    assert list(tmp_path.iterdir()) == []
