"""The register stage against a real registry, the embedded one; a version's folder is a tiny one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from judged import RegisterRun, only_tiny_versions, seal
from registries import migrated

from pipeline import kept_ledger, promotion, registration, settling
from pipeline.artifact import EVIDENCE, Artifact
from pipeline.champion import NOBODY
from pipeline.errors import BadArtifact, BadRequest, Transient
from pipeline.gates import Outcome as Answer
from pipeline.moves import MAX_WHY, Move
from pipeline.registration import read_outcome, shortened
from pipeline.tracking.client import default_uri, talking_to
from pipeline.tracking.versions import aliases_of, versions_of
from serving.bundle import read_bundle

# Raised inside MLflow's own models of its tables.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")
CHOSEN = "quantize-student"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return migrated(tmp_path_factory.mktemp("migrated") / "mlflow.db")


@pytest.fixture
def workspace(tmp_path: Path, database: Path) -> Path:
    shutil.copy(database, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture(autouse=True)
def _tiny_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    only_tiny_versions(monkeypatch)


@pytest.fixture
def first(workspace: Path) -> RegisterRun:
    return RegisterRun(workspace)


def challenger(workspace: Path, **config: Any) -> RegisterRun:
    """Another model."""
    return RegisterRun(workspace, bias=1.0, key="register-2", **config)


def registry(workspace: Path) -> dict[str, Any]:
    """Versions, aliases and moves, as one would see them from outside."""
    with talking_to(default_uri(workspace)) as client:
        moves = kept_ledger.read_chain(client, "tiny").valid()
        return {
            "versions": [version.number for version in versions_of(client, "tiny")],
            "aliases": aliases_of(client, "tiny"),
            "moves": [(entry.alias, entry.was, entry.to) for _, entry in moves],
        }


BOTH = {"challenger": "1", "champion": "1"}
FIRST_MOVES = [("challenger", None, "1"), ("champion", None, "1")]


# -- what becomes of it ------------------------------------------------------------------------------------------------


def test_the_first_version_becomes_challenger_and_champion_and_the_facts_say_so(
    first: RegisterRun, workspace: Path
) -> None:
    came = first()
    assert came.registered == registration.Given(
        name="tiny",
        version="1",
        aliases=("challenger", "champion"),
        run_id=None,
        model_uri="models:/tiny/1",
        digest=first.digest,
        tracking_uri=default_uri(workspace),
        new=True,
    )
    assert (came.promoted, came.why) == (True, "there was no champion yet")
    assert registry(workspace) == {"versions": [1], "aliases": BOTH, "moves": FIRST_MOVES}


def test_every_move_is_in_the_ledger_with_the_gate_s_reason_and_the_step_that_made_it(
    first: RegisterRun, workspace: Path
) -> None:
    first.who = "zoë"
    first()
    with talking_to(default_uri(workspace)) as client:
        entries = [entry for _, entry in kept_ledger.read_chain(client, "tiny").valid()]
    assert [entry.why for entry in entries] == [
        "int8 passes every rule: accuracy 0.87 is >= 0.855",
        "there was no champion yet; int8 passes every rule: accuracy 0.87 is >= 0.855",
    ]
    assert {entry.who for entry in entries} == {"zoë (retort run, step register-1)"}
    assert {entry.digest for entry in entries} == {first.digest}
    assert {"bundle/receipts/verdict@here.json", "manifests/benchmark.json"} <= entries[0].receipts.keys()


def test_one_that_passes_against_the_champion_takes_its_place(first: RegisterRun, workspace: Path) -> None:
    first()
    came = challenger(workspace)("PASS", "p95_ms 2 is <= 3", champion=first.digest)
    assert (came.promoted, came.registered and came.registered.aliases) == (True, ("challenger", "champion"))
    assert came.why == "it passes every rule against the champion, version 1: p95_ms 2 is <= 3"
    assert registry(workspace) == {
        "versions": [1, 2],
        "aliases": {"challenger": "2", "champion": "2"},
        "moves": [*FIRST_MOVES, ("challenger", "1", "2"), ("champion", "1", "2")],
    }


@pytest.mark.parametrize(
    ("promotion", "why", "told"),
    [
        (
            "FAIL",
            "p95_ms 4 is not <= 3",
            "it does not pass against the champion, version 1: p95_ms 4 is not <= 3",
        ),
        (
            "INCONCLUSIVE",
            "p95_ms cannot be trusted",
            "whether it passes against the champion is not known, version 1: p95_ms cannot be trusted",
        ),
        (None, "", "no rule of the gate compares with the champion, which is version 1"),
    ],
    ids=["fails", "open", "not asked"],
)
def test_every_other_one_stays_challenger_and_what_is_in_service_stays_there(
    first: RegisterRun, workspace: Path, promotion: Answer | None, why: str, told: str
) -> None:
    first()
    came = challenger(workspace)(promotion, why, champion=first.digest if promotion else None)
    assert (came.promoted, came.why) == (False, told)
    assert came.registered is not None
    assert (came.registered.version, came.registered.aliases) == ("2", ("challenger",))
    assert registry(workspace)["aliases"] == {"challenger": "2", "champion": "1"}


def test_the_champion_s_own_bytes_are_not_registered_twice(first: RegisterRun, workspace: Path) -> None:
    """Measured again a day later, the step has another key."""
    first()
    again = RegisterRun(workspace, key="register-1-of-tomorrow")
    came = again()
    assert (came.promoted, came.why) == (False, "these very bytes are version 1 already, which is the champion")
    assert came.registered is not None
    assert (came.registered.version, came.registered.new, came.registered.aliases) == ("1", False, tuple(BOTH))
    assert registry(workspace) == {"versions": [1], "aliases": BOTH, "moves": FIRST_MOVES}
    assert [path.name for path in again.out.iterdir() if path.name != EVIDENCE] == ["verdict.json"]


def test_the_champion_may_be_called_otherwise(workspace: Path) -> None:
    RegisterRun(workspace, alias="in-service")()
    assert registry(workspace)["aliases"] == {"challenger": "1", "in-service": "1"}


def test_the_artifact_keeps_the_version_s_folder_with_one_copy_of_the_bundle(first: RegisterRun) -> None:
    first()
    assert {path.name for path in first.out.iterdir()} == {"verdict.json", "version", EVIDENCE}
    assert read_bundle(first.out / "version" / "bundle").digest == first.digest


# -- killed, and gone on -----------------------------------------------------------------------------------------------


class Killed(BaseException):
    """As sudden as kill -9: nothing catches it."""


def killing(monkeypatch: pytest.MonkeyPatch, where: str, call: int, *, after: bool) -> None:
    """Die before, or after, the `call`th time that `where` is called."""
    module, name = where.rsplit(".", 1)
    real: Callable[..., Any] = getattr(__import__(module, fromlist=[name]), name)
    calls: list[int] = []

    def dying(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call and not after:
            raise Killed
        found = real(*args, **kwargs)
        if len(calls) == call:
            raise Killed
        return found

    monkeypatch.setattr(where, dying)


POINTS = [
    ("pipeline.registration.register", 1),
    ("pipeline.promotion.add_entry", 1),  # the challenger's entry; after it, the alias lags
    ("pipeline.promotion.move", 1),
    ("pipeline.promotion.add_entry", 2),  # the champion's
    ("pipeline.promotion.move", 2),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("where", "call"), POINTS, ids=lambda value: str(value).rpartition(".")[2])
def test_killed_anywhere_and_run_again_it_ends_as_if_nothing_had_happened(
    first: RegisterRun, workspace: Path, where: str, call: int, after: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        killing(patch, where, call, after=after)
        with pytest.raises(Killed):
            first()
    came = first()
    assert came.promoted
    assert registry(workspace) == {"versions": [1], "aliases": BOTH, "moves": FIRST_MOVES}
    assert came.registered is not None
    assert (came.registered.aliases, came.registered.new) == (tuple(BOTH), True), "the step made it, in whichever try"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("where", "call"), POINTS[2:], ids=lambda value: str(value).rpartition(".")[2])
def test_what_it_promoted_itself_is_not_taken_for_a_champion_that_moved_meanwhile(
    first: RegisterRun, workspace: Path, where: str, call: int, after: bool
) -> None:
    """The second one was measured beside the first; going on, it may find itself the champion."""
    first()
    second = challenger(workspace)
    with pytest.MonkeyPatch.context() as patch:
        killing(patch, where, call, after=after)
        with pytest.raises(Killed):
            second("PASS", "p95_ms 2 is <= 3", champion=first.digest)
    came = second("PASS", "p95_ms 2 is <= 3", champion=first.digest)
    assert came.promoted
    assert registry(workspace) == {
        "versions": [1, 2],
        "aliases": {"challenger": "2", "champion": "2"},
        "moves": [*FIRST_MOVES, ("challenger", "1", "2"), ("champion", "1", "2")],
    }


def test_what_people_took_back_before_it_went_on_stays_taken_back(first: RegisterRun, workspace: Path) -> None:
    first()
    second = challenger(workspace)
    second("PASS", "p95_ms 2 is <= 3", champion=first.digest)
    with talking_to(default_uri(workspace)) as client:
        promotion.rollback(client, "tiny", to=None, alias="champion", why="it is worse", who="ada")
    came = second("PASS", "p95_ms 2 is <= 3", champion=first.digest)
    assert came.promoted
    assert came.registered is not None
    assert came.registered.aliases == ("challenger",)
    assert registry(workspace)["aliases"] == {"challenger": "2", "champion": "1"}


def test_a_move_of_its_own_that_the_registry_refuses_ends_it_each_time(
    first: RegisterRun, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry is there; without its alias the version is no champion."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

    real = settling.point_alias

    def refuse(client: Any, name: str, alias: str, version: str) -> None:
        if alias == "champion":
            raise MlflowException("not this one", PERMISSION_DENIED)
        real(client, name, alias, version)

    monkeypatch.setattr(settling, "point_alias", refuse)
    uri = default_uri(workspace)
    forbidden = (
        f"the registry {uri} forbids this (HTTP 403): these credentials may only read, or are wrong; set "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of an account that may write"
    )
    for told in (forbidden, f"@champion of tiny could not be written: {forbidden}"):
        with pytest.raises(BadRequest) as refused:
            first()
        assert str(refused.value) == told
    monkeypatch.undo()
    only_tiny_versions(monkeypatch)
    assert first().promoted
    assert registry(workspace) == {"versions": [1], "aliases": BOTH, "moves": FIRST_MOVES}


# -- deleted, and registered anew --------------------------------------------------------------------------------------


def delete_model(workspace: Path) -> None:
    """As one does in MLflow's own pages: its ledger is another model and stays."""
    with talking_to(default_uri(workspace)) as client:
        client.delete_registered_model("tiny")


