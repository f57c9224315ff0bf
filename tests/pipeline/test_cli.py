"""`retort`: help that teaches, one message and one exit code for each failure, JSON on the last line of stdout."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import Ended, Retort, runner
from fakes import manifest_of, tiny_bundle
from models import encoder_folder, sentences

from pipeline.artifact import Artifact, sealed_files, write_json
from pipeline.cli import app
from pipeline.config import RunConfig
from pipeline.errors import FINAL_EXIT_CODES, BadArtifact, BadRequest, Failure, GateFailed, Inconclusive, Transient
from pipeline.store import DirectoryStore, RemoteStore
from pipeline.team import Team

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
SMOKE = str(Path(__file__).resolve().parents[2] / "configs" / "smoke.yaml")
WRITTEN = {
    "name": "a-run",
    "teacher": "teachers/bert",
    "text": {"kind": "files", "files": "text.txt"},
    "task": {"kind": "classification", "data": {"kind": "files", "train": "train.csv", "test": "test.csv"}},
    "register": {"name": "model", "gate": ["accuracy >= 0.95 * teacher"], "tracking_uri": "http://registry:5000"},
}

CANONICAL = RunConfig.model_validate(WRITTEN).model_dump(mode="json")


@pytest.fixture
def retort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Retort:
    """Runs the command line in this process, in an empty folder, with nothing in its environment."""
    for name in ("RETORT_WORKSPACE", "RETORT_STORE", "MLFLOW_TRACKING_URI", "RETORT_WHO", "GITHUB_ACTOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(WRITTEN))
    return path


def sealed(workspace: Path, label: str, files: dict[str, str], facts: dict[str, Any] | None = None) -> Artifact:
    """A finished artifact in the workspace, and the run's record that names it."""
    store, stage = DirectoryStore(workspace), label.partition("-")[0]
    key = f"{label}-1"
    out = store.partial(key)
    for name, content in files.items():
        (out / name).write_text(content)
    listed = sealed_files(out)
    manifest = manifest_of(key, listed, stage=stage, label=label, seconds=1.25, facts=facts or {})
    write_json(workspace / "runs" / "a-run" / "run.json", {"config": CANONICAL, "steps": {label: {"key": key}}})
    return store.publish(key, manifest)


def judged(workspace: Path, outcome: str) -> Artifact:
    """A register artifact with this verdict."""
    passed = outcome == "PASS"
    chosen = "student-onnx-int8" if passed else None
    verdict = {"verdict": outcome, "reason": "because", "chosen": chosen, "candidates": []}
    registered = {
        "model_uri": "models:/model/3",
        "name": "model",
        "version": "3",
        "aliases": ["challenger", "champion"],
        "run_id": "r1",
        "digest": "d" * 64,
        "tracking_uri": "sqlite:///x.db",
        "new": True,
    }
    facts = {"verdict": verdict, "registered": registered if passed else None, "promoted": passed, "why": "so"}
    return sealed(workspace, "register", {"verdict.json": json.dumps(verdict)}, facts)


def test_help_shows_where_to_begin_and_every_command(retort: Retort) -> None:
    told = retort("--help")
    assert told.code == 0
    assert "retort run configs/demo.yaml" in told.out
    running = ["plan", "run", "stage", "pretrain", "distill-cost", "show", "serve"]
    registry = ["promote", "rollback", "history", "models", "verify"]
    assert [*running, "bench", "load", "compare", "tune", *registry, "runs", "sync", "gc"] == COMMANDS
    assert all(f"\n  {name} " in told.out for name in COMMANDS)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "serve"])
def test_every_command_that_ends_with_a_line_of_json_prints_it_alone_where_that_is_asked_for(
    retort: Retort, name: str
) -> None:
    assert "--json" in retort(name, "--help").out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_teaches_by_an_example_that_names_it(retort: Retort, name: str) -> None:
    told = retort(name, "--help")
    assert told.code == 0
    _, _, examples = told.out.partition("Example")
    assert f"retort {name} " in examples.partition("Options:")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plain"], "retort: No such command 'plain'."),
        (["plan"], "retort: Missing argument 'CONFIG...'."),
        (["plan", SMOKE, "--untl", "export"], "retort: No such option: --untl"),
        (["run", SMOKE, "--until"], "retort: Option '--until' requires an argument."),
        (["stage"], "retort: Missing argument 'NAME'."),
        (["serve", "x", "--port", "http"], "retort: Invalid value for '--port': "),
    ],
)
def test_a_usage_error_is_one_message_and_ends_with_64(retort: Retort, arguments: list[str], message: str) -> None:
    told = retort(*arguments)
    assert (told.code, told.out) == (64, "")
    assert told.err.startswith(message)


