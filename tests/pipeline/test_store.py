"""Finished artifacts by key: published by one rename here, by the last-written manifest elsewhere; one worker a key."""

import errno
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import fsspec
import pytest

from pipeline.artifact import MANIFEST, Artifact, Manifest, sealed_files, tree_digest, verify
from pipeline.errors import BadArtifact, BadRequest, Transient
from pipeline.store import DirectoryStore, RemoteStore, Store, key_lock, open_store, trouble_is_transient

KEY = "export-1"


def made(store: Store, *, weights: str = "weights", key: str = KEY) -> Artifact:
    """Work as a stage does, and publish."""
    out = store.partial(key)
    (out / "bundle").mkdir()
    (out / "bundle" / "model.onnx").write_text(weights)
    (out / "evidence").mkdir()
    (out / "evidence" / "log.txt").write_text("took a while")
    return store.publish(key, manifest_of(out, key=key))


def manifest_of(out: Path, *, key: str = KEY) -> Manifest:
    files = sealed_files(out)
    return Manifest(
        stage="export",
        label="export-student",
        key=key,
        digest=tree_digest(files),
        inputs={},
        config={},
        code="c",
        versions={},
        git={},
        machine={},
        finished_at="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        facts={},
        files=files,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "here")


def test_a_published_artifact_is_found_by_its_key(store: DirectoryStore) -> None:
    artifact = made(store)
    assert store.get(KEY) == artifact
    assert artifact.path == store.root / "artifacts" / KEY
    verify(artifact)
    assert store.get("export-2") is None


def test_what_is_half_made_is_never_taken_for_an_artifact(store: DirectoryStore) -> None:
    partial = store.partial(KEY)
    (partial / "model.onnx").write_text("half")
    assert store.get(KEY) is None
    assert partial.name == f".{KEY}.partial"
    (partial / MANIFEST).write_text("{")  # killed in the middle of sealing
    assert store.get(KEY) is None


def test_a_new_start_finds_an_empty_directory_and_the_checkpoints(store: DirectoryStore) -> None:
    (store.partial(KEY) / "half").touch()
    store.checkpoints(KEY).mkdir(parents=True)
    (store.checkpoints(KEY) / "step-1.pt").touch()
    assert list(store.partial(KEY).iterdir()) == []
    assert names(store.checkpoints(KEY)) == ["step-1.pt"]


def test_publishing_removes_the_checkpoints_of_this_key_only(store: DirectoryStore) -> None:
    for key in (KEY, "distill-1"):
        store.checkpoints(key).mkdir(parents=True)
    made(store)
    assert not store.checkpoints(KEY).exists()
    assert store.checkpoints("distill-1").exists()


def test_an_artifact_that_lost_its_manifest_is_refused_and_not_quietly_made_again(store: DirectoryStore) -> None:
    path = made(store).path
    (path / MANIFEST).unlink()
    with pytest.raises(BadArtifact, match=r"is not a finished artifact: it has no manifest\.json; remove"):
        store.get(KEY)


