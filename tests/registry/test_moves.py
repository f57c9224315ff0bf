"""Moves of aliases in real registries: each is one entry, and whatever interrupts it, ledger and alias agree again."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from faults import Answer, When, through
from offers import client_of, version_folder
from registries import Registry
from registry.cutting import Breaking, faults_of_all
from registry.moving import (
    ALIAS,
    Mend,
    RollMend,
    broken_moves,
    broken_rollbacks,
    disagreements,
    entries_of,
    killed_moves,
    moving,
    register_versions,
)

from pipeline.errors import Transient
from pipeline.promotion import rollback
from pipeline.tracking.client import talking_to

# Raised inside MLflow's own models of its tables.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"), pytest.mark.timeout(300)]
REQUESTS, CHANGES = 8, 3  # at least, of a move: changes are those on disk without a server
AUTHORS = 8
UNIQUE_VIOLATION = json.dumps(
    {
        "error_code": "BAD_REQUEST",
        "message": "(psycopg2.errors.UniqueViolation) duplicate key value violates unique constraint "
        '"registered_model_tag_pk"\nDETAIL:  Key (workspace, key, name)=(default, k, m) already exists.',
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return version_folder(tmp_path_factory.mktemp("moves") / "version")


def test_a_promotion_and_its_rollback_are_two_entries_of_one_chain(
    registry: Registry, folder: Path, workspace: Path
) -> None:
    register_versions(registry, folder, workspace, "moved")

    numbers = [moving(registry.uri, "moved", version, why=f"to {version}") for version in ("1", "2")]
    with talking_to(registry.uri) as client:
        back = rollback(client, "moved", to=None, alias=ALIAS, why="it is worse", who="anna")

    entries = [entry for _, entry in entries_of(registry, "moved")]
    assert numbers == [1, 2]
    assert (back.was, back.to, back.entry_number) == ("2", "1", 3)
    assert [(entry["action"], entry["was"], entry["to"], entry["who"], entry["why"]) for entry in entries] == [
        ("promote", None, "1", "tests", "to 1"),
        ("promote", "1", "2", "tests", "to 2"),
        ("rollback", "2", "1", "anna", "it is worse"),
    ]
    assert {*entries[0]["receipts"]} == {"bundle/receipts/latency@here.json"}
    assert list(disagreements(registry, "moved")) == []


@pytest.mark.parametrize(("when", "mend"), [("before", "settle"), ("after", "settle"), ("after", "move")])
def test_a_move_cut_off_at_any_request_is_made_or_not_when_the_model_is_settled_or_moved_again(
    served: Registry, folder: Path, workspace: Path, when: When, mend: Mend
) -> None:
    found = faults_of_all(broken_moves, served, folder, workspace, Breaking(when), mend, requests=REQUESTS)
    assert found == []


@pytest.mark.parametrize(("when", "mend"), [("before", "settle"), ("before", "again"), ("after", "again")])
def test_a_rollback_cut_off_at_any_request_and_made_again_goes_back_by_one(
    served: Registry, folder: Path, workspace: Path, when: When, mend: RollMend
) -> None:
    found = faults_of_all(broken_rollbacks, served, folder, workspace, Breaking(when), mend, requests=REQUESTS)
    assert found == []


def test_one_lost_answer_makes_no_second_entry_that_counts(served: Registry, folder: Path, workspace: Path) -> None:
    how = Breaking("after", once=True)
    assert faults_of_all(broken_moves, served, folder, workspace, how, "settle", requests=REQUESTS) == []


def test_a_process_killed_at_any_commit_of_a_move_leaves_what_settling_finishes(
    empty_database: Path, folder: Path, workspace: Path
) -> None:
    assert faults_of_all(killed_moves, empty_database, folder, workspace, requests=CHANGES) == []


@pytest.mark.parametrize("write", ["registered-models/alias", "registered-models/set-tag", "model-versions/set-tag"])
def test_a_write_that_another_did_at_the_same_moment_fails_no_move(
    served: Registry, folder: Path, workspace: Path, write: str
) -> None:
    """MLflow on PostgreSQL answers so to the later one of two who write a new alias or tag at once."""
    name = f"same-moment-{write.replace('/', '-')}"
    register_versions(served, folder, workspace, name, count=1)
    with through(served) as (registry, line):
        line.clear(Answer(f"POST .*/{write}", 400, UNIQUE_VIOLATION, times=1))
        moving(registry.uri, name, "1")
        assert len(line.struck) == 1
    assert list(disagreements(served, name)) == []


def test_eight_authors_at_once_make_one_chain_and_who_lost_is_told(
    postgres_s3: Registry, folder: Path, workspace: Path
) -> None:
    register_versions(postgres_s3, folder, workspace, "raced", count=AUTHORS)
    start = Barrier(AUTHORS)

    def author(version: str) -> int | str:
        """The number of the entry, or what was said."""
        start.wait()
        try:
            return moving(postgres_s3.uri, "raced", version, who=f"author {version}")
        except Transient as lost:
            return str(lost)

    with ThreadPoolExecutor(AUTHORS) as authors:
        told = dict(zip(range(1, AUTHORS + 1), authors.map(author, map(str, range(1, AUTHORS + 1))), strict=True))

    entries = {int(head.partition(":")[0]): entry for head, entry in entries_of(postgres_s3, "raced")}
    won = {number: f"author {version}" for version, number in told.items() if isinstance(number, int)}
    assert {number: entry["who"] for number, entry in entries.items()} == won
    assert won
    for said in (said for said in told.values() if isinstance(said, str)):
        assert any(
            said.startswith(
                f"{entry['who']} moved @champion of raced to {entry['to']} first (entry {number}), so entry"
            )
            for number, entry in entries.items()
        ), said
    assert client_of(postgres_s3).get_registered_model("raced").aliases[ALIAS] == [*entries.values()][-1]["to"]
    assert list(disagreements(postgres_s3, "raced")) == []
