"""A registration that ends at any request, commit or file leaves no version or a complete one, and the next try of the
same key ends with exactly one."""

from pathlib import Path

import pytest
from faults import When
from offers import version_folder
from registries import Registry
from registry.cutting import (
    Breaking,
    broken_registrations,
    faults_of_all,
    killed_registrations,
    registrations_of_dying_servers,
)

# Raised inside MLflow's own models of its tables.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"), pytest.mark.timeout(300)]
REQUESTS, CHANGES = 20, 15  # at least, of a registration of even the smallest version: those on disk without a server
COMMITS = 5  # and those of a server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return version_folder(tmp_path_factory.mktemp("cuts") / "version")


@pytest.mark.parametrize(("kind", "when"), [("served", "before"), ("served", "after"), ("postgres_direct_s3", "after")])
def test_a_registration_cut_off_at_any_request_is_whole_or_not_there_and_finished_by_the_next_try(
    request: pytest.FixtureRequest, folder: Path, workspace: Path, kind: str, when: When
) -> None:
    registry: Registry = request.getfixturevalue(kind)
    how = Breaking(when)
    assert faults_of_all(broken_registrations, registry, folder, workspace, how, "cut", requests=REQUESTS) == []


@pytest.mark.parametrize("kind", ["served", "postgres_direct_s3"])
def test_one_lost_answer_makes_no_second_version(
    request: pytest.FixtureRequest, folder: Path, workspace: Path, kind: str
) -> None:
    """MLflow sends again what got no answer, whether or not it was done."""
    registry: Registry = request.getfixturevalue(kind)
    how = Breaking("after", once=True)
    assert faults_of_all(broken_registrations, registry, folder, workspace, how, "lost", requests=REQUESTS) == []


def test_a_process_killed_at_any_request_leaves_a_whole_version_or_none(
    served: Registry, folder: Path, workspace: Path
) -> None:
    """Killed before a request is, to the server, killed after the one before."""
    how = Breaking("after", kill=True)
    assert faults_of_all(broken_registrations, served, folder, workspace, how, "killed", requests=REQUESTS) == []


def test_a_process_killed_at_any_commit_or_file_of_the_embedded_registry_leaves_a_whole_version_or_none(
    empty_database: Path, folder: Path, workspace: Path
) -> None:
    assert faults_of_all(killed_registrations, empty_database, folder, workspace, requests=CHANGES) == []


def test_a_server_killed_at_any_commit_leaves_a_whole_version_or_none_and_the_next_one_finishes_it(
    empty_database: Path, folder: Path, workspace: Path
) -> None:
    given = (registrations_of_dying_servers, empty_database, folder, workspace)
    assert faults_of_all(*given, requests=COMMITS) == []
