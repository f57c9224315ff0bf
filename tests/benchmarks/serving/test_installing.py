"""A peer's environment: made once, again when its requirements change, and told when pip cannot."""

import subprocess
from pathlib import Path

import pytest

from benchmarks.serving import contest, contestants, installing
from benchmarks.serving.contestants import Peer, plain
from benchmarks.serving.installing import install
from serving.errors import Transient


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Peer:
    """One without programs, whose environment is made without pip."""
    (tmp_path / "here/small").mkdir(parents=True)
    (tmp_path / "here/small/requirements.txt").write_text("nothing==1.0\n")
    monkeypatch.setattr(contestants, "HERE", tmp_path / "here")
    monkeypatch.setattr(installing.venv, "create", lambda folder, **_: (folder / "bin").mkdir(parents=True))
    return Peer(name="small", command=(), path="/", ready="/", body=plain)


class Pip:
    """Ends with this code, and remembers what it was asked."""

    def __init__(self, code: int = 0) -> None:
        self.code, self.asked = code, 0

    def __call__(self, command: list[str]) -> "subprocess.CompletedProcess[str]":
        self.asked += 1
        return subprocess.CompletedProcess(command, self.code, "", "ERROR: no such version\n")


def test_an_environment_is_made_once_for_the_same_requirements(peer: Peer, tmp_path: Path) -> None:
    pip = Pip()
    assert [install(peer, tmp_path / "cache", run=pip) for _ in range(2)] == [tmp_path / "cache/small/bin"] * 2
    assert pip.asked == 1
    peer.requirements.write_text("nothing==2.0\n")
    install(peer, tmp_path / "cache", run=pip)
    assert pip.asked == 2


def test_what_pip_says_is_told_and_it_is_tried_again(peer: Peer, tmp_path: Path) -> None:
    pip = Pip(code=1)
    for _ in range(2):
        with pytest.raises(Transient) as caught:
            install(peer, tmp_path / "cache", run=pip)
    assert str(caught.value) == (
        "small cannot be installed (pip ended with 1); its last lines:\n  ERROR: no such version"
    )
    assert pip.asked == 2


def test_a_peer_that_cannot_be_installed_is_left_out_with_the_reason(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Peer, __: Path) -> Path:
        raise Transient("no wheel for this machine")

    monkeypatch.setattr(contest, "install", fail)
    assert contest.installed([peer], tmp_path) == ({}, {"small": "no wheel for this machine"})