def test_without_a_command_the_help_is_shown_and_it_is_a_usage_error(retort: Retort) -> None:
    told = retort()
    assert told.code == 64
    assert "retort run configs/demo.yaml" in told.err


def test_a_config_that_is_wrong_ends_with_64_and_the_whole_message(retort: Retort, config: Path) -> None:
    told = retort("plan", config, "--set", "finetune.sed=1")
    assert told == Ended(64, "", f"retort: config {config}:\n  finetune.sed: unknown key; did you mean 'seed'?\n")


@pytest.mark.parametrize(
    "arguments", [["stage", "quantise", SMOKE], ["run", SMOKE, "--until", "quantise"]], ids=["stage", "until"]
)
def test_an_unknown_stage_is_answered_with_those_there_are(retort: Retort, arguments: list[str]) -> None:
    assert retort(*arguments) == Ended(
        64,
        "",
        "retort: there is no stage or step 'quantise'; there are: distill, finetune, finetune-teacher, "
        "finetune-student, export, export-teacher, export-student, quantize, quantize-student, benchmark, register\n",
    )


def test_a_stage_whose_inputs_are_missing_ends_with_65(retort: Retort) -> None:
    told = retort("stage", "finetune-student", SMOKE)
    assert (told.code, told.out) == (65, "")
    assert told.err == "retort: distill is not finished, and this stage reads it; run `retort stage distill` first\n"


def test_plan_says_the_state_of_every_step_and_makes_nothing(retort: Retort, tmp_path: Path) -> None:
    told = retort("plan", SMOKE)
    assert told.code == 0
    assert told.json == {
        "run": "smoke",
        "steps": {
            "distill": "run",
            "finetune-teacher": "run",
            "finetune-student": "waits",
            "export-teacher": "waits",
            "export-student": "waits",
            "quantize-student": "waits",
            "benchmark": "waits",
            "register": "waits",
        },
    }
    assert "waits for finetune-student" in told.out
    assert {path.name for path in (tmp_path / ".retort").iterdir()} == {"cache"}


@pytest.fixture
def dirty(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"commit": "0123456789abcdef", "dirty": True}
    monkeypatch.setattr("pipeline.stages.register.git_state", lambda: state)


UNTRACEABLE = (
    "retort: the checkout differs from its commit (0123456789ab), so a registered model could not be traced to its "
    "source; commit first, or set register.allow_dirty=true (it is recorded)\n"
)


@pytest.mark.usefixtures("dirty")
def test_a_dirty_checkout_is_refused_before_anything_runs(retort: Retort, tmp_path: Path) -> None:
    assert retort("run", SMOKE, "--set", "register.allow_dirty=false") == Ended(64, "", UNTRACEABLE)
    assert not (tmp_path / ".retort" / "artifacts").exists()


@pytest.mark.usefixtures("dirty")
def test_a_dirty_checkout_may_do_what_registers_nothing_and_whatever_it_is_told_to(retort: Retort) -> None:
    assert retort("plan", SMOKE, "--set", "register.allow_dirty=false").code == 0
    told = retort("stage", "finetune-student", SMOKE, "--set", "register.allow_dirty=false")
    assert told.code == 65  # it went on to look for what it reads


FAILURES = [
    (BadRequest("no such thing"), 64),
    (BadArtifact("half of it"), 65),
    (GateFailed("FAIL: too slow"), 66),
    (Inconclusive("INCONCLUSIVE: too few"), 67),
    (Transient("no space"), 75),
    (Failure("something else"), 1),
]


def replaced_run(monkeypatch: pytest.MonkeyPatch, result: Any) -> list[tuple[Any, dict[str, Any]]]:
    """The runner returns, or raises, this; what it was asked is kept."""
    asked: list[tuple[Any, dict[str, Any]]] = []

    def run(config: Any, workspace: Any, **options: Any) -> Any:
        asked.append((config, {"workspace": workspace, **options}))
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr("pipeline.runner.run", run)
    return asked


