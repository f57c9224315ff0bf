"""`retort gc` from the command line: what it prints, the last line, exit codes, and what it asks for."""

import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from commands import Retort, runner
from fakes import manifest_of

from pipeline.artifact import sealed_files, write_json
from pipeline.commands.retention import told_size
from pipeline.store import DirectoryStore
from pipeline.workspace import RECORD

NEEDED, NOT = "export-" + 32 * "1", "export-" + 32 * "2"
OLD = datetime.fromtimestamp(time.time() - 20.5 * 86_400, tz=UTC).isoformat(timespec="seconds")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace with an artifact that a run of today needs, and one that nobody does."""
    store = DirectoryStore(tmp_path / "workspace")
    for key in (NEEDED, NOT):
        out = store.partial(key)
        (out / "weights").write_bytes(bytes(2_000_000))
        store.publish(key, manifest_of(key, sealed_files(out), finished_at=OLD))
    write_json(store.root / "runs" / "demo" / RECORD, {"name": "demo", "config": {}, "steps": {"a": {"key": NEEDED}}})
    return store.root


@pytest.fixture
def retort(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Retort:
    for name in ("MLFLOW_TRACKING_URI", "RETORT_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RETORT_WORKSPACE", str(root))
    return runner(monkeypatch, capsys)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "artifacts").iterdir())


def test_without_apply_it_says_what_would_go_and_why_and_what_is_kept_and_why(retort: Retort, root: Path) -> None:
    told = retort("gc")
    assert (told.code, told.err) == (0, "")
    lines = [" ".join(line.split()) for line in told.out.splitlines()]
    would, kept = lines.index("would go"), lines.index("kept")
    assert (
        f"artifacts/{NOT} 2.0 MB no registered version and no recent run needs it; sealed 20 days ago" in lines[:kept]
    )
    assert f"artifacts/{NEEDED} 2.0 MB run demo, less than a minute ago" in lines[kept:]
    assert would < kept
    assert lines[-4:-1] == [
        f"workspace: {root}",
        "registries: none",
        "total: 1 would go, 2.0 MB; nothing is changed: --apply removes them",
    ]
    assert names(root) == [NEEDED, NOT]


def test_the_last_line_is_json_and_with_json_the_only_one(retort: Retort, root: Path) -> None:
    told, alone = retort("gc"), retort("gc", "--json")
    assert told.json == alone.json
    assert alone.out.count("\n") == 1
    sealed = {"kind": "artifact", "size_bytes": told.json["size_bytes"]}
    assert told.json == {
        "workspace": str(root),
        "applied": False,
        "size_bytes": told.json["goes"][0]["size_bytes"],
        "goes": [
            {
                "path": f"artifacts/{NOT}",
                "why": "no registered version and no recent run needs it; sealed 20 days ago",
                **sealed,
            }
        ],
        "kept": [{"path": f"artifacts/{NEEDED}", "why": "run demo, less than a minute ago", **sealed}],
        "left": [],
        "registries": [],
    }


def test_with_apply_it_is_gone(retort: Retort, root: Path) -> None:
    told = retort("gc", "--apply")
    assert (told.code, told.json["applied"]) == (0, True)
    assert [item["path"] for item in told.json["goes"]] == [f"artifacts/{NOT}"]
    assert "total:      1 removed, 2.0 MB" in told.out.splitlines()
    assert names(root) == [NEEDED]
    again = retort("gc", "--apply")
    assert (again.json["goes"], again.json["size_bytes"]) == ([], 0)


def test_days_and_runs_say_what_is_recent(retort: Retort, root: Path) -> None:
    long_ago = time.time() - 40 * 86_400
    os.utime(root / "runs" / "demo" / RECORD, (long_ago, long_ago))
    assert retort("gc").json["kept"][0]["why"] == "run demo, 40 days ago"
    assert retort("gc", "--keep-runs", "0").json["kept"] == []
    assert retort("gc", "--keep-runs", "0", "--keep-days", "41").json["kept"] != []
    assert retort("gc", "--keep-runs", "0", "--keep-days", "inf").json["kept"] != []
    assert [retort("gc", "--keep-days", days).code for days in ("-1", "nan")] == [64, 64]


def test_a_registry_that_cannot_be_reached_is_75_and_nothing_is_removed(
    retort: Retort, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
    told = retort("gc", "--apply", "--tracking-uri", uri)
    assert told.code == 75
    assert told.err.startswith("retort: nothing is removed, since what a registry needs is unknown: ")
    assert uri in told.err
    assert told.err.endswith(f"; if it is gone for good, add --forget {uri}\n")
    assert told.out == ""
    assert names(root) == [NEEDED, NOT]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert retort("gc", "--apply").code == 75
    assert retort("gc", "--apply", "--forget", uri).code == 0
    assert names(root) == [NEEDED]


def test_a_shared_store_is_left_alone_and_said_so(retort: Retort, tmp_path: Path) -> None:
    told = retort("gc", "--apply", "--store", (tmp_path / "there").as_uri())
    line = f"store:      {(tmp_path / 'there').as_uri()} is left alone: what is removed here is fetched from there"
    assert line in told.out.splitlines()
    assert not (tmp_path / "there").exists()


def test_a_folder_that_is_no_workspace_is_refused_and_not_made_one(retort: Retort, tmp_path: Path) -> None:
    told = retort("gc", "--workspace", tmp_path / "nowhere")
    assert (told.code, told.err) == (
        64,
        f"retort: {tmp_path}/nowhere is no workspace: it has neither artifacts nor runs; name the one to be cleared "
        "with --workspace\n",
    )
    assert not (tmp_path / "nowhere").exists()


def test_names_are_printed_as_they_are(retort: Retort, root: Path) -> None:
    (root / "artifacts" / "[red]mine").mkdir()
    assert "artifacts/[red]mine" in retort("gc").out


@pytest.mark.parametrize(
    ("size_bytes", "told"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (3.2e12, "3,200.0 GB")],
)
def test_a_size_is_told_in_the_unit_that_suits_it(size_bytes: int, told: str) -> None:
    assert told_size(size_bytes) == told


def test_it_is_among_the_commands(retort: Retort) -> None:
    assert "gc" in [line.split()[0] for line in retort("--help").out.splitlines() if line.strip()]
    assert json.loads(retort("gc", "--json").out)["applied"] is False
