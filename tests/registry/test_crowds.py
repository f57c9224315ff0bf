"""Many at once: nothing is lost, nothing is half, nobody is told what is not so."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from offers import faults_in, leftovers_in, offer_of, version_folder, versions_in
from registries import Registry
from registry.children import pool, register_in_child

from benchmarks.crowd import all_at_once
from pipeline.errors import Failure
from pipeline.tracking.registering import KEY_TAG, Offer, register

# Raised inside MLflow's own models of its tables.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"), pytest.mark.timeout(300)]
REGISTRATIONS, AT_ONCE = 50, 8


def registered_at_once(offers: Sequence[Offer], registry: Registry, workspace: Path) -> list[str]:
    """The version that each was told, by so many processes at work."""
    with pool(AT_ONCE) as processes:
        given = (registry.uri, workspace, dict(registry.environment))
        return [told.result() for told in [processes.submit(register_in_child, offer, *given) for offer in offers]]


def test_fifty_registrations_at_once_on_postgresql_lose_nothing(
    postgres_s3: Registry, workspace: Path, tmp_path: Path
) -> None:
    """Begun at the same moment, of one model that nobody made before: all fight for its name, its experiment and the
    next number."""
    folder = version_folder(tmp_path / "version")
    offers = [offer_of(folder, name="crowd", key=f"register-{number}") for number in range(REGISTRATIONS)]

    answers = all_at_once(
        [partial(register, offer, uri=postgres_s3.uri, workspace=workspace) for offer in offers], expected=Failure
    )

    assert [answer.failed for answer in answers if answer.failed] == []
    told = [answer.value.version for answer in answers if answer.value]
    kept = {version.tags[KEY_TAG]: str(version.version) for version in versions_in(postgres_s3, "crowd")}
    assert kept == dict(zip((offer.key for offer in offers), told, strict=True))
    assert sorted(map(int, kept.values())) == list(range(1, REGISTRATIONS + 1))
    assert [fault for offer in offers for fault in faults_in(postgres_s3, offer)] == []
    assert leftovers_in(postgres_s3, offers[0]) == []


def test_one_key_registered_by_many_at_once_is_one_version(
    postgres_s3: Registry, workspace: Path, tmp_path: Path
) -> None:
    """Machines that share a registry, and no workspace whose lock would let only one of them work."""
    offer = offer_of(version_folder(tmp_path / "version"), name="one-key")

    told = registered_at_once([offer] * AT_ONCE, postgres_s3, workspace)

    (version,) = versions_in(postgres_s3, offer.name)
    assert set(told) == {str(version.version)}
    assert faults_in(postgres_s3, offer) + leftovers_in(postgres_s3, offer) == []
