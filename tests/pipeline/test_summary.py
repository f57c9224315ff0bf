"""What a run ends with, where something was registered."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from judged import seal

from pipeline.artifact import Artifact, write_json
from pipeline.config import RunConfig
from pipeline.errors import BadArtifact
from pipeline.gates import Verdict
from pipeline.registration import Given, Outcome
from pipeline.summary import registered_lines, show_run
from pipeline.workspace import Workspace

CONFIG = RunConfig.model_validate(
    {
        "name": "tickets",
        "teacher": "package:x",
        "text": {"kind": "docstrings"},
        "task": {"kind": "classification", "data": {"kind": "docstrings"}},
        "register": {"name": "tickets", "gate": ["accuracy >= 0.9"]},
    }
)
VERDICT = Verdict("PASS", "int8 passes every rule [2 of them]", "int8", ())
GIVEN = Given(
    "tickets", "3", ("challenger", "champion"), "r1", "models:/tickets/3", "d" * 64, "http://mlflow:5000", True
)


def given(**changes: Any) -> Given:
    return msgspec.structs.replace(GIVEN, **changes)


def lines(registered: Given, *, promoted: bool, why: str = "because", alias: str = "champion") -> dict[str, str]:
    return registered_lines(Outcome(VERDICT, registered, promoted, why), registered, alias=alias)


def test_a_new_champion_is_told_with_how_to_serve_it_and_what_came_before() -> None:
    assert lines(GIVEN, promoted=True, why="there was no champion yet") == {
        "registered": "models:/tickets/3, made challenger and champion",
        "promoted": "yes: there was no champion yet",
        "registry": "http://mlflow:5000",
        "serve": "retort serve models:/tickets@champion --tracking-uri http://mlflow:5000",
        "next": "retort history tickets --tracking-uri http://mlflow:5000",
    }


def test_a_challenger_is_told_with_why_it_is_no_more_and_how_people_promote_it() -> None:
    told = lines(given(aliases=("challenger",)), promoted=False, why="no rule of the gate compares with the champion")
    assert told["registered"] == "models:/tickets/3, made challenger"
    assert told["promoted"] == "no: no rule of the gate compares with the champion"
    assert told["serve"] == "retort serve models:/tickets@champion --tracking-uri http://mlflow:5000"
    assert told["next"] == "retort promote tickets --version 3 --why '...' --tracking-uri http://mlflow:5000"


def test_another_name_for_the_champion_is_named_where_it_is_promoted_to() -> None:
    told = lines(given(aliases=("challenger",)), promoted=False, alias="live")
    assert told["next"] == (
        "retort promote tickets --version 3 --to live --why '...' --tracking-uri http://mlflow:5000"
    )
    assert told["serve"].startswith("retort serve models:/tickets@live ")


def test_what_was_there_already_is_not_called_new() -> None:
    told = lines(given(new=False), promoted=False, why="these very bytes are version 3 already, which is the champion")
    assert told["registered"] == "models:/tickets/3 already, which is challenger and champion"
    assert told["promoted"] == "these very bytes are version 3 already, which is the champion"
    assert told["next"].startswith("retort history tickets ")


def test_a_version_that_lost_its_aliases_meanwhile_has_none() -> None:
    assert lines(given(aliases=()), promoted=True)["registered"] == "models:/tickets/3, made no alias"


def test_names_with_spaces_can_be_pasted_and_a_local_registry_is_looked_at_by_mlflow() -> None:
    told = lines(given(name="my model", tracking_uri="sqlite:////w/mlflow.db"), promoted=True)
    assert told["serve"] == "retort serve 'models:/my model@champion' --tracking-uri sqlite:////w/mlflow.db"
    assert told["next"] == "retort history 'my model' --tracking-uri sqlite:////w/mlflow.db"
    assert told["registry"] == "mlflow ui --backend-store-uri sqlite:////w/mlflow.db"


# -- retort show -------------------------------------------------------------------------------------------------------


def register(tmp_path: Path, facts: Any) -> Artifact:
    folder = tmp_path / "register"
    folder.mkdir()
    write_json(folder / "verdict.json", VERDICT)
    return seal(folder, label="register", facts=facts)


def test_the_summary_has_both_answers_and_the_last_line_has_them_for_machines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = Outcome(VERDICT, GIVEN, promoted=True, why="there was no champion yet")
    place = Workspace.open(tmp_path / "w")
    told = show_run(CONFIG, place, {"register": register(tmp_path, msgspec.to_builtins(outcome))})
    assert told == {
        "run": "tickets",
        "verdict": "PASS",
        "model_uri": "models:/tickets/3",
        "variants": [],
        "aliases": ("challenger", "champion"),
        "promoted": True,
        "why": "there was no champion yet",
    }
    out = capsys.readouterr().out
    assert "gate:       PASS: int8 passes every rule [2 of them]\n" in out
    assert "registered: models:/tickets/3, made challenger and champion\n" in out
    assert "promoted:   yes: there was no champion yet\n" in out
    assert (place.run_folder("tickets") / "verdict.json").is_file()


def test_where_nothing_was_registered_nothing_is_said_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = Verdict("FAIL", "no variant passes", None, ())
    facts = msgspec.to_builtins(Outcome(failed, None, promoted=False, why="no variant passed its own rules"))
    told = show_run(CONFIG, Workspace.open(tmp_path / "w"), {"register": register(tmp_path, facts)})
    assert told == {"run": "tickets", "verdict": "FAIL", "model_uri": None, "variants": []}
    assert "registered:" not in capsys.readouterr().out


def test_a_run_of_an_older_retort_is_refused_in_one_message(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="its facts are of another version of Retort"):
        show_run(CONFIG, Workspace.open(tmp_path / "w"), {"register": register(tmp_path, {"verdict": {}})})