def test_another_model_that_gets_a_deleted_one_s_number_has_moves_of_its_own(
    first: RegisterRun, workspace: Path
) -> None:
    first()
    delete_model(workspace)
    came = challenger(workspace)()
    assert (came.promoted, came.registered and came.registered.aliases) == (True, ("challenger", "champion"))
    assert registry(workspace) == {"versions": [1], "aliases": BOTH, "moves": [*FIRST_MOVES, *FIRST_MOVES]}


def test_another_model_with_a_deleted_one_s_number_is_not_promoted_where_the_gate_says_no(
    first: RegisterRun, workspace: Path
) -> None:
    """It was killed before its first move, and a third one became champion; the ledger says that a version 1 was so."""
    first()
    delete_model(workspace)
    second, third = challenger(workspace), RegisterRun(workspace, bias=2.0, key="register-3")
    with pytest.MonkeyPatch.context() as patch:
        killing(patch, "pipeline.registration.register", 1, after=True)
        with pytest.raises(Killed):
            second()
    third()
    came = second("FAIL", "p95_ms 4 is not <= 3", champion=third.digest)
    assert (came.promoted, came.why) == (
        False,
        "it does not pass against the champion, version 2: p95_ms 4 is not <= 3",
    )
    assert registry(workspace)["aliases"] == {"challenger": "1", "champion": "2"}