@pytest.mark.parametrize(("failure", "code"), FAILURES, ids=lambda value: type(value).__name__)
def test_each_failure_is_its_message_and_its_exit_code(
    retort: Retort, config: Path, monkeypatch: pytest.MonkeyPatch, failure: Failure, code: int
) -> None:
    replaced_run(monkeypatch, failure)
    assert retort("run", config) == Ended(code, "", f"retort: {failure}\n")
    assert retort("stage", "export", config) == Ended(code, "", f"retort: {failure}\n")


def test_codes_that_a_job_must_not_retry_are_all_but_transient() -> None:
    assert sorted(FINAL_EXIT_CODES) == sorted(code for failure, code in FAILURES if not isinstance(failure, Transient))


def test_a_bug_keeps_its_stack_trace(retort: Retort, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced_run(monkeypatch, KeyError("student"))
    with pytest.raises(KeyError, match="student"):
        retort("run", config)


def test_an_interrupt_ends_a_real_process_with_130_and_says_how_to_go_on(config: Path) -> None:
    script = (
        "import signal, sys, time, pipeline.runner\n"
        # a shell that starts the tests in the background lets them inherit an ignored SIGINT
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pipeline.cli import main\n"
        "pipeline.runner.run = lambda *_, **__: (print('at work', flush=True), time.sleep(60))\n"
        f"sys.argv = ['retort', 'run', {str(config)!r}]\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "retort: interrupted; finished stages are kept, run again to go on\n"


def test_run_hands_over_settings_workspace_and_store(
    retort: Retort, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replaced_run(monkeypatch, {})
    settings = ["--set", "finetune.seed=5", "--set", "distill.tokens=10"]
    place = ["--workspace", tmp_path / "w", "--store", (tmp_path / "shared").as_uri()]
    told = retort("run", config, *settings, *place, "--until", "export")
    assert told.code == 0
    ((given, options),) = asked
    assert (given.finetune.seed, given.distill.tokens) == (5, 10)
    assert options["until"] == "export"
    assert options["workspace"].root == tmp_path / "w"
    assert isinstance(options["workspace"].store, RemoteStore)


def test_the_environment_names_workspace_and_store(
    retort: Retort, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replaced_run(monkeypatch, {})
    monkeypatch.setenv("RETORT_WORKSPACE", str(tmp_path / "w"))
    monkeypatch.setenv("RETORT_STORE", (tmp_path / "shared").as_uri())
    retort("run", config)
    assert asked[0][1]["workspace"].root == tmp_path / "w"
    assert isinstance(asked[0][1]["workspace"].store, RemoteStore)


@pytest.fixture
def homeless(tmp_path: Path) -> Path:
    """A config that names no registry."""
    path = tmp_path / "homeless.yaml"
    register = {name: value for name, value in WRITTEN["register"].items() if name != "tracking_uri"}
    path.write_text(yaml.safe_dump(WRITTEN | {"register": register}))
    return path


RUNNING: list[list[str]] = [["run", "--until", "export"], ["stage", "export"], ["pretrain", "--set", "pretrain={}"]]


@pytest.mark.parametrize("command", RUNNING, ids=lambda words: words[0])
def test_a_config_that_names_no_registry_has_the_one_that_is_given_and_else_the_environments(
    retort: Retort, homeless: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    asked = replaced_run(monkeypatch, {"pretrain": sealed(tmp_path / ".retort", "pretrain", {})})
    retort(*command, homeless)
    retort(*command, homeless, "--tracking-uri", "sqlite:///a: b.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://of-the-environment:5000")
    retort(*command, homeless)
    retort(*command, config)
    assert [given.register.tracking_uri for given, _ in asked] == [
        None,
        "sqlite:///a: b.db",
        "http://of-the-environment:5000",
        "http://registry:5000",
    ]


def test_a_registry_that_is_given_is_a_part_of_the_run_as_one_that_its_config_names(
    retort: Retort, homeless: Path, config: Path, tmp_path: Path
) -> None:
    sealed(tmp_path / ".retort", "export-student", {"model.onnx": "weights"})
    assert retort("show", homeless).code == 65
    shown = retort("show", homeless, "--tracking-uri", "http://registry:5000")
    assert (shown.code, shown.json) == (0, retort("show", config).json)


def test_a_secret_in_the_environments_registry_is_refused_before_anything_runs(
    retort: Retort, homeless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replaced_run(monkeypatch, {})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:s3cr3t@registry:5000")
    told = retort("run", homeless)
    assert (told.code, asked) == (64, [])
    assert "register.tracking_uri: a user or password in tracking_uri would be sealed into manifests" in told.err
    assert "s3cr3t" not in told.err


@pytest.mark.parametrize("command", RUNNING[:2], ids=lambda words: words[0])
def test_who_runs_is_who_says_so_else_who_the_environment_says_else_this_user(
    retort: Retort, config: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    asked = replaced_run(monkeypatch, {})
    monkeypatch.setattr("pipeline.moves.this_user", lambda: "ann@here")
    retort(*command, config)
    monkeypatch.setenv("GITHUB_ACTOR", "bob")
    retort(*command, config)
    retort(*command, config, "--who", "zoe")
    assert [options["who"] for _, options in asked] == ["ann@here", "bob", "zoe"]


@pytest.mark.parametrize("command", ["plan", "run", "stage export", "pretrain --set pretrain={}", "show"])
def test_json_is_all_that_is_printed_when_it_is_asked_for(
    retort: Retort, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    found = {label: sealed(tmp_path / ".retort", label, {}) for label in ("pretrain", "export-student")}
    replaced_run(monkeypatch, found)
    monkeypatch.setattr("pipeline.runner.plan", lambda *_: ())
    told = retort(*command.split(), config, "--json")
    assert (told.code, told.err) == (0, "")
    (line,) = told.out.splitlines()
    assert json.loads(line)["run"] == "a-run"


def test_several_configs_run_in_their_order_each_with_its_line(
    retort: Retort, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(WRITTEN | {"name": "other"}))
    asked = replaced_run(monkeypatch, {})
    told = retort("run", config, other, "--until", "export")
    assert [given.name for given, _ in asked] == ["a-run", "other"]
    lines = [json.loads(line) for line in told.out.splitlines() if line.startswith("{")]
    assert [line["run"] for line in lines] == ["a-run", "other"]


def test_one_wrong_config_among_several_stops_all_before_any_runs(
    retort: Retort, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replaced_run(monkeypatch, {})
    assert retort("run", config, tmp_path / "none.yaml").code == 64
    assert asked == []


def test_run_ends_with_0_and_the_model_where_one_was_registered(
    retort: Retort, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced_run(monkeypatch, {"register": judged(tmp_path / ".retort", "PASS")})
    told = retort("run", config)
    assert (told.code, told.err) == (0, "")
    came = {"aliases": ["challenger", "champion"], "promoted": True, "why": "so"}
    registered = {"run": "a-run", "verdict": "PASS", "model_uri": "models:/model/3", "variants": []}
    assert told.json == registered | came
    assert "gate:       PASS: because\n" in told.out
    assert "registered: models:/model/3, made challenger and champion\n" in told.out
    assert "promoted:   yes: so\n" in told.out
    assert "registry:   mlflow ui --backend-store-uri sqlite:///x.db\n" in told.out
    assert "serve:      retort serve models:/model@champion --tracking-uri sqlite:///x.db\n" in told.out


@pytest.mark.parametrize(("outcome", "code"), [("FAIL", 66), ("INCONCLUSIVE", 67)])
@pytest.mark.parametrize("command", [["run"], ["stage", "register"]], ids=lambda command: command[0])
def test_the_verdict_becomes_the_exit_code_after_the_summary(
    retort: Retort, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: str, code: int, command: Any
) -> None:
    replaced_run(monkeypatch, {"register": judged(tmp_path / ".retort", outcome)})
    told = retort(*command, config)
    assert (told.code, told.err) == (code, f"retort: {outcome}: because\n")
    assert told.json["run"] == "a-run"
    if command == ["run"]:
        assert told.json == {"run": "a-run", "verdict": outcome, "model_uri": None, "variants": []}
        kept = tmp_path / ".retort" / "runs" / "a-run" / "verdict.json"
        assert json.loads(kept.read_text())["verdict"] == outcome


def test_stage_says_where_what_it_made_lies(
    retort: Retort, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {label: sealed(tmp_path / ".retort", label, {}) for label in ("distill", "export-teacher", "export-student")}
    asked = replaced_run(monkeypatch, made)
    folders = {label: str(artifact.path) for label, artifact in made.items()}
    told = retort("stage", "export", config)
    exported = {label: folders[label] for label in ("export-teacher", "export-student")}
    assert told.json == {"run": "a-run", "artifacts": exported}
    assert asked[0][1]["only"] == "export"
    told = retort("stage", "export-student", config)
    assert told.json == {"run": "a-run", "artifacts": {"export-student": folders["export-student"]}}


def test_stage_shows_how_several_processes_are_started(retort: Retort) -> None:
    told = " ".join(retort("stage", "--help").out.split())
    assert "torchrun --nproc-per-node 4 -m pipeline.cli stage distill configs/demo.yaml" in told


@pytest.mark.parametrize("arguments", [["run"], ["stage", "distill"], ["pretrain"]], ids=lambda words: words[0])
def test_a_command_that_trains_takes_its_place_in_the_team_that_was_launched(
    retort: Retort, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """A follower of rank 0 says nothing."""
    joined: list[int] = []

    @contextmanager
    def team_of(processes: int) -> Iterator[Team]:
        joined.append(processes)
        yield Team(rank=1, size=processes)

    made = sealed(tmp_path / ".retort", "pretrain", {})
    asked = replaced_run(monkeypatch, {"pretrain": made})
    monkeypatch.setattr("pipeline.team.team_of", team_of)
    monkeypatch.setenv("WORLD_SIZE", "3")
    told = retort(*arguments, config, "--set", "pretrain={}")
    assert (told, joined) == (Ended(0, "", ""), [3])
    assert [options["team"] for _, options in asked] == [Team(rank=1, size=3)]


def test_pretrain_without_its_section_says_what_to_write(retort: Retort, config: Path, tmp_path: Path) -> None:
    assert retort("pretrain", config) == Ended(
        64,
        "",
        "retort: the config of a-run has no `pretrain` section, which says how long and from where; add one, or "
        "--set 'pretrain={tokens: 2_000_000}'\n",
    )
    assert list((tmp_path / ".retort").iterdir()) == []


def test_pretrain_ends_after_the_teacher_and_says_where_it_lies_and_what_it_learnt(
    retort: Retort, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sealed(tmp_path / ".retort", "pretrain", {}, {"masked_accuracy": 0.5})
    asked = replaced_run(monkeypatch, {"pretrain": made})
    told = retort("pretrain", config, "--set", "pretrain={tokens: 2_000_000}")
    assert told.json == {"run": "a-run", "teacher": str(made.path), "masked_accuracy": 0.5}
    ((given, options),) = asked
    assert given.pretrain.tokens == 2_000_000
    assert options["until"] == "pretrain"


def test_distill_cost_measures_each_pass_and_keeps_nothing(retort: Retort, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join(sentences(60)))
    encoder_folder(tmp_path / "teacher", layers=2)
    distill = {
        "tokens": 100_000,
        "batch_tokens": 64,
        "max_length": 16,
        "student": {"layers": 1},
        "objective": {"kind": "hidden"},
        "students": {"long": {"tokens": 200_000}, "small": {}, "still": {"objective": {"kind": "none"}}},
    }
    path = tmp_path / "run.yaml"
    teacher = {"teacher": str(tmp_path / "teacher"), "finetune": {"max_length": 64}}
    path.write_text(yaml.safe_dump(WRITTEN | teacher | {"distill": distill}))

    told = retort("distill-cost", path, "--steps", "3", "--workspace", tmp_path / "w")

    assert (told.code, told.json["run"]) == (0, "a-run")
    (cost,) = told.json["passes"]
    assert (cost["students"], cost["tokens"], cost["measured_steps"]) == (["long", "small"], 200_000, 3)
    assert 0 <= cost["seconds_low"] <= cost["seconds"] <= cost["seconds_high"]
    assert cost["seconds"] == pytest.approx(200_000 / cost["tokens_per_s"])
    assert cost["steps"] >= 200_000 / 64
    assert {"memory_gb", "gpu_memory_gb", "checkpoint_mb", "padding_share", "first_step_s"} <= cost.keys()
    assert {"device", "threads", "precision", "relation_kl"} <= cost.keys()
    assert "what the distillation of a-run will take here" in told.out
    assert "long, small" in told.out
    assert "3 steps measured" in told.out
    assert {file.name for file in (tmp_path / "w").iterdir()} <= {"cache"}


def test_distill_cost_of_too_few_steps_is_a_usage_error(retort: Retort, config: Path) -> None:
    told = retort("distill-cost", config, "--steps", "1")
    message = "retort: Invalid value for '--steps': Input should be greater than or equal to 2\n"
    assert told == Ended(64, "", message)


def test_show_of_a_run_that_is_not_there_says_what_makes_it(retort: Retort, config: Path, tmp_path: Path) -> None:
    message = f"retort: nothing of the run 'a-run' is in {tmp_path / '.retort'}; `retort run` makes it\n"
    assert retort("show", config) == Ended(65, "", message)


def test_show_lists_the_finished_steps_where_nothing_is_measured_yet(
    retort: Retort, config: Path, tmp_path: Path
) -> None:
    sealed(tmp_path / ".retort", "export-student", {"model.onnx": "weights"})
    told = retort("show", config)
    assert told.code == 0
    assert "finished steps of a-run" in told.out
    assert "export-student" in told.out
    assert told.json == {"run": "a-run", "verdict": None, "model_uri": None, "variants": []}


def test_show_of_a_failed_gate_is_no_failure(retort: Retort, config: Path, tmp_path: Path) -> None:
    judged(tmp_path / ".retort", "FAIL")
    told = retort("show", config)
    assert (told.code, told.json["verdict"]) == (0, "FAIL")


def test_verify_names_what_it_found_whole(retort: Retort, config: Path, tmp_path: Path) -> None:
    artifact = sealed(tmp_path / ".retort", "export-student", {"model.onnx": "weights"})
    bundle = tiny_bundle(tmp_path / "bundle")
    assert retort("verify", config, artifact.path, bundle.path).json == {
        "verified": [
            f"export-student {artifact.digest}",
            f"{artifact.path} {artifact.digest}",
            f"{bundle.path} {bundle.digest}",
        ]
    }


def test_verify_of_a_tampered_artifact_ends_with_65(retort: Retort, config: Path, tmp_path: Path) -> None:
    path = sealed(tmp_path / ".retort", "export-student", {"model.onnx": "weights"}).path
    (path / "model.onnx").write_text("Weights")
    message = (
        "retort: artifact export-student-1: model.onnx was altered after it was sealed; "
        f"remove {path} and run again to rebuild it\n"
    )
    assert retort("verify", config) == retort("verify", path) == Ended(65, "", message)


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0")])
def test_onnxruntime_reports_to_nobody_unless_that_is_wanted(
    retort: Retort, monkeypatch: pytest.MonkeyPatch, before: str | None, after: str
) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", before or "")
    if before is None:
        monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    assert retort("verify", "nowhere").code == 64
    assert os.environ["ORT_DISABLE_TELEMETRY"] == after


def serve_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    calls: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr("serving.__main__.serve", lambda source, **options: calls.append((source, options)))
    return calls


def test_serve_of_a_config_serves_the_model_it_registers(
    retort: Retort, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = serve_calls(monkeypatch)
    assert retort("serve", config, "--port", "0").code == 0
    ((source, options),) = calls
    assert source == "models:/model@champion"
    assert (options["tracking_uri"], options["port"]) == ("http://registry:5000", 0)


@pytest.mark.parametrize(
    ("arguments", "uri"),
    [([], "sqlite:///{}/w/mlflow.db"), (["--tracking-uri", "http://other:1"], "http://other:1")],
)
def test_serve_follows_the_registry_of_the_workspace_or_the_one_it_is_given(
    retort: Retort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], uri: str
) -> None:
    calls = serve_calls(monkeypatch)
    assert retort("serve", "models:/m@champion", "--workspace", tmp_path / "w", *arguments).code == 0
    assert calls[0][0] == "models:/m@champion"
    assert calls[0][1]["tracking_uri"] == uri.format(tmp_path)