def test_publishing_again_replaces_what_was_there(store: DirectoryStore) -> None:
    made(store, weights="old")
    artifact = made(store, weights="new")
    assert (artifact.path / "bundle" / "model.onnx").read_text() == "new"
    assert [path.name for path in (store.root / "artifacts").iterdir()] == [KEY]


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_while_replacing_leaves_the_old_the_new_or_none_but_never_a_ruin(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    made(store, weights="old")
    rename, left = Path.rename, [renames]

    def killed_after(self: Path, target: Path) -> Path:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return rename(self, target)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    out = store.partial(KEY)
    (out / "model.onnx").write_text("new")
    manifest = manifest_of(out)
    with monkeypatch.context() as kill:
        kill.setattr(Path, "rename", killed_after)
        kill.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            store.publish(KEY, manifest)
    found = store.get(KEY)
    if found is not None:
        verify(found)
    assert [found is not None and "bundle/model.onnx" in found.manifest.files] == [renames == 0]
    verify(made(store, weights="newer"))
    assert [path.name for path in (store.root / "artifacts").iterdir()] == [KEY]


@pytest.fixture(params=["memory", "file", "path"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    there = {"memory": "memory://bucket/retort", "file": (tmp_path / "there").as_uri(), "path": str(tmp_path / "there")}
    yield there[request.param]
    fsspec.filesystem("memory").store.clear()


def machine(tmp_path: Path, name: str, url: str) -> RemoteStore:
    store = open_store(url, tmp_path / name)
    assert isinstance(store, RemoteStore)
    return store


def remote(url: str, name: str) -> tuple[fsspec.AbstractFileSystem, str]:
    files, root = fsspec.core.url_to_fs(url)
    return files, f"{root}/artifacts/{KEY}/{name}"


def test_without_a_url_the_store_is_the_directory(tmp_path: Path) -> None:
    assert isinstance(open_store(None, tmp_path), DirectoryStore)
    assert isinstance(open_store("", tmp_path), DirectoryStore)


def test_what_one_machine_made_another_fetches_and_verifies(tmp_path: Path, url: str) -> None:
    ours = made(machine(tmp_path, "a", url))
    there = machine(tmp_path, "b", url).get(KEY)
    assert there is not None
    assert there.manifest == ours.manifest
    assert there.path == tmp_path / "b" / "artifacts" / KEY
    assert names(there.path) == names(ours.path) == ["bundle/model.onnx", "evidence/log.txt", MANIFEST]
    verify(there)
    assert [path.name for path in (tmp_path / "b" / "artifacts").iterdir()] == [KEY]
    assert machine(tmp_path, "c", url).get("export-2") is None


def test_what_was_fetched_once_is_read_here(tmp_path: Path, url: str) -> None:
    made(machine(tmp_path, "a", url))
    here = machine(tmp_path, "b", url)
    fetched = here.get(KEY)
    files, model = remote(url, "bundle/model.onnx")
    files.rm(model)
    assert here.get(KEY) == fetched


def test_the_manifest_is_uploaded_last_and_taken_down_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = machine(tmp_path, "a", "memory://order")
    calls: list[str] = []
    put, rm = store._fs.put, store._fs.rm
    monkeypatch.setattr(store._fs, "put", lambda a, b: (calls.append("put " + Path(b).name), put(a, b)), raising=False)
    monkeypatch.setattr(store._fs, "rm", lambda a: (calls.append("rm " + Path(a).name), rm(a)), raising=False)
    made(store)
    assert calls == ["put model.onnx", "put log.txt", f"put {MANIFEST}"]
    calls.clear()
    made(store, weights="again")
    assert calls == [f"rm {MANIFEST}", "put model.onnx", "put log.txt", f"put {MANIFEST}"]


def test_an_upload_without_its_manifest_is_no_artifact_and_is_ended_by_whoever_made_it(
    tmp_path: Path, url: str
) -> None:
    maker = machine(tmp_path, "a", url)
    made(maker)
    files, manifest = remote(url, MANIFEST)
    files.rm(manifest)  # killed before it was uploaded
    assert machine(tmp_path, "b", url).get(KEY) is None
    assert maker.get(KEY) is not None
    assert machine(tmp_path, "b", url).get(KEY) is not None


@pytest.mark.parametrize(
    ("damage", "fault"),
    [("alter", "bundle/model.onnx was altered after it was sealed"), ("remove", "bundle/model.onnx is missing")],
)
def test_a_damaged_remote_copy_is_refused_and_leaves_nothing_here(
    tmp_path: Path, url: str, damage: str, fault: str
) -> None:
    made(machine(tmp_path, "a", url))
    files, model = remote(url, "bundle/model.onnx")
    files.rm(model)
    if damage == "alter":
        files.pipe_file(model, b"Weights")
    store = machine(tmp_path, "b", url)
    folder = files.unstrip_protocol(remote(url, "")[1].rstrip("/"))
    for _ in range(2):
        with pytest.raises(BadArtifact) as refused:
            store.get(KEY)
        assert str(refused.value) == f"the store's {folder}: {fault}; remove it there and run again"
    assert not (tmp_path / "b" / "artifacts" / KEY).exists()


def test_a_remote_manifest_cut_short_is_refused(tmp_path: Path, url: str) -> None:
    made(machine(tmp_path, "a", url))
    files, manifest = remote(url, MANIFEST)
    files.pipe_file(manifest, b'{"stage": "exp')
    with pytest.raises(BadArtifact, match="Input data was truncated"):
        machine(tmp_path, "b", url).get(KEY)


def test_fetching_does_not_disturb_who_works_on_the_same_key_here(tmp_path: Path, url: str) -> None:
    made(machine(tmp_path, "a", url))
    working = DirectoryStore(tmp_path / "b").partial(KEY)
    (working / "mine").touch()
    assert machine(tmp_path, "b", url).get(KEY) is not None
    assert names(working) == ["mine"]


def test_a_remote_store_keeps_work_and_checkpoints_here(tmp_path: Path, url: str) -> None:
    store = machine(tmp_path, "a", url)
    assert store.partial(KEY) == tmp_path / "a" / "artifacts" / f".{KEY}.partial"
    assert store.checkpoints(KEY) == tmp_path / "a" / "checkpoints" / KEY


Process = subprocess.Popen[str]


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[[str], Process]]:
    """Starts processes that want the key (see the foot of this file): make the artifact, or read what another made."""
    with ExitStack() as started:

        def start(name: str) -> Process:
            command = [sys.executable, __file__, str(tmp_path), name]
            process = started.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            started.callback(process.kill)
            return process

        yield start


def told(process: Process, line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{line}\n"


def test_one_process_works_and_the_other_waits_then_reads(tmp_path: Path, worker: Callable[[str], Process]) -> None:
    first = worker("first")
    told(first, "working")
    second = worker("second")
    told(second, "waiting")
    (tmp_path / "go").touch()
    told(first, "made first")
    told(second, "read first")
    assert (first.wait(10), second.wait(10)) == (0, 0)


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path, worker: Callable[[str], Process]) -> None:
    first = worker("first")
    told(first, "working")
    second = worker("second")
    told(second, "waiting")
    first.send_signal(signal.SIGKILL)
    told(second, "working")
    (tmp_path / "go").touch()
    told(second, "made second")
    assert (first.wait(10), second.wait(10)) == (-signal.SIGKILL, 0)
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == [KEY]


def test_locks_of_different_keys_do_not_wait_for_each_other(tmp_path: Path) -> None:
    waited: list[str] = []
    with (
        key_lock(tmp_path, "a", waiting=lambda: waited.append("a")),
        key_lock(tmp_path, "b", waiting=lambda: waited.append("b")),
    ):
        pass
    with key_lock(tmp_path, "a", waiting=lambda: waited.append("a again")):
        pass
    assert waited == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),  # safetensors
        sqlite3.OperationalError("database or disk is full"),
    ],
)
def test_a_full_disk_is_one_message_whoever_met_it(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(Transient) as refused, trouble_is_transient(tmp_path):
        raise error
    assert str(refused.value) == (
        f"no space left on the disk of {tmp_path}; finished artifacts are safe: free some space there "
        "(`retort plan` names what is kept) and run again"
    )
    assert refused.value.exit_code == 75
    assert refused.value.__cause__ is error


def test_a_full_disk_is_known_by_its_free_space_where_a_library_does_not_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4096))
    with pytest.raises(Transient, match="no space left on the disk of"), trouble_is_transient(tmp_path / "not" / "yet"):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")  # torch.save


def test_another_trouble_of_the_file_system_is_told_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(Transient) as refused, trouble_is_transient(tmp_path):
        raise OSError(errno.EROFS, "Read-only file system", "/data/x")
    assert str(refused.value) == (
        "the file system failed: [Errno 30] Read-only file system: '/data/x'; "
        "finished artifacts are safe: run again once it is mended"
    )


@pytest.mark.parametrize(
    "error",
    [KeyError("student"), RuntimeError("shapes differ"), FileNotFoundError(2, "No such file", "x"), BadRequest("no")],
)
def test_a_bug_and_a_failure_stay_what_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as raised, trouble_is_transient(tmp_path):
        raise error
    assert raised.value is error


def work(root: Path, name: str) -> None:
    """What the processes above do."""
    store = DirectoryStore(root)
    with key_lock(root, KEY, waiting=lambda: print("waiting", flush=True)):
        found = store.get(KEY)
        if found is not None:
            print("read", (found.path / "bundle" / "model.onnx").read_text(), flush=True)
            return
        print("working", flush=True)
        while not (root / "go").exists():
            time.sleep(0.01)
        print("made", (made(store, weights=name).path / "bundle" / "model.onnx").read_text(), flush=True)


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2])
