"""`retort promote`, `rollback`, `history`, `models` and `verify NAME` from the command line: exit codes, what is said,
and the JSON. One sqlite registry is shared, as its migration takes seconds; each test has its own model."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Ended, Retort, runner
from fakes import tiny_bundle
from ledgers import make_old_versions, moved, named

from pipeline.kept_ledger import read_chain
from pipeline.moves import this_user
from pipeline.tracking.client import default_uri

WHY = ("--why", "it is better")


@pytest.fixture(scope="module")
def workspace(root: Path) -> Path:
    return root


@pytest.fixture
def model(client: Any, workspace: Path, request: pytest.FixtureRequest) -> str:
    """A model with three versions, whose files are those of one bundle."""
    name = f"m{abs(hash(request.node.name))}"
    bundle = tiny_bundle(workspace / "bundle")
    make_old_versions(client, name, bundle, 3)
    return name


@pytest.fixture
def retort(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Retort:
    """Runs the command line in an empty folder; the workspace is named by the environment."""
    for name in ("RETORT_STORE", "MLFLOW_TRACKING_URI", "RETORT_WHO", "GITHUB_ACTOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RETORT_WORKSPACE", str(workspace))
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys)


def rows(told: Ended) -> list[list[str]]:
    """The words of each row of the one table that was shown."""
    lines = told.out.splitlines()
    (rule,) = [at for at, line in enumerate(lines) if line.strip() and not line.strip("─ ")]
    return [line.split() for line in lines[rule + 1 : -1] if line.strip()]


def rows_before_lines(told: Ended) -> list[list[str]]:
    """The words of each row, where lines follow the table."""
    return [row for row in rows(told) if row[0].startswith("@")]


def one_line(told: Ended) -> Any:
    """The JSON of a command that was to print nothing else."""
    assert (told.code, told.err) == (0, "")
    (line,) = told.out.splitlines()
    return json.loads(line)


# -- moves -------------------------------------------------------------------------------------------------------------


def test_promote_says_what_was_moved_and_how_to_serve_it(
    retort: Retort, client: Any, model: str, workspace: Path
) -> None:
    told = retort("promote", model, "--version", "2", *WHY, "--who", "anna")
    assert (told.code, told.err) == (0, "")
    head = read_chain(client, model).head
    assert told.out.splitlines()[:-1] == [
        f"moved:      @champion of {model} names version 2 now (before: nothing)",
        f"ledger:     entry 1; `retort history {model}` shows all",
        f"serve:      retort serve models:/{model}@champion --tracking-uri {default_uri(workspace)}",
    ]
    assert told.json == {
        "model": model,
        "alias": "champion",
        "was": None,
        "to": "2",
        "entry": 1,
        "head": head,
        "model_uri": f"models:/{model}/2",
    }
    assert named(client, model) == {"champion": "2"}


def test_promote_takes_another_alias_and_prints_json_alone_where_asked(retort: Retort, client: Any, model: str) -> None:
    found = one_line(retort("promote", model, "--version", "3", "--to", "staging", *WHY, "--json"))
    assert (found["alias"], found["to"]) == ("staging", "3")
    assert named(client, model) == {"staging": "3"}


@pytest.mark.parametrize(
    ("environment", "arguments", "who"),
    [
        ({}, [], this_user()),
        ({"GITHUB_ACTOR": "octocat"}, [], "octocat"),
        ({"GITHUB_ACTOR": "octocat", "RETORT_WHO": "the night shift"}, [], "the night shift"),
        ({"RETORT_WHO": "the night shift"}, ["--who", "anna"], "anna"),
    ],
)
def test_who_moves_is_said_or_named_by_the_environment_or_is_the_machine_s_user(
    retort: Retort,
    client: Any,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    arguments: list[str],
    who: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert retort("promote", model, "--version", "1", *WHY, *arguments).code == 0
    assert read_chain(client, model).valid()[0][1].who == who


def test_rollback_goes_back_and_further_back(retort: Retort, client: Any, model: str) -> None:
    for version in ("1", "2", "3"):
        moved(client, model, version)
    found = [one_line(retort("rollback", model, "--why", "it failed", "--json")) for _ in range(2)]
    assert [(each["was"], each["to"]) for each in found] == [("3", "2"), ("2", "1")]
    told = retort("rollback", model, "--to", "3", "--why", "it was not that")
    assert (told.code, told.json["to"]) == (0, "3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["promote"], "Missing argument 'NAME'."),
        (["promote", "{}", *WHY], "--version is missing: say which version; `retort models NAME` lists them"),
        (["promote", "{}", "--version", "1"], "--why is missing: say why this is moved; the ledger keeps it"),
        (
            ["promote", "{}", "--version", "1", "--why", " "],
            "--why is blank: say why this is moved; the ledger keeps it",
        ),
        (["rollback", "{}"], "--why is missing: say why this is moved; the ledger keeps it"),
        (["promote", "{}", "--version", "9", *WHY], "model {} has no version 9; it has: 1, 2, 3"),
        (
            ["promote", "{}", "--version", "1", "--to", "v2", *WHY],
            "alias 'v2': MLflow keeps it for itself; choose another name, like champion",
        ),
        (["history", "{}", "--at", "tuesday"], "--at tuesday: expected a date or a time, as in 2026-11-17 or "),
        (["history", "{}.ledger"], "{}.ledger is the ledger of {}; name that model"),
    ],
)
def test_what_cannot_be_done_is_one_message_and_64(
    retort: Retort, client: Any, model: str, arguments: list[str], message: str
) -> None:
    told = retort(*(each.replace("{}", model) for each in arguments))
    assert (told.code, told.out) == (64, "")
    assert told.err.startswith("retort: " + message.replace("{}", model))
    assert told.err.count("\n") == 1
    assert read_chain(client, model).links == ()


def test_a_lost_race_is_told_and_ends_with_75(
    retort: Retort, client: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import promotion

    add = promotion.add_entry

    def late(*given: Any, **how: Any) -> int:
        monkeypatch.setattr(promotion, "add_entry", add)
        moved(client, model, "1", who="ben")
        return add(*given, **how)

    monkeypatch.setattr(promotion, "add_entry", late)
    assert retort("promote", model, "--version", "2", *WHY) == Ended(
        75,
        "",
        f"retort: ben moved @champion of {model} to 1 first (entry 1), so entry 2 is void and moved nothing; look at "
        f"`retort history {model}` and run again\n",
    )


@pytest.mark.parametrize("command", ["promote", "rollback"])
def test_resume_only_finishes_what_an_interruption_left(retort: Retort, client: Any, model: str, command: str) -> None:
    older = moved(client, model, "1").head
    moved(client, model, "2")
    client.set_registered_model_alias(model, "champion", "1")
    client.set_registered_model_tag(model, "retort.ledger_head", older)
    told = retort(command, model, "--resume")
    repaired = "@champion named 1, and names 2 as the ledger says"
    end = "the model says now that its ledger ends with entry 2"
    assert told.out.splitlines()[:-1] == [f"repaired:   {repaired}", f"repaired:   {end}"]
    head = read_chain(client, model).head
    assert told.json == {
        "model": model,
        "repaired": [repaired, end],
        "aliases": {"champion": "2"},
        "head": head,
        "faults": [],
        "foreign": {},
    }
    again = retort(command, model, "--resume", *WHY)
    assert again.out.splitlines()[:-1] == ["resumed:    nothing was left unfinished"]
    assert again.json["repaired"] == []
    assert len(read_chain(client, model).links) == 2


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_resume_tells_machines_too_what_it_could_not_finish(
    retort: Retort, client: Any, model: str, more: tuple[str, ...]
) -> None:
    moved(client, model, "1")
    client.set_registered_model_alias(model, "champion", "3")
    told = retort("promote", model, "--resume", *more)
    (fault,) = told.json["faults"]
    assert fault.startswith("@champion names version 3, and by entry 1 it is 1: something moved it past the ledger; ")
    assert (told.code, told.json["foreign"], f"fault:      {fault}\n" in told.out) == (0, {"champion": "3"}, not more)


def test_resume_ends_with_64_where_the_registry_refuses_what_is_to_be_written(
    retort: Retort, client: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.moves.MAX_ALIAS", 1000)
    alias = "a" * 300
    assert retort("promote", model, "--to", alias, "--version", "1", *WHY).code == 64
    told = retort("promote", model, "--resume")
    unfinished, refused = told.json["faults"]
    assert unfinished.endswith("that move is unfinished; `retort promote " + model + " --resume` finishes it")
    assert refused.startswith(f"@{alias} could not be written: the registry ")
    assert told.code == 64
    assert told.err.startswith(f"retort: @{alias} of {model} could not be written: the registry ")


@pytest.mark.parametrize(
    "arguments",
    [["promote", "m", "--version", "1", *WHY], ["rollback", "m", *WHY], ["history", "m"], ["models"], ["models", "m"]],
    ids=" ".join,
)
def test_without_a_registry_nothing_is_made(retort: Retort, tmp_path: Path, arguments: list[str]) -> None:
    place = tmp_path / "w"
    assert retort(*arguments, "--workspace", place) == Ended(
        64,
        "",
        f"retort: there is no registry at {default_uri(place)}; `retort run` makes it, or name another with "
        "--tracking-uri\n",
    )
    assert not place.exists()


def test_another_registry_is_named_by_option_or_environment(
    retort: Retort, workspace: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = ["--workspace", tmp_path / "w"]
    uri = default_uri(workspace)
    assert one_line(retort("models", model, "--json", *away, "--tracking-uri", uri))["model"] == model
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert one_line(retort("models", model, "--json", *away))["model"] == model


# -- what there is -----------------------------------------------------------------------------------------------------


def test_history_shows_every_entry_and_whether_it_counts(retort: Retort, client: Any, model: str) -> None:
    moved(client, model, "1", why="the [bold]first[/bold]")
    moved(client, model, "2", who="ben")
    first = client.get_model_version(f"{model}.ledger", "1")
    client.create_model_version(f"{model}.ledger", f"models:/{model}/1", tags=first.tags, await_creation_for=0)

    told = retort("history", model)
    first_row, second_row, void_row = rows(told)
    assert first_row[3:] == ["anna", "promote", "@champion", "-", "1", "the", "[bold]first[/bold]", "yes"]
    assert second_row[3:8] == ["ben", "promote", "@champion", "1", "2"]
    assert (void_row[0], void_row[-4:]) == ("3", ["void:", "1", "was", "first"])

    chain = read_chain(client, model)
    found = one_line(retort("history", model, "--json"))
    assert found == told.json
    assert (found["model"], found["head"], found["faults"]) == (model, chain.head, [])
    assert [(each["number"], each["sound"], each["lost_to"]) for each in found["entries"]] == [
        *((1, True, None), (2, True, None)),
        (3, True, 1),
    ]
    assert found["entries"][1]["entry"]["who"] == "ben"
    assert found["entries"][1]["entry"]["prev"] == found["entries"][0]["hash"]


def test_history_tells_faults_and_ends_well(retort: Retort, client: Any, model: str) -> None:
    moved(client, model, "1")
    client.set_model_version_tag(f"{model}.ledger", "1", "retort.entry", "nonsense \x1b[31m")
    told = retort("history", model)
    assert told.code == 0
    assert "\x1b" not in told.out
    (fault,) = told.json["faults"]
    assert f"fault:      {fault}" in told.out
    assert "unreadable" in told.out


def test_history_says_what_ran_then(retort: Retort, client: Any, model: str) -> None:
    client.set_registered_model_alias(model, "champion", "1")
    moved(client, model, "2")
    at = read_chain(client, model).valid()[0][1].at
    told = retort("history", model, "--at", at)
    assert told.json == {
        "model": model,
        "at": at,
        "named": [
            {
                "alias": "champion",
                "version": "2",
                "since": at.replace("+00:00", "Z"),
                "until": None,
                "number": 1,
                "who": "anna",
                "unknown": None,
            }
        ],
        "faults": [],
        "foreign": {},
    }
    assert rows(told) == [["@champion", "2", *at.removesuffix("+00:00").split("T"), "now", "1", "anna"]]
    before = one_line(retort("history", model, "--at", "2000-01-01", "--json"))
    assert [(each["version"], each["since"], each["number"]) for each in before["named"]] == [("1", None, None)]
    assert "before the ledger" in retort("history", model, "--at", "2000-01-01").out


def test_history_says_that_something_moved_an_alias_past_the_ledger(retort: Retort, client: Any, model: str) -> None:
    moved(client, model, "1")
    client.set_registered_model_alias(model, "champion", "3")
    told = retort("history", model, "--at", "2999-01-01")
    assert [row[:2] for row in rows_before_lines(told)] == [["@champion", "1"], ["@champion", "3"]]
    assert told.json["foreign"] == {"champion": "3"}
    assert [(each["version"], each["until"], each["unknown"]) for each in told.json["named"]] == [
        ("1", None, "until"),
        ("3", None, "since"),
    ]
    fault = "fault:      @champion names version 3, and by entry 1 it is 1: something moved it past the ledger; "
    for shown in (told, retort("history", model)):
        assert shown.code == 0
        assert fault in shown.out
    assert one_line(retort("history", model, "--json"))["foreign"] == {"champion": "3"}


def test_history_at_a_time_tells_faults_to_machines_too(retort: Retort, client: Any, model: str) -> None:
    moved(client, model, "1")
    moved(client, model, "2")
    client.delete_model_version(f"{model}.ledger", "2")
    found = one_line(retort("history", model, "--at", "2999-01-01", "--json"))
    assert [fault.partition(":")[0] for fault in found["faults"]] == ["the ledger was cut off"] * 2


def test_models_are_listed_without_their_ledgers(retort: Retort, client: Any, model: str) -> None:
    moved(client, model, "2")
    moved(client, model, "3", "challenger")
    told = retort("models")
    (row,) = [each for each in rows(told) if each[0] == model]
    assert row[1:7] == ["3", "@challenger", "3,", "@champion", "2", "3"]
    (found,) = [each for each in told.json["models"] if each["name"] == model]
    assert (found["versions"], found["aliases"], found["newest"]) == (3, {"champion": "2", "challenger": "3"}, "3")
    assert not any(each["name"].endswith(".ledger") for each in told.json["models"])
    assert one_line(retort("models", "--json")) == told.json


def test_the_versions_of_a_model_are_listed_with_what_names_them(retort: Retort, client: Any, model: str) -> None:
    client.set_model_version_tag(model, "2", "retort.variant", "student-onnx-int8")
    moved(client, model, "2")
    told = retort("models", model)
    assert [row[:2] for row in rows(told)] == [["1", "-"], ["2", "@champion"], ["3", "-"]]
    assert "student-onnx-int8" in told.out
    assert [(each["number"], each["aliases"]) for each in told.json["versions"]] == [
        (1, []),
        (2, ["champion"]),
        (3, []),
    ]
    assert told.json["versions"][1]["tags"]["retort.variant"] == "student-onnx-int8"


def test_the_versions_of_a_model_are_listed_though_its_ledger_cannot_be_read(
    retort: Retort, client: Any, model: str
) -> None:
    from pipeline.ledger import text_hash

    moved(client, model, "1")
    for tag, value in (("retort.entry", '{"schema":9}'), ("retort.entry_hash", text_hash('{"schema":9}'))):
        client.set_model_version_tag(f"{model}.ledger", "1", tag, value)
    assert retort("history", model).code == 64
    told = retort("models", model)
    assert (told.code, [each["number"] for each in told.json["versions"]]) == (0, [1, 2, 3])


def test_an_unknown_model_is_answered_with_those_there_are(retort: Retort, model: str) -> None:
    for command in ("models", "history"):
        told = retort(command, "nobody")
        assert (told.code, told.out) == (64, "")
        assert " has no model nobody; it has: " in told.err


# -- verify ------------------------------------------------------------------------------------------------------------


def test_verify_of_a_model_reads_its_ledger_and_what_its_aliases_name(
    retort: Retort, client: Any, model: str, workspace: Path
) -> None:
    moved(client, model, "1")
    told = retort("verify", model, workspace / "bundle")
    assert (told.code, told.err) == (0, "")
    assert f"model:      {model}; entries of its ledger: 1; versions read: 1\n" in told.out
    assert [each.partition(" ")[0] for each in told.json["verified"]] == [str(workspace / "bundle")]
    (found,) = told.json["models"]
    assert (found["name"], found["ok"], found["faults"], found["versions"]) == (model, True, [], ["1"])
    every = one_line(retort("verify", model, "--all", "--json"))
    assert every["models"][0]["versions"] == ["1", "2", "3"]


def test_verify_of_a_model_with_faults_tells_all_and_ends_with_65(retort: Retort, client: Any, model: str) -> None:
    moved(client, model, "1")
    client.set_registered_model_alias(model, "champion", "3")
    client.set_registered_model_tag(model, "retort.ledger_head", "9:" + "a" * 64)
    told = retort("verify", model)
    cut, past = told.json["models"][0]["faults"]
    assert cut == (
        f"the ledger was cut off: model {model} says it reached to entry 9 (aaaaaaaaaaaa), which is not there"
    )
    assert past.startswith("@champion names version 3, and by entry 1 it is 1: ")
    assert f"fault:      {cut}\nfault:      {past}\n" in told.out
    assert (told.code, told.err) == (65, f"retort: {model}: {cut}, and 1 more\n")
    assert told.json["models"][0]["ok"] is False


def test_verify_repairs_an_alias_that_lags(retort: Retort, client: Any, model: str) -> None:
    moved(client, model, "1")
    client.delete_registered_model_alias(model, "champion")
    client.delete_registered_model_tag(model, "retort.ledger_head")
    told = retort("verify", model)
    assert told.code == 0
    assert "repaired:   @champion named nothing, and names 1 as the ledger says\n" in told.out
    assert named(client, model) == {"champion": "1"}


def test_verify_of_what_is_neither_path_nor_model_says_both(retort: Retort, workspace: Path, tmp_path: Path) -> None:
    told = retort("verify", "bundel")
    assert (told.code, told.out) == (64, "")
    uri = default_uri(workspace)
    assert told.err.startswith(
        f"retort: bundel is no path here, and no registered model: the registry {uri} has no model bundel; it has: "
    )
    for path in ("configs/dmeo.yaml", "dmeo.yaml", "./m", "models:/m"):
        assert retort("verify", path) == Ended(
            64,
            "",
            f"retort: {Path(path)} is neither a config, nor an artifact (manifest.json), nor a bundle "
            "(manifest.sha256), nor a version (files.sha256), nor the name of a model\n",
        )


def test_a_folder_of_the_model_s_name_is_what_is_verified(retort: Retort, model: str, tmp_path: Path) -> None:
    tiny_bundle(tmp_path / model)
    assert retort("verify", model).json["verified"][0].startswith(f"{model} ")
