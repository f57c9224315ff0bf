"""The README's commands, run in order as a reader would, on the smoke config in place of the demo's."""

import json
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RETORT = [sys.executable, "-c", "from pipeline.cli import main; main()"]
BLOCKS = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("retort ")]
SCRIPT = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
CURL = next(line for block in BLOCKS for line in block.splitlines() if line.startswith("curl "))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


MEASURING = ("retort bench", "retort compare")  # they take folders, and no workspace
LOADING = "retort load"  # it takes a server
MOVING = ("retort promote", "retort rollback")  # they take a second version
PLAIN = [c for c in COMMANDS if not c.startswith(("retort serve", LOADING, *MEASURING, *MOVING))]
SHORT = ("--samples", "40", "--real", "20", "--again-s", "0")


def retort(command: str, workspace: Path) -> list[str]:
    for demo, smoke in (("configs/demo.yaml", "configs/smoke.yaml"), ("retort-demo", "retort-smoke")):
        command = command.replace(demo, smoke)
    arguments = shlex.split(command)[1:]
    return [*RETORT, *arguments, "--workspace", str(workspace)]


def made(step: str, workspace: Path) -> Path:
    """What a step of the run left."""
    record = json.loads((workspace / "runs" / "smoke" / "run.json").read_text())
    return workspace / "artifacts" / str(record["steps"][step]["key"])


def run(command: str, workspace: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(retort(command, workspace), cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("command", PLAIN)
def test_a_command_of_the_readme_works_and_ends_with_one_json_line(command: str, workspace: Path) -> None:
    done = run(command, workspace)

    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout.splitlines()[-1]), dict)


@pytest.mark.timeout(900)
def test_bundles_are_measured_and_sessions_compared_as_the_readme_says(workspace: Path) -> None:
    bench, compare = (shlex.split(command)[1:] for command in COMMANDS if command.startswith(MEASURING))
    (workspace / "texts.txt").write_text("\n".join(f"Return {i} of the values that are not None." for i in range(60)))
    for name, step in (("old", "export-student"), ("new", "quantize-student")):
        (workspace / name).mkdir()
        (workspace / name / "bundle").symlink_to(made(step, workspace) / "bundle")
    done = subprocess.run([*RETORT, *bench, *SHORT], cwd=workspace, capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, 67), done.stderr  # 67: noise leaves it open
    assert set(json.loads(done.stdout.splitlines()[-1])["targets"]) == {"ort-cpu"}
    assert (workspace / "today" / "report.html").is_file()
    compare = [str(workspace / "runs" / "smoke") if each == ".retort/runs/demo" else each for each in compare]
    done = subprocess.run([*RETORT, *compare], cwd=workspace, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout.splitlines()[-1])["variants"]
    assert told["sentence"].startswith("new beside student-onnx-int8: the same file in both; ")


def test_a_second_run_of_a_finished_run_executes_no_stage(workspace: Path) -> None:
    done = run("retort run configs/demo.yaml", workspace)

    assert done.returncode == 0, done.stderr
    assert "done in" not in done.stderr
    record = json.loads((workspace / "runs" / "smoke" / "run.json").read_text())
    assert [label for label, step in record["steps"].items() if step["executed"]] == []


def test_the_summary_has_the_variants_and_their_figures(workspace: Path) -> None:
    result = json.loads(run("retort show configs/demo.yaml", workspace).stdout.splitlines()[-1])

    names = [variant["name"] for variant in result["variants"]]
    assert names == ["teacher-onnx-fp32", "student-onnx-fp32", "student-onnx-int8"]
    assert result["verdict"] == "PASS"
    assert result["model_uri"] == "models:/retort-smoke/1"
    keys = {"name", "params", "size_mb", "metric", "metric_low", "metric_high", "p50_ms", "p95_ms", "speedup_p50"}
    assert all(set(v) == keys | {"p50_ms_short", "p95_ms_short"} and None not in v.values() for v in result["variants"])


def test_a_bundle_is_read_without_retort_by_the_readmes_script(workspace: Path) -> None:
    (script,) = SCRIPT
    assert len(script.splitlines()) == 10
    bundle = made("quantize-student", workspace) / "bundle"
    there = script.replace('"bundle/"', repr(f"{bundle}/"))

    done = subprocess.run([sys.executable, "-I", "-c", there], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) in range(3)


@pytest.fixture
def served(workspace: Path) -> Iterator[str]:
    """The README's serve command, as it stands there but for a free port; yields the port."""
    command = next(command for command in COMMANDS if " serve " in command)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    arguments = retort(command.replace("--port 8000", f"--port {port}"), workspace)
    server = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert f"on http://127.0.0.1:{port}" in server.stdout.readline()
        yield port
    finally:
        server.terminate()
        server.communicate(timeout=60)
    assert server.returncode == 0


def test_the_served_model_answers_the_readmes_curl(served: str) -> None:
    arguments = shlex.split(CURL.replace("localhost:8000", f"127.0.0.1:{served}"))
    answer = json.loads(subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=True).stdout)

    assert answer["model"]["name"] == "retort-smoke"
    assert set(answer["results"][0]["scores"]) == {"huggingface-hub", "joblib", "networkx"}


def test_the_served_model_is_loaded_as_the_readme_says(served: str, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("Return the values that are not None.\nDraw a bar plot of the values.\n")
    (command,) = (shlex.split(c.replace("localhost:8000", f"127.0.0.1:{served}")) for c in COMMANDS if LOADING in c)
    done = subprocess.run([*RETORT, *command[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 67), done.stderr  # 67: the generator came late
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["points"][0]["offered_rps"] == 50


@pytest.mark.timeout(900)
def test_another_model_stays_challenger_until_people_promote_it_and_can_be_taken_back(workspace: Path) -> None:
    """After the demo's own: last, since it leaves another run there."""
    other = run("retort run configs/demo.yaml --set finetune.seed=7", workspace)
    assert other.returncode == 0, other.stderr
    came = json.loads(other.stdout.splitlines()[-1])
    assert (came["model_uri"], came["aliases"], came["promoted"]) == ("models:/retort-smoke/2", ["challenger"], False)
    champions = []
    for command in (c for c in COMMANDS if c.startswith(MOVING)):
        done = run(command, workspace)
        assert done.returncode == 0, done.stderr
        (model,) = json.loads(run("retort models --json", workspace).stdout)["models"]
        champions.append(model["aliases"]["champion"])
    assert champions == ["2", "1"]
    assert run("retort verify retort-demo", workspace).returncode == 0
