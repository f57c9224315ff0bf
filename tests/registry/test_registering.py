"""What the pipeline registers in a real registry is what anyone fetches from there."""

import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from offers import bytes_of, client_of, faults_in, leftovers_in, model_id_of, offer_of, version_folder, versions_in
from registries import Registry

from pipeline.errors import BadRequest
from pipeline.tracking.registering import KEY_TAG, Offer, Registered, register
from serving.registry import DIGEST_TAG, resolve

# Raised inside MLflow's own models of its tables.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"), pytest.mark.timeout(120)]
_numbers = itertools.count(1)


@pytest.fixture
def offer(tmp_path: Path) -> Offer:
    """Of a name that no other test has: the servers are shared."""
    return offer_of(version_folder(tmp_path / "offered"), name=f"registering-{next(_numbers)}")


def test_registered_bytes_are_fetched_by_the_server_and_by_mlflow_itself(
    registry: Registry, offer: Offer, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.artifacts import download_artifacts

    found = register(offer, uri=registry.uri, workspace=workspace)

    resolved = resolve(found.model_uri, tracking_uri=registry.uri, cache=tmp_path / "cache")
    as_a_user_has_it(registry.uri, monkeypatch)
    fetched = Path(download_artifacts(found.model_uri, dst_path=str(tmp_path / "fetched")))
    assert (resolved.version, resolved.digest) == (found.version, offer.tags[DIGEST_TAG])
    assert bytes_of(resolved.path) == bytes_of(offer.folder / "bundle")
    assert bytes_of(fetched) == bytes_of(offer.folder)


def as_a_user_has_it(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry in the environment, and nothing that a test before may have set for the process."""
    from mlflow.tracking._model_registry import utils as registry_utils
    from mlflow.tracking._tracking_service import utils as tracking_utils

    monkeypatch.setattr(tracking_utils, "_tracking_uri", None)
    monkeypatch.setattr(registry_utils, "_registry_uri", None)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)


def test_a_version_says_where_it_came_from_and_has_no_alias(registry: Registry, offer: Offer, workspace: Path) -> None:
    found = register(offer, uri=registry.uri, workspace=workspace)

    (version,) = versions_in(registry, offer.name)
    assert found == Registered(
        name=offer.name,
        version="1",
        run_id=None,
        model_id=model_id_of(version),
        tracking_uri=registry.uri,
        new=True,
    )
    assert version.tags == {**offer.tags, KEY_TAG: offer.key}
    assert client_of(registry).get_registered_model(offer.name).aliases == {}


def test_mlflow_s_page_of_the_logged_model_shows_the_version_in_every_registry(
    registry: Registry, offer: Offer, workspace: Path
) -> None:
    found = register(offer, uri=registry.uri, workspace=workspace)
    tags = client_of(registry).get_logged_model(found.model_id).tags
    shown = [(each["name"], str(each["version"])) for each in json.loads(tags["mlflow.modelVersions"])]
    assert shown == [(offer.name, "1")]


def test_a_key_is_registered_once_and_another_key_beside_it(registry: Registry, offer: Offer, workspace: Path) -> None:
    other = offer_of(offer.folder, name=offer.name, key="register-2")

    first = register(offer, uri=registry.uri, workspace=workspace)
    again = register(offer, uri=registry.uri, workspace=workspace)
    second = register(other, uri=registry.uri, workspace=workspace)

    assert [(one.version, one.new) for one in (first, again, second)] == [("1", True), ("1", False), ("2", True)]
    assert again.model_id == first.model_id
    assert [version.tags[KEY_TAG] for version in versions_in(registry, offer.name)] == ["register-1", "register-2"]
    assert faults_in(registry, offer) + faults_in(registry, other) + leftovers_in(registry, offer) == []


def test_a_version_is_complete_as_soon_as_anyone_sees_it(registry: Registry, offer: Offer, workspace: Path) -> None:
    done = Event()
    client_of(registry).search_model_versions("name='nobody'")  # connected, before the race begins

    def first_sight() -> list[str]:
        while True:
            over = done.is_set()  # asked before the look: one that began before the version was there says nothing
            if versions_in(registry, offer.name):
                break
            assert not over, "the version was never seen"
            time.sleep(0.001)
        return faults_in(registry, offer)

    with ThreadPoolExecutor(1) as watcher:
        sight = watcher.submit(first_sight)
        register(offer, uri=registry.uri, workspace=workspace)
        time.sleep(0.1)
        done.set()
        assert sight.result() == []


def test_an_alias_that_is_not_there_is_told_which_there_are(
    registry: Registry, offer: Offer, workspace: Path, tmp_path: Path
) -> None:
    register(offer, uri=registry.uri, workspace=workspace)
    client_of(registry).set_registered_model_alias(offer.name, "champion", "1")
    with pytest.raises(BadRequest) as refused:
        resolve(f"models:/{offer.name}@challenger", tracking_uri=registry.uri, cache=tmp_path)
    assert str(refused.value) == f"model {offer.name} has no alias challenger; it has: champion"
