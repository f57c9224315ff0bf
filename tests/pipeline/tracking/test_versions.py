"""What a registry has is read whole: against a real MLflow sqlite store, each test with a model of its own."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from offers import bytes_of, offer_of, version_folder

from pipeline.errors import BadArtifact, BadRequest
from pipeline.tracking import versions
from pipeline.tracking.registering import register
from pipeline.tracking.versions import (
    KEY_TAG,
    aliases_of,
    create_version,
    download,
    model_called,
    model_names,
    version_by_key,
    versions_of,
    versions_without_aliases,
)

# Raised inside MLflow's own models of its tables.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")
_numbers = itertools.count(1)


@pytest.fixture
def name(client: Any) -> str:
    """A model of three versions, made by the steps a, b and a again."""
    found = f"versions-{next(_numbers)}"
    client.create_registered_model(found)
    for key in "aba":
        create_version(client, found, source="file:///nowhere", tags={KEY_TAG: key, "word": "it's"})
    return found


def test_all_versions_are_found_in_their_order_with_tags_and_aliases(client: Any, name: str) -> None:
    client.set_registered_model_alias(name, "challenger", "3")
    client.set_registered_model_alias(name, "champion", "3")
    client.set_registered_model_alias(name, "first", "1")

    found = versions_of(client, name)

    assert [version.number for version in found] == [1, 2, 3]
    assert [version.aliases for version in found] == [("first",), (), ("challenger", "champion")]
    assert [version.tags for version in found] == [{KEY_TAG: key, "word": "it's"} for key in "aba"]
    assert {(version.name, version.run_id, version.source) for version in found} == {(name, None, "file:///nowhere")}
    assert all(datetime.now(UTC) - version.created_at < timedelta(minutes=5) for version in found)


def test_without_aliases_the_same_versions_are_found_and_the_model_is_not_asked_for(
    client: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.set_registered_model_alias(name, "champion", "3")
    found = [replace(version, aliases=()) for version in versions_of(client, name)]
    monkeypatch.setattr("mlflow.MlflowClient.search_registered_models", None)
    assert versions_without_aliases(client, name) == found


def test_more_than_one_page_is_read(client: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "VERSIONS_A_PAGE", 1)
    monkeypatch.setattr(versions, "MODELS_A_PAGE", 1)
    client.create_registered_model(f"{name}-another")

    assert [version.number for version in versions_of(client, name)] == [1, 2, 3]
    assert {name, f"{name}-another"} <= set(model_names(client))


def test_a_key_finds_the_first_version_that_has_it(client: Any, name: str) -> None:
    found = [version_by_key(client, name, key) for key in ("a", "b", "c")]
    assert [version and version.number for version in found] == [1, 2, None]
    assert version_by_key(client, "nobody", "a") is None


def test_aliases_are_told_from_no_model(client: Any, name: str) -> None:
    assert aliases_of(client, name) == {}
    client.set_registered_model_alias(name, "champion", "2")
    assert aliases_of(client, name) == {"champion": "2"}
    assert aliases_of(client, "nobody") is None


def test_a_model_that_is_not_there_has_no_versions(client: Any) -> None:
    assert versions_of(client, "nobody") == []
    assert model_called(client, "nobody") is None


def test_a_name_is_not_a_pattern(client: Any, name: str) -> None:
    assert versions_of(client, "versions-%") == []
    assert aliases_of(client, name.replace("-", "_")) is None
    assert aliases_of(client, name.upper()) is None


@pytest.mark.parametrize("odd", ["o'neil", 'say "hi"', "two  spaces", "a.b"])
def test_a_name_with_odd_characters_is_found(client: Any, odd: str) -> None:
    client.create_registered_model(odd)
    create_version(client, odd, source="file:///nowhere", tags={})
    assert [version.name for version in versions_of(client, odd)] == [odd]


def test_a_name_with_both_kinds_of_quotes_is_refused(client: Any) -> None:
    with pytest.raises(BadRequest) as refused:
        versions_of(client, '"it\'s"')
    assert str(refused.value) == (
        "'\"it\\'s\"' cannot be looked for: MLflow takes no text with both kinds of quotes; name another"
    )


def test_a_version_of_a_logged_model_names_it_and_another_does_not(
    client: Any, name: str, uri: str, root: Path, tmp_path: Path
) -> None:
    offer = offer_of(version_folder(tmp_path / "version"), name=f"{name}-logged")
    made = register(offer, uri=uri, workspace=root)

    assert [version.model_id for version in versions_of(client, offer.name)] == [made.model_id]
    assert versions_of(client, name)[0].model_id is None


def test_a_version_s_files_are_downloaded_as_they_were_registered(
    client: Any, name: str, uri: str, root: Path, tmp_path: Path
) -> None:
    offer = offer_of(version_folder(tmp_path / "version"), name=f"{name}-logged")
    register(offer, uri=uri, workspace=root)

    there = download(client, versions_of(client, offer.name)[0], tmp_path / "fetched")

    assert there.is_relative_to(tmp_path / "fetched")
    assert bytes_of(there) == bytes_of(offer.folder)


def test_a_version_whose_files_are_gone_is_a_bad_artifact(client: Any, name: str, tmp_path: Path) -> None:
    with pytest.raises(BadArtifact) as gone:
        download(client, versions_of(client, name)[0], tmp_path)
    assert str(gone.value).startswith("file:///nowhere does not hold the registered files: ")


def test_a_registry_where_others_are_always_faster_is_given_up(
    client: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException

    asked: list[int] = []

    def busy(*_: Any, **__: Any) -> None:
        asked.append(1)
        raise MlflowException("Model Version creation error (name=m). Giving up after 3 attempts.")

    monkeypatch.setattr("mlflow.MlflowClient.create_model_version", busy)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(MlflowException, match="Giving up"):
        create_version(client, name, source="file:///nowhere", tags={})
    assert len(asked) == versions.CREATE_TRIES


def test_what_a_registry_refuses_is_not_asked_again(client: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="not found"):
        create_version(client, f"{name}-nobody", source="file:///nowhere", tags={})
