"""Servers from start to end: ours, and a peer that is made up, in real processes."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import tiny_bundle

from benchmarks.serving import contestants, running
from benchmarks.serving.contest import Contest, Installed
from benchmarks.serving.contestants import OURS, Peer, plain
from benchmarks.serving.processes import tree
from benchmarks.serving.running import peer_server
from benchmarks.serving.starts import measure_starts
from serving.bundle import Bundle
from serving.errors import Failure, Transient

PROGRAMS = Path(sys.executable).parent
ANSWERS = """
import http.server, json, subprocess, sys
from classifier import told

subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"results": [{"score": 0.75, "of": asked["texts"]}], "told": told()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", told()["port"]), Handler).serve_forever()
"""
CLASSIFIER = """
import json
from pathlib import Path

def told():
    return json.loads(Path("peer.json").read_text())
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "bundle")


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Peer]:
    """A peer of these files."""
    here = tmp_path / "peers"
    (here / "made-up").mkdir(parents=True)
    (here / "classifier.py").write_text(CLASSIFIER)
    monkeypatch.setattr(contestants, "HERE", here)
    monkeypatch.setattr(running, "CLASSIFIER", here / "classifier.py")

    def make(**files: str) -> Peer:
        for name, source in files.items():
            (here / "made-up" / f"{name}.py").write_text(source)
        return Peer(
            name="made-up", command=("{bin}/python", "server.py"), path="/classify", ready="/health", body=plain
        )

    return make


def test_a_peer_runs_in_a_folder_with_its_files_and_is_gone_with_all_it_started(
    peer: Callable[..., Peer], bundle: Bundle
) -> None:
    prepared = "from pathlib import Path\nPath('prepared').touch()"
    server = ANSWERS + "\n"
    one = peer(server=f"from pathlib import Path\nassert Path('prepared').exists()\n{server}", prepare=prepared)
    with peer_server(one, programs=PROGRAMS, bundle=bundle, cores=(), text="good") as served:
        processes = tree(served.pid)
        assert len(processes) == 2
        assert served.first["results"] == [{"score": 0.75, "of": ["good"]}]
        assert served.first["told"]["bundle"] == str(bundle.path.resolve())
        assert served.first["told"]["labels"] == list(bundle.spec.labels)
        assert served.first["told"]["max_length"] == bundle.spec.max_length
        assert min(served.ready_s, served.first_ms) > 0
    until = time.monotonic() + 20
    while any(alive(pid) for pid in processes):
        assert time.monotonic() < until, "it goes on"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "\nState:\tZ" not in status.read_text()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"server": "raise SystemExit('no such thing')"}, "made-up ended with exit code 1 before it served; its last"),
        ({"server": "", "prepare": "raise SystemExit('no')"}, "made-up cannot be prepared; its last lines:\n  no"),
    ],
)
def test_a_peer_that_does_not_start_is_told_with_its_last_lines(
    peer: Callable[..., Peer], bundle: Bundle, files: dict[str, str], message: str
) -> None:
    serving = peer_server(peer(**files), programs=PROGRAMS, bundle=bundle, cores=(), text="good")
    with pytest.raises(Failure) as caught, serving:
        pass
    assert str(caught.value).startswith(message)


def test_a_peer_that_answers_nothing_well_is_given_up(
    peer: Callable[..., Peer], bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "READY_S", 1.5)
    one = peer(server=ANSWERS.replace("send_response(200)", "send_response(404)"))  # of a POST
    serving = peer_server(one, programs=PROGRAMS, bundle=bundle, cores=(), text="good")
    with pytest.raises(Transient) as caught, serving:
        pass
    assert str(caught.value).startswith('made-up gave no good answer within 1.5 s (404: {"results": [{"score": 0.75')


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is no other core to stray to")
def test_a_peer_whose_threads_leave_its_cores_is_not_measured(peer: Callable[..., Peer], bundle: Bundle) -> None:
    one, other = sorted(os.sched_getaffinity(0))[:2]
    strayed = f"import os, threading, time\nstray = lambda: (os.sched_setaffinity(0, [{other}]), time.sleep(600))\n"
    strayed += "threading.Thread(target=stray, daemon=True).start()\n"
    serving = peer_server(peer(server=strayed + ANSWERS), programs=PROGRAMS, bundle=bundle, cores=[one], text="good")
    with pytest.raises(Failure) as caught, serving:
        pass
    told = "made-up has threads that may leave its cores"
    assert str(caught.value) == f"{told} (1 of them, it has {one}): what they take is not measured, and disturbs others"


def test_a_peer_that_fails_is_left_out_of_its_round_and_ours_goes_on(peer: Callable[..., Peer], bundle: Bundle) -> None:
    one = peer(server="raise SystemExit('no such thing')")
    contest = Contest(bundle, ("good", "bad"), {"made-up": Installed(one, PROGRAMS)}, cores=(), generator=())
    starts = measure_starts(contest, rounds=2)
    assert {name: len(each) for name, each in starts.found.items()} == {OURS: 2}
    assert list(contest.failed) == ["made-up, round 1", "made-up, round 2"]
    for why in contest.failed.values():
        assert why.startswith("made-up ended with exit code 1 before it served")


def test_ours_that_does_not_start_is_told_with_its_last_lines(bundle: Bundle) -> None:
    (bundle.path / "model.onnx").write_bytes(b"")
    contest = Contest(bundle, ("good",), {}, cores=(), generator=())
    assert measure_starts(contest, rounds=1).found == {}
    told = "retort failed in every round, the last time with: retort ended with exit code 65 before it served; its "
    with pytest.raises(Failure, match=f"^{told}last lines:\n  "):
        contest.require_round(OURS, {})


def test_everybody_s_starts_stand_side_by_side(peer: Callable[..., Peer], bundle: Bundle) -> None:
    contest = Contest(
        bundle, ("good", "bad"), {"made-up": Installed(peer(server=ANSWERS), PROGRAMS)}, cores=(), generator=()
    )
    starts = measure_starts(contest, rounds=1)
    assert json.loads(json.dumps(sorted(starts.found))) == ["made-up", OURS]
    assert [row[0] for row in starts.rows()] == [OURS, "made-up"]
    assert starts.found["made-up"][0].score == 0.75
    kept = {each.name: each.kept for each in starts.figures()}
    assert kept.keys() == {"ready", "first answer, of the steady p50", "best scores of one text, apart"}
    assert kept["best scores of one text, apart"] == "NO", "the one that is made up runs no model"
