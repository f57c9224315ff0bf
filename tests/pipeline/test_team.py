"""Several processes make one artifact, the one that a single process makes; what fails fails once."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from models import encoder_folder, sentences

from pipeline.artifact import Artifact, verify
from pipeline.config import load_config
from pipeline.errors import BadArtifact, BadRequest, Failure
from pipeline.progress import Silent
from pipeline.runner import run
from pipeline.team import Team, _one_voice, team_of
from pipeline.workspace import Workspace

STAGE = ("-m", "pipeline.cli", "stage", "distill")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's config whose teacher and text are here, and whose task is never read."""
    folder = tmp_path_factory.mktemp("team")
    (folder / "text.txt").write_text("\n".join(sentences(60, seed=1)))
    encoder_folder(folder / "teacher", layers=2, initializer_range=0.2)
    values = {
        "name": "a-run",
        "teacher": str(folder / "teacher"),
        "text": {"kind": "files", "files": str(folder / "text.txt")},
        "task": {"kind": "classification", "data": {"kind": "files", "train": "train.csv", "test": "test.csv"}},
        "distill": {
            "student": {"layers": 1},
            "objective": {"kind": "hidden"},
            "tokens": 900,
            "batch_tokens": 96,
            "micro_batches": 2,
            "max_length": 16,
            "precision": "fp32",
            "optimization": {"learning_rate": 0.01},
        },
        "finetune": {"max_length": 64},
        "register": {"name": "model", "gate": ["accuracy >= 0.95 * teacher"]},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **changes}


def torchrun(written: Path, workspace: Path) -> "subprocess.CompletedProcess[str]":
    """`retort stage distill` in two processes."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port())
    command = (*launcher, *STAGE, str(written), "--workspace", str(workspace))
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240, check=False)


def two_processes(written: Path, workspace: Path, *settings: str) -> tuple[list[int], str]:
    """The same without a launcher, which would hide how each ends: their exit codes, and all they say."""
    command = [sys.executable, *STAGE, str(written), "--workspace", str(workspace), *settings]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(command, env=environment(RANK=str(rank), **place), stderr=subprocess.PIPE, text=True)
            )
            for rank in range(2)
        ]
        said = "".join(process.communicate(timeout=240)[1] for process in processes)
    return [process.returncode for process in processes], said


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def weights(artifact: Artifact) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(artifact.path / "model.safetensors")


def sealed(workspace: Path) -> list[Path]:
    return list((workspace / "artifacts").iterdir())


def test_two_processes_seal_one_artifact_with_the_weights_of_one_process_and_do_nothing_once_it_is_there(
    written: Path, tmp_path: Path
) -> None:
    import numpy as np

    place = Workspace.open(tmp_path / "alone")
    alone = run(load_config(written), place, only="distill", reporter=Silent(), tracked=False)["distill"]

    first = torchrun(written, tmp_path / "team")

    assert first.returncode == 0, first.stderr
    (path,) = sealed(tmp_path / "team")
    assert path.name == alone.path.name  # a team changes no key
    together = Workspace.open(tmp_path / "team").store.get(path.name)
    assert together is not None
    verify(together)
    lines = [line for line in first.stdout.splitlines() if line.startswith("{")]
    assert [json.loads(line) for line in lines] == [{"run": "a-run", "artifacts": {"distill": str(path)}}]
    assert first.stderr.count("distill: done in") == 1
    facts, wanted = together.manifest.facts, alone.manifest.facts
    assert (facts["tokens"], facts["steps"]) == (wanted["tokens"], wanted["steps"])
    assert facts["final_loss"] == pytest.approx(wanted["final_loss"], rel=1e-4)
    found, expected = weights(together), weights(alone)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_allclose(found[name], weight, atol=1e-5, err_msg=name)

    stamps = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    assert two_processes(written, tmp_path / "team") == ([0, 0], "")
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == stamps


def test_a_team_that_cannot_share_the_micro_batches_is_refused_once_with_64(written: Path, tmp_path: Path) -> None:
    codes, said = two_processes(written, tmp_path, "--set", "distill.micro_batches=3")
    assert codes == [64, 64]
    assert said == (
        "retort: distill.micro_batches is 3, which 2 processes cannot share evenly; make it a multiple of 2, or start "
        "a number of processes that divides it\n"
    )
    assert not (tmp_path / "artifacts").exists()


def test_a_process_that_was_started_without_its_place_in_the_team_is_told_how(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BadRequest) as refused, team_of(2):
        pytest.fail("it joined")
    assert str(refused.value).startswith("WORLD_SIZE says 2 processes, but this one cannot join them: Error initializ")
    assert str(refused.value).endswith("; start them with torchrun")


def test_one_process_is_a_team_without_a_word() -> None:
    with team_of(1) as team:
        assert team == Team(rank=0, size=1)
        assert team.leads
        assert team.total([1, 2.5]) == [1, 2.5]
        assert team.gather("mine") == ["mine"]
        assert team.leaders(lambda: "said") == "said"
        module = object()
        assert team.parallel(module) is module


class Board:
    """A store that two processes share."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        return self.kept.setdefault(key, desired).encode()


@pytest.fixture(autouse=True)
def _signals_stay() -> Iterator[None]:
    import signal

    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def ends(store: Any, rank: int, error: Exception) -> BaseException:
    with pytest.raises(BaseException) as ended, _one_voice(store, rank):  # noqa: PT011
        raise error
    return ended.value


def test_the_first_failure_speaks_and_the_others_end_with_its_code() -> None:
    board = Board()
    error = BadArtifact("the text is empty")
    assert ends(board, 1, error) is error
    quiet = ends(board, 0, RuntimeError("Connection closed by peer"))
    assert isinstance(quiet, SystemExit)
    assert quiet.code == BadArtifact.exit_code


def test_a_bug_keeps_its_stack_trace_and_ends_the_others_with_1() -> None:
    board = Board()
    bug = KeyError("loss")
    assert ends(board, 0, bug) is bug
    quiet = ends(board, 1, KeyError("loss"))
    assert isinstance(quiet, SystemExit)
    assert quiet.code == Failure.exit_code


def test_where_rank_0_is_gone_with_the_store_the_others_end_without_a_word() -> None:
    class Gone:
        def compare_set(self, *_: str) -> bytes:
            raise RuntimeError("Broken pipe")

    quiet = ends(Gone(), 1, RuntimeError("Connection closed by peer"))
    assert isinstance(quiet, SystemExit)
    assert quiet.code == 1


def test_what_ends_well_says_nothing_of_a_failure() -> None:
    board = Board()
    with _one_voice(board, 0):
        pass
    assert board.kept == {}
