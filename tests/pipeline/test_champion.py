"""Against a real MLflow sqlite store. Its migration takes seconds: one workspace is shared, each test has its own
model."""

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from offers import offer_of, version_folder

from pipeline.champion import NOBODY, Champion, require_comparable
from pipeline.errors import BadArtifact, BadRequest, Transient
from pipeline.tracking.client import default_uri, talking_to
from pipeline.tracking.registering import register
from pipeline.workspace import Workspace
from serving.bundle import Bundle, read_bundle
from serving.registry import DIGEST_TAG, Resolved

# Raised inside MLflow's own models of its tables, when `serving.registry` reads.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")
OWN: Any = {"task": "classification", "texts_per_item": 1, "labels": ("negative", "positive"), "length": 16}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace.open(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def bundles(workspace: Workspace) -> tuple[Bundle, Bundle]:
    folders = [version_folder(workspace.root / "made" / str(bias), bias=bias) for bias in (0.0, 0.5)]
    first, second = (read_bundle(folder / "bundle") for folder in folders)
    return first, second


def crown(bundle: Bundle, workspace: Workspace, *, name: str, alias: str = "champion") -> None:
    """Register the version of a bundle as a run would, and give it the alias."""
    offer = offer_of(bundle.path.parent, name=name, key=f"register-{bundle.digest[:8]}")
    uri = default_uri(workspace.root)
    version = register(replace(offer, experiment="champions"), uri=uri, workspace=workspace.root).version
    with talking_to(uri) as client:
        client.set_registered_model_alias(name, alias, version)


# -- nobody yet --------------------------------------------------------------------------------------------------------


def test_before_the_first_run_there_is_no_champion_and_no_registry_is_made(tmp_path: Path) -> None:
    champion = Champion("m")
    cache = Workspace.open(tmp_path).cache
    assert (champion.identity(cache), champion.resolve(cache)) == (NOBODY, None)
    assert not (tmp_path / "mlflow.db").exists()
    explicit = Champion("m", tracking_uri=f"sqlite:///{tmp_path / 'other.db'}")
    assert explicit.identity(cache) == NOBODY
    assert not (tmp_path / "other.db").exists()


@pytest.mark.parametrize("champion", [Champion("nobody"), Champion("known", "winner")])
def test_an_unknown_name_or_alias_is_no_champion_yet(
    champion: Champion, bundles: tuple[Bundle, Bundle], workspace: Workspace
) -> None:
    crown(bundles[0], workspace, name="known")
    assert (champion.identity(workspace.cache), champion.resolve(workspace.cache)) == (NOBODY, None)


# -- the one there is --------------------------------------------------------------------------------------------------


def test_the_champion_is_the_bundle_that_the_alias_of_the_workspace_s_own_registry_names(
    bundles: tuple[Bundle, Bundle], workspace: Workspace
) -> None:
    crown(bundles[0], workspace, name="with space")
    champion = Champion("with space")

    assert champion.source == "models:/with space@champion"
    assert champion.identity(workspace.cache) == bundles[0].digest
    assert not (workspace.cache / "served" / "with%20space").exists(), "a key is worked out without a download"
    found = champion.resolve(workspace.cache)
    assert found is not None
    assert (found.version, found.digest) == ("1", bundles[0].digest)
    assert (found.path / "model.onnx").read_bytes() == (bundles[0].path / "model.onnx").read_bytes()


def test_another_registry_is_asked_where_the_run_names_one(
    bundles: tuple[Bundle, Bundle], workspace: Workspace, tmp_path: Path
) -> None:
    crown(bundles[0], workspace, name="elsewhere", alias="staging")
    champion = Champion("elsewhere", "staging", default_uri(workspace.root))
    elsewhere = Workspace.open(tmp_path)
    assert champion.identity(elsewhere.cache) == bundles[0].digest
    found = champion.resolve(elsewhere.cache)
    assert found is not None
    assert found.path.is_relative_to(elsewhere.cache)


def test_what_the_key_says_is_what_is_measured_although_the_alias_moved_meanwhile(
    bundles: tuple[Bundle, Bundle], workspace: Workspace
) -> None:
    crown(bundles[0], workspace, name="moves")
    champion = Champion("moves")
    before = champion.identity(workspace.cache)
    crown(bundles[1], workspace, name="moves")

    found = champion.resolve(workspace.cache)
    assert found is not None
    assert (champion.identity(workspace.cache), found.version, found.digest) == (before, "1", before)
    assert Champion("moves").identity(workspace.cache) == bundles[1].digest


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_version_that_retort_did_not_register_cannot_be_measured(
    bundles: tuple[Bundle, Bundle], workspace: Workspace
) -> None:
    crown(bundles[0], workspace, name="foreign")
    with talking_to(default_uri(workspace.root)) as client:
        client.delete_model_version_tag("foreign", "1", DIGEST_TAG)
    with pytest.raises(BadArtifact) as refused:
        Champion("foreign").identity(workspace.cache)
    assert str(refused.value) == (
        "models:/foreign@champion is version 1, which has no tag retort.digest: Retort did not register it, and it "
        "cannot be measured; give the alias to a version that `retort run` registered, or take the rules against "
        "champion out of the gate"
    )


def test_files_that_are_not_those_registered_are_refused(bundles: tuple[Bundle, Bundle], workspace: Workspace) -> None:
    crown(bundles[0], workspace, name="swapped")
    with talking_to(default_uri(workspace.root)) as client:
        client.set_model_version_tag("swapped", "1", DIGEST_TAG, "0" * 64)
    champion = Champion("swapped")
    assert champion.identity(workspace.cache) == "0" * 64
    with pytest.raises(BadArtifact, match=r"not the 000000000000 registered"):
        champion.resolve(workspace.cache)


def test_a_registry_that_is_away_is_no_missing_champion(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Transient, match=r"^the registry http://127\.0\.0\.1:\d+ cannot be reached"):
            Champion("m", tracking_uri=uri).identity(tmp_path)


@pytest.mark.parametrize(
    ("asked", "how"),
    [
        ({"task": "regression"}, "does classification, this run regression"),
        ({"texts_per_item": 2}, "reads 1 text(s) an item, this run 2"),
        (
            {"labels": ("bad", "good")},
            "answers in the labels negative, positive, this run in bad, good",
        ),
        (
            {"labels": ("positive", "negative")},
            "answers in the labels negative, positive, this run in positive, negative",
        ),
        ({"length": 64}, "reads 16 tokens, latency is measured at 64"),
    ],
)
def test_a_champion_of_another_kind_is_refused(asked: dict[str, Any], how: str, bundles: tuple[Bundle, Bundle]) -> None:
    champion = Resolved(bundles[0].path, "m", "7", bundles[0].digest)
    assert require_comparable(champion, "models:/m@champion", **OWN) == bundles[0].spec
    with pytest.raises(BadRequest) as refused:
        require_comparable(champion, "models:/m@champion", **{**OWN, **asked})
    assert str(refused.value) == (
        f"the champion models:/m@champion (version 7) {how}, so the two cannot be compared: register under another "
        "name, or take the rules against champion out of the gate"
    )


def test_a_rival_is_fetched_and_comparable_or_not_there_yet(
    bundles: tuple[Bundle, Bundle], workspace: Workspace
) -> None:
    def rival(name: str, length: int) -> Resolved | None:
        return Champion(name).rival(workspace.cache, **{**OWN, "length": length})

    crown(bundles[0], workspace, name="rival")
    found = rival("rival", 16)
    assert found is not None
    assert (found.name, found.version, found.digest) == ("rival", "1", bundles[0].digest)
    assert rival("rival not there", 16) is None
    with pytest.raises(BadRequest, match=r"^the champion models:/rival@champion \(version 1\) reads 16 tokens"):
        rival("rival", 17)