def test_the_same_bytes_registered_anew_get_their_aliases_back(first: RegisterRun, workspace: Path) -> None:
    first()
    delete_model(workspace)
    came = first()
    assert (came.promoted, came.registered and came.registered.aliases) == (True, ("challenger", "champion"))
    assert registry(workspace) == {"versions": [1], "aliases": BOTH, "moves": FIRST_MOVES}


# -- others are at it --------------------------------------------------------------------------------------------------


def moved(told: str, now: str) -> str:
    return (
        "models:/tiny@champion has become another champion since its challengers were measured beside it (digest "
        f"{told}, now {now[:12]}): run again, they are measured beside the new one"
    )


def test_a_champion_that_came_since_the_benchmark_stops_the_run_before_anything_is_registered(
    first: RegisterRun, workspace: Path
) -> None:
    first()
    with pytest.raises(Transient) as refused:
        challenger(workspace)("PASS", "there is no champion yet", champion=NOBODY)
    assert str(refused.value) == moved("none", first.digest)
    assert registry(workspace)["versions"] == [1]


def test_a_champion_that_came_while_it_registered_is_not_overtaken(
    first: RegisterRun, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is challenger then; whether it beats the new one is not known."""
    first()
    other, second = RegisterRun(workspace, bias=2.0, key="register-3"), challenger(workspace)
    real = registration.register

    def overtaken(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(registration, "register", real)
        other("PASS", "p95_ms 1 is <= 3", champion=first.digest)
        return real(*args, **kwargs)

    monkeypatch.setattr(registration, "register", overtaken)
    with pytest.raises(Transient) as refused:
        second("PASS", "p95_ms 2 is <= 3", champion=first.digest)
    assert str(refused.value) == moved(first.digest[:12], other.digest)
    assert registry(workspace)["aliases"] == {"challenger": "3", "champion": "2"}


def test_a_first_champion_that_came_while_it_registered_is_not_overtaken_either(
    first: RegisterRun, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No rule compares, so no figures are missing: it stays challenger."""
    other, real = challenger(workspace), registration.register

    def overtaken(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(registration, "register", real)
        other()
        return real(*args, **kwargs)

    monkeypatch.setattr(registration, "register", overtaken)
    came = first()
    assert (came.promoted, came.why) == (
        False,
        "no rule of the gate compares with the champion, which is version 1",
    )
    assert registry(workspace)["aliases"] == {"challenger": "2", "champion": "1"}


def test_a_run_that_lost_the_race_for_challenger_makes_its_move_after_the_other_one(
    first: RegisterRun, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first()
    other, real = RegisterRun(workspace, bias=2.0, key="register-3"), promotion.add_entry

    def overtaken(*args: Any, **kwargs: Any) -> int:
        monkeypatch.setattr(promotion, "add_entry", real)
        other("FAIL", "p95_ms 4 is not <= 3", champion=first.digest)
        return real(*args, **kwargs)

    monkeypatch.setattr(promotion, "add_entry", overtaken)
    came = challenger(workspace)("FAIL", "p95_ms 5 is not <= 3", champion=first.digest)
    assert came.registered is not None
    assert came.registered.aliases == ("challenger",)
    assert registry(workspace)["moves"] == [*FIRST_MOVES, ("challenger", "1", "3"), ("challenger", "3", "2")]


def test_a_version_that_somebody_gave_the_alias_while_the_run_was_about_to_ends_it_well(
    first: RegisterRun, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first()
    real = promotion.move

    def overtaken(client: Any, name: str, move: Move) -> Any:
        monkeypatch.setattr(promotion, "move", real)
        real(client, name, Move(move.alias, move.version, "looked at it", "ann"))
        return real(client, name, move)

    monkeypatch.setattr(promotion, "move", overtaken)
    came = challenger(workspace)("FAIL", "p95_ms 4 is not <= 3", champion=first.digest)
    assert came.registered is not None
    assert came.registered.aliases == ("challenger",)
    assert registry(workspace)["moves"] == [*FIRST_MOVES, ("challenger", "1", "2")]


def test_an_alias_that_people_moved_past_the_ledger_is_not_moved_again(first: RegisterRun, workspace: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        killing(patch, "pipeline.promotion.move", 1, after=False)
        with pytest.raises(Killed):
            first()
    with talking_to(default_uri(workspace)) as client:
        client.set_registered_model_alias("tiny", "champion", "1")
    came = first()
    assert (came.promoted, came.why) == (True, registration.NO_ENTRY)


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_registry_that_is_away_may_be_tried_again(workspace: Path) -> None:
    with pytest.raises(Transient, match="cannot be reached"):
        RegisterRun(workspace, tracking_uri="http://127.0.0.1:9")()


def test_a_model_that_something_else_registered_is_left_alone(workspace: Path, first: RegisterRun) -> None:
    with talking_to(default_uri(workspace)) as client:
        client.create_registered_model("tiny")
        client.create_model_version("tiny", source=str(workspace), await_creation_for=0)
        client.set_registered_model_alias("tiny", "champion", "1")
    with pytest.raises(BadRequest, match="was registered by something else than Retort"):
        first()


def test_a_reason_that_is_too_long_for_the_ledger_is_cut_and_stays_whole_in_the_verdict(
    first: RegisterRun, workspace: Path
) -> None:
    assert (shortened("x" * MAX_WHY), len(shortened("x" * (MAX_WHY + 1)))) == ("x" * MAX_WHY, MAX_WHY)
    assert shortened("x" * (MAX_WHY + 1)).endswith("xxx...")
    with talking_to(default_uri(workspace)) as client:
        first()
        promotion.move(client, "tiny", Move("other", "1", shortened("y" * 5000), "ada"))


# -- facts -------------------------------------------------------------------------------------------------------------


def test_facts_are_read_as_they_were_sealed(first: RegisterRun, tmp_path: Path) -> None:
    came = first()
    artifact = seal(tmp_path / "out", label="register", facts=msgspec.to_builtins(came))
    again = msgspec.json.decode(msgspec.json.encode(artifact.manifest), type=type(artifact.manifest))
    assert read_outcome(Artifact(artifact.path, again)) == came


def test_facts_of_an_older_retort_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact) as refused:
        read_outcome(seal(tmp_path, label="register", facts={"verdict": {}, "registered": None}))
    assert str(refused.value).startswith("artifact register-0: its facts are of another version of Retort (")
    assert str(refused.value).endswith("); `retort run` makes it again")
