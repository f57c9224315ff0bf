"""What of a workspace may go, why, and that nothing else does: not by a kill, a link, a lock, or a registry away."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fakes import Clock, manifest_of

from pipeline import needs
from pipeline.artifact import MANIFEST, Artifact, sealed_files, write_json
from pipeline.errors import BadArtifact, BadRequest, Transient
from pipeline.events import PARENT, Closed, Opened
from pipeline.needs import Keep, ago
from pipeline.outbox import open_outbox
from pipeline.outbox_reading import EVENTS, outboxes
from pipeline.retention import Found, plan, remove
from pipeline.store import DirectoryStore, key_lock
from pipeline.tracking import versions
from pipeline.tracking.client import default_uri, talking_to
from pipeline.tracking.sent import State, write_state
from pipeline.tracking.versions import Version
from pipeline.workspace import RECORD

ROOT = Path(__file__).resolve().parents[2]
DAY = 86_400.0
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()
NOTHING = Keep(days=0, runs=0)
UNNEEDED = "no registered version and no recent run needs it; sealed 100 days ago"


class House:
    """A workspace with artifacts in it, a clock, and registries that answer what they are told to."""

    def __init__(self, root: Path) -> None:
        self.root, self.store, self.clock = root, DirectoryStore(root), Clock()
        self.clock.now = NOW
        self.registries: dict[str, dict[str, list[Version]]] = {}

    @property
    def own(self) -> str:
        return default_uri(self.root)

    def sealed(self, key: str, *reads: Artifact, days: float = 100, **told: Any) -> Artifact:
        """An artifact of so many days ago, made from others."""
        out = self.store.partial(key)
        (out / "weights").write_text(f"weights of {key}")
        told |= {"inputs": {f"role {i}": each.digest for i, each in enumerate(reads)}, "finished_at": self._at(days)}
        return self.store.publish(key, manifest_of(key, sealed_files(out), **told))

    def ran(self, name: str, *keys: str, days: float, tracking_uri: str | None = None) -> None:
        """A run of these steps, as its record has it."""
        path = self.root / "runs" / name / RECORD
        steps = {key: {"key": key, "executed": True, "digest": "d"} for key in keys}
        write_json(path, {"name": name, "config": {"register": {"tracking_uri": tracking_uri}}, "steps": steps})
        _aged(path, self.clock.now - days * DAY)

    def event(self, name: str, kind: str, key: str, *, days: float) -> None:
        """An event of a run, as the console keeps it."""
        path = self.root / "runs" / name / "events.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps({"at": NOW - days * DAY, "event": kind, "label": "l", "key": key}) + "\n")
        _aged(path, NOW - days * DAY)

    def registered(self, name: str, *tags: Mapping[str, str], uri: str | None = None, alias: int | None = None) -> None:
        """Versions 1, 2, ... of a model, each with its tags, the alias on one of them."""
        if uri is None:
            (self.root / "mlflow.db").touch()
        models = self.registries.setdefault(uri or self.own, {})
        models[name] = [
            Version(
                name, number, each, ("champion",) if number == alias else (), datetime.now(UTC), None, "models:/m-1"
            )
            for number, each in enumerate(tags, 1)
        ]

    def planned(self, keep: Keep = NOTHING, **asked: Any) -> Any:
        return plan(self.root, keep=keep, clock=self.clock, **asked)

    def found(self, keep: Keep = NOTHING, **asked: Any) -> Found:
        found: Found = self.planned(keep, **asked).told()
        return found

    def clear(self, keep: Keep = NOTHING, **asked: Any) -> Found:
        return remove(self.planned(keep, **asked))

    def _at(self, days: float) -> str:
        return datetime.fromtimestamp(self.clock.now - days * DAY, tz=UTC).isoformat(timespec="seconds")


def _aged(path: Path, at: float) -> None:
    os.utime(path, (at, at))


def whys(items: Any) -> dict[str, str]:
    return {item.path: item.why for item in items}


def judged(found: Found) -> tuple[dict[str, str], list[str]]:
    """What is kept and why, and what goes."""
    return whys(found.kept), list(whys(found.goes))


def everything(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every path with its mode, time and content."""
    return {
        path.relative_to(root).as_posix(): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(root.rglob("*"))
    }


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    house = House(tmp_path / "workspace")
    (house.root / "artifacts").mkdir(parents=True)

    @contextmanager
    def talking(uri: str) -> Iterator[Any]:
        if uri not in house.registries:
            raise Transient(f"the registry {uri} cannot be reached")
        yield house.registries[uri]

    monkeypatch.setattr(needs, "talking_to", talking)
    monkeypatch.setattr(versions, "model_names", sorted)
    monkeypatch.setattr(versions, "versions_of", lambda client, name: client[name])
    return house


# -- who needs what ----------------------------------------------------------------------------------------------------


def test_what_a_version_was_made_from_is_kept_with_all_that_this_was_made_from(house: House) -> None:
    distilled = house.sealed("distill-1")
    tuned = house.sealed("finetune-1", distilled)
    register = house.sealed("register-1", tuned)
    house.sealed("distill-2")
    house.registered("tiny", {}, {"retort.key": register.manifest.key})

    found = house.found()

    assert whys(found.kept) == {
        "artifacts/distill-1": "an input for version 2 of tiny",
        "artifacts/finetune-1": "an input for version 2 of tiny",
        "artifacts/register-1": "version 2 of tiny",
    }
    assert whys(found.goes) == {"artifacts/distill-2": UNNEEDED}
    assert (found.left, found.registries) == ((), (house.own,))


def test_what_a_version_names_by_its_digest_is_kept_where_its_register_step_was_made_elsewhere(house: House) -> None:
    distilled = house.sealed("distill-1")
    exported = house.sealed("export-1", distilled)
    house.sealed("export-2", distilled)
    house.registered("tiny", {"retort.key": "register-9", "retort.lineage.export-student": exported.digest})

    kept = {
        "artifacts/distill-1": "an input for version 1 of tiny",
        "artifacts/export-1": "version 1 of tiny",
    }
    assert judged(house.found()) == (kept, ["artifacts/export-2"])


def test_all_versions_count_and_not_only_those_that_an_alias_names(house: House) -> None:
    for key in ("register-1", "register-2", "register-3"):
        house.sealed(key)
    house.registered("tiny", {"retort.key": "register-1"}, {"retort.key": "register-2"}, alias=2)
    assert list(whys(house.found().goes)) == ["artifacts/register-3"]


def test_the_newest_runs_are_kept_whatever_their_age_and_recent_ones_however_many(house: House) -> None:
    for number, days in enumerate((40, 30, 20, 3, 2, 1)):
        house.sealed(f"export-{number}")
        house.ran(f"run{number}", f"export-{number}", days=days)

    assert whys(house.found(Keep(days=0, runs=2)).kept) == {
        "artifacts/export-4": "run run4, 2 days ago",
        "artifacts/export-5": "run run5, 1 day ago",
    }
    assert set(whys(house.found(Keep(days=25, runs=0)).kept)) == {f"artifacts/export-{n}" for n in (2, 3, 4, 5)}
    assert set(whys(house.found(Keep(days=10, runs=4)).kept)) == {f"artifacts/export-{n}" for n in (2, 3, 4, 5)}
    assert whys(house.found().kept) == {}


def test_what_a_recent_run_took_with_other_settings_is_kept_though_its_record_has_the_last_ones(house: House) -> None:
    for key in ("export-1", "export-2", "export-3"):
        house.sealed(key)
    house.event("demo", "step", "export-1", days=20)
    house.event("demo", "step", "export-2", days=5)
    house.event("demo", "step", "export-3", days=1)
    house.ran("demo", "export-3", days=1)

    assert set(whys(house.found(Keep(days=14, runs=0)).kept)) == {"artifacts/export-2", "artifacts/export-3"}
    assert set(whys(house.found(Keep(days=0, runs=1)).kept)) == {"artifacts/export-3"}


def test_what_a_run_at_work_read_is_kept_however_few_runs_are_to_be(house: House) -> None:
    distilled = house.sealed("distill-1")
    house.sealed("finetune-1", distilled)
    house.ran("demo", "distill-1", "finetune-1", days=3)
    house.event("demo", "started", "export-1", days=3)

    with key_lock(house.root, "export-1", waiting=lambda: None):
        found = house.found()

    assert set(whys(found.kept).values()) == {"run demo, at work"}
    assert set(whys(house.found().goes)) == {"artifacts/distill-1", "artifacts/finetune-1"}


def test_a_torn_line_of_a_run_s_events_is_passed_over(house: House) -> None:
    house.sealed("export-1")
    house.event("demo", "step", "export-1", days=1)
    with (house.root / "runs" / "demo" / "events.jsonl").open("a") as file:
        file.write('{"at": 1, "event": "ste')
    assert list(whys(house.found(Keep(days=14, runs=0)).kept)) == ["artifacts/export-1"]


def test_a_record_that_cannot_be_read_is_refused_since_what_its_run_needs_is_unknown(house: House) -> None:
    house.sealed("export-1")
    path = house.root / "runs" / "demo" / RECORD
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(BadArtifact) as refused:
        house.clear()
    assert str(refused.value) == f"{path} cannot be read (Input data was truncated); remove it and run again"
    assert house.store.get("export-1") is not None


# -- registries --------------------------------------------------------------------------------------------------------


def test_registries_that_runs_name_and_one_on_the_command_line_are_asked_too(house: House) -> None:
    for number in (1, 2, 3):
        house.sealed(f"register-{number}")
        house.registered("tiny", {"retort.key": f"register-{number}"}, uri=f"http://{number}")
    house.ran("demo", days=50, tracking_uri="http://1")
    house.sealed("register-4", facts={"registered": {"version": "1"}}, config={"tracking_uri": "http://2"})

    found = house.found(registry="http://3")

    assert found.registries == ("http://1", "http://2", "http://3")
    assert list(whys(found.goes)) == ["artifacts/register-4"]


def test_nothing_is_removed_where_a_registry_is_away_unless_it_is_gone_for_good(house: House) -> None:
    house.sealed("export-1")
    house.ran("demo", days=50, tracking_uri="http://me:secret@away")
    before = everything(house.root)
    with pytest.raises(Transient) as refused:
        house.clear()
    assert str(refused.value) == (
        "nothing is removed, since what a registry needs is unknown: the registry http://me:secret@away cannot be "
        "reached; if it is gone for good, add --forget http://away"
    )
    assert refused.value.exit_code == 75
    assert everything(house.root) == before
    assert list(whys(house.clear(forget=["http://away"]).goes)) == ["artifacts/export-1"]


def test_a_registry_file_that_is_gone_is_missed_where_something_was_registered_and_never_made(house: House) -> None:
    house.ran("demo", days=50, tracking_uri=f"sqlite:///{house.root}/meant.db")
    assert house.found().registries == ()
    house.sealed("register-1", facts={"registered": {"version": "1"}})
    with pytest.raises(Transient) as refused:
        house.found()
    assert str(refused.value) == (
        f"nothing is removed, since what a registry needs is unknown: there is no registry at {house.own}; if it is "
        f"gone for good, add --forget {house.own}"
    )
    with pytest.raises(Transient, match=r"there is no registry at sqlite:///typo\.db; if it is gone"):
        house.found(registry="sqlite:///typo.db", forget=[house.own])
    assert list(house.root.glob("*.db")) == []
    assert list(whys(house.found(forget=[house.own]).goes)) == ["artifacts/register-1"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")
def test_a_real_registry_is_asked(tmp_path: Path) -> None:
    house = House(tmp_path)
    register = house.sealed("register-1", house.sealed("export-1"))
    house.sealed("register-2")
    with talking_to(house.own) as client:
        client.create_registered_model("tiny")
        tags = {"retort.key": register.manifest.key}
        client.create_model_version("tiny", source=f"file://{tmp_path}/nowhere", tags=tags, await_creation_for=0)

    found = house.clear()

    assert set(whys(found.kept)) == {"artifacts/export-1", "artifacts/register-1"}
    assert list(whys(found.goes)) == ["artifacts/register-2"]


# -- dry and in earnest ------------------------------------------------------------------------------------------------


def full(house: House) -> set[str]:
    """One of each kind that goes; their paths."""
    house.sealed("export-1")
    for name in (".export-2.partial", ".export-2.old", ".export-2.fetched"):
        (house.store.empty(name) / "half").write_text("half")
    for key in ("export-1", "distill-9"):
        _old(house.root / "checkpoints" / key / "step-1.pt")
    _old(house.root / "cache" / "tmpab12_xyz" / "candidates" / "a" / "model.onnx")
    _old(house.root / "cache" / "served" / "with%20space" / "1-0123" / "model.onnx")
    _old(house.root / "cache" / "served" / "with%20space" / ".download-x" / "model.onnx")
    _old(house.root / "trash" / "export-0.abc" / "model.onnx")
    house.registered("with space", {}, {}, alias=2)
    return {
        *(
            "artifacts/export-1",
            "artifacts/.export-2.partial",
            "artifacts/.export-2.old",
            "artifacts/.export-2.fetched",
        ),
        *("checkpoints/export-1", "checkpoints/distill-9", "cache/tmpab12_xyz", "trash/export-0.abc"),
        *("cache/served/with%20space/1-0123", "cache/served/with%20space/.download-x"),
    }


def _old(path: Path, *, days: float = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("twelve bytes")
    for each in (path, *path.parents[:2]):
        _aged(each, NOW - days * DAY)


def test_what_a_server_starts_by_while_the_registry_is_away_and_its_locks_are_none_of_it(house: House) -> None:
    house.registered("known", {}, alias=1)
    _old(house.root / "cache" / "served" / "known" / "champion.alias")
    _old(house.root / "cache" / "served" / ".locks" / "known" / "1-0123.used")
    assert judged(house.found()) == ({}, [])
    house.clear()
    assert (house.root / "cache" / "served" / "known" / "champion.alias").is_file()


def test_a_dry_run_changes_nothing(house: House) -> None:
    paths = full(house)
    before = everything(house.root)
    assert set(whys(house.found().goes)) == paths
    assert everything(house.root) == before


def test_what_was_said_to_go_goes_and_nothing_else(house: House) -> None:
    paths = full(house)
    kept = house.sealed("distill-1")
    house.ran("demo", "distill-1", days=1)
    keep = Keep(days=2, runs=1)
    said = house.found(keep)
    before = {name for name in everything(house.root) if not any(Path(name).is_relative_to(path) for path in paths)}

    assert house.clear(keep) == said
    assert set(everything(house.root)) - before == {"locks", *(f"locks/{key}.lock" for key in _locks(paths))}
    assert before <= set(everything(house.root))
    assert house.store.get("distill-1") == kept
    assert whys(house.found(keep).goes) == {}


def _locks(paths: set[str]) -> set[str]:
    return {"gc", "export-1", "export-2", "export-2.fetch", "distill-9"}


def test_sizes_are_those_of_the_files(house: House) -> None:
    _old(house.root / "trash" / "export-0.abc" / "model.onnx")
    _old(house.root / "trash" / "export-0.abc" / "more" / "model.onnx")
    found = house.found()
    assert [item.size_bytes for item in found.goes] == [24]
    assert found.size_bytes == 24


def test_a_removal_says_why_each_thing_goes(house: House) -> None:
    full(house)
    assert whys(house.clear().goes) == {
        "trash/export-0.abc": "a removal that was interrupted",
        "artifacts/export-1": UNNEEDED,
        "artifacts/.export-2.partial": "what a killed run left of a step",
        "artifacts/.export-2.old": "figures that gave way to newer ones",
        "artifacts/.export-2.fetched": "what a killed fetch from the shared store left",
        "checkpoints/export-1": "its step is finished",
        "checkpoints/distill-9": "its step was never finished, and no recent run is at it; written 30 days ago",
        "cache/tmpab12_xyz": "what a killed quantize or search left",
        "cache/served/with%20space/.download-x": "a download that was killed; written 30 days ago",
        "cache/served/with%20space/1-0123": (
            "no alias names version 1 of with space; it is fetched when it is served again"
        ),
    }


def test_a_folder_that_is_no_workspace_is_refused(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BadRequest) as refused:
            plan(root, keep=Keep())
        assert str(refused.value) == (
            f"{root} is no workspace: it has neither artifacts nor runs; name the one to be cleared with --workspace"
        )
    assert list(tmp_path.iterdir()) == []


# -- unfinished work ---------------------------------------------------------------------------------------------------


def test_checkpoints_that_a_run_may_go_on_from_are_kept(house: House) -> None:
    for key, days in (("distill-1", 30), ("distill-2", 30), ("distill-3", 3), ("distill-4", 30)):
        _old(house.root / "checkpoints" / key / "step-1.pt", days=days)
    house.event("long", "started", "distill-1", days=30)
    house.event("lately", "started", "distill-2", days=13)
    kept = {
        "checkpoints/distill-1": "its step can go on from there: run long, 30 days ago",
        "checkpoints/distill-2": "its step can go on from there: run lately, 13 days ago",
        "checkpoints/distill-3": "its step can go on from there: written 3 days ago",
    }
    assert judged(house.found(Keep(days=14, runs=2))) == (kept, ["checkpoints/distill-4"])


def test_what_somebody_works_on_is_left(house: House) -> None:
    paths = full(house)
    with (
        key_lock(house.root, "export-1", waiting=lambda: None),
        key_lock(house.root, "export-2", waiting=lambda: None),
        key_lock(house.root, "distill-9", waiting=lambda: None),
    ):
        found = house.clear()
    assert whys(found.left) == {
        "artifacts/export-1": "a run is at work on it",
        "artifacts/.export-2.partial": "a run is at work on it",
        "artifacts/.export-2.old": "a run is at work on it",
        "checkpoints/export-1": "a run is at work on it",
        "checkpoints/distill-9": "a run is at work on it",
        "cache/tmpab12_xyz": "a run is at work, and may use it",
        "cache/served/with%20space/1-0123": "a run is at work, and may use it",
        "cache/served/with%20space/.download-x": "a run is at work, and may use it",
    }
    assert set(whys(found.goes)) == paths - set(whys(found.left))
    assert house.store.get("export-1") is not None


def test_what_somebody_began_to_work_on_after_it_was_judged_is_left(house: House) -> None:
    full(house)
    planned = house.planned()
    with key_lock(house.root, "export-1", waiting=lambda: None):
        found = remove(planned)
    assert whys(found.left) == {
        "artifacts/export-1": "a run is at work on it",
        "checkpoints/export-1": "a run is at work on it",
        "cache/tmpab12_xyz": "a run is at work, and may use it",
        "cache/served/with%20space/1-0123": "a run is at work, and may use it",
        "cache/served/with%20space/.download-x": "a run is at work, and may use it",
    }


def test_what_a_run_took_or_made_again_or_removed_after_it_was_judged_is_left(house: House) -> None:
    for key in ("export-1", "export-2", "export-3", "export-4", "export-5"):
        house.sealed(key)
    planned = house.planned()
    house.ran("demo", "export-1", days=0)
    house.event("other", "step", "export-2", days=0)
    house.sealed("export-3", days=0)
    shutil.rmtree(house.root / "artifacts" / "export-4")

    found = remove(planned)

    assert whys(found.left) == {
        "artifacts/export-1": "run demo took it meanwhile",
        "artifacts/export-2": "run other took it meanwhile",
        "artifacts/export-3": "it was made again meanwhile",
        "artifacts/export-4": "it was made again meanwhile",
    }
    assert list(whys(found.goes)) == ["artifacts/export-5"]


def test_two_removals_do_not_work_at_once(house: House) -> None:
    house.sealed("export-1")
    planned = house.planned()
    with key_lock(house.root, "gc", waiting=lambda: None), pytest.raises(Transient) as refused:
        remove(planned)
    assert str(refused.value) == f"another `retort gc` is at work in {house.root}; run again when it has ended"
    assert house.store.get("export-1") is not None


# -- outboxes ----------------------------------------------------------------------------------------------------------


def outbox(
    house: House, name: str, *, whole: bool = True, sent: bool = True, refused: int = 0, days: float = 30
) -> str:
    """An outbox of a run that ended or was interrupted, sent or not; its path in the workspace."""
    box = open_outbox(house.root, name=name, experiment=name, uri=None, asked=name.ljust(32, "x"))
    box.put(Opened(of=PARENT, name=name, tags={}))
    box.put(Closed(of=PARENT, status="FINISHED" if whole else "KILLED"))
    box.close(whole=whole)
    size = (box.folder / EVENTS).stat().st_size
    write_state(box.folder, State(offset=size if sent else 0, refused=refused))
    for path in (box.folder, *box.folder.iterdir()):
        _aged(path, NOW - days * DAY)
    return box.folder.relative_to(house.root).as_posix()


def test_an_outbox_goes_when_all_of_it_was_sent_and_its_run_is_not_recent(house: House) -> None:
    done, waiting = outbox(house, "done"), outbox(house, "waiting", sent=False)
    refused = outbox(house, "refused", refused=2)
    lately, left_lately = outbox(house, "lately", days=3), outbox(house, "left", whole=False, days=13)
    left_long_ago = outbox(house, "forgotten", whole=False)
    keep = Keep(days=14, runs=0)

    found = house.clear(keep)

    assert whys(found.goes) == dict.fromkeys((done, left_long_ago), "all of it was sent")
    assert whys(found.kept) == {
        waiting: "its run is not told whole yet: `retort sync` sends the rest",
        refused: f"the server refused 2 of its events, which are kept in {Path(refused).name}/refused.jsonl",
        lately: "its run is recent: written 3 days ago",
        left_lately: "its run is recent: written 13 days ago",
    }
    assert whys(house.found(keep).goes) == {}
    assert {folder.relative_to(house.root).as_posix() for folder in outboxes(house.root)} == set(whys(found.kept))


def test_an_outbox_that_a_run_goes_on_in_is_left_also_where_it_began_after_it_was_judged(house: House) -> None:
    path = outbox(house, "demo", whole=False)
    planned = house.planned()
    writing = open_outbox(house.root, name="demo", experiment="demo", uri=None, asked="demo".ljust(32, "x"))
    assert writing.folder == house.root / path

    found = remove(planned)

    assert whys(found.left) == {path: "its run is not told whole yet: `retort sync` sends the rest"}
    assert whys(house.found().kept) == whys(found.left)
    writing.close(whole=True)
    assert list(whys(house.clear().goes)) == [path]


def test_what_is_no_outbox_is_left(house: House) -> None:
    (house.root / "outbox" / "mine").mkdir(parents=True)
    assert whys(house.clear().left) == {
        "outbox/mine": "it is no outbox that can be read: look at it, remove it by hand"
    }


# -- links, ruins, other disks -----------------------------------------------------------------------------------------


def test_links_are_neither_followed_nor_removed(house: House, tmp_path: Path) -> None:
    there = tmp_path / "elsewhere"
    _old(there / "model.onnx")
    inside = house.sealed("export-1").path
    (inside / "link").symlink_to(there)
    (house.root / "artifacts" / "export-2").symlink_to(there)
    (house.root / "checkpoints").mkdir()
    (house.root / "checkpoints" / "distill-1").symlink_to(there)
    (house.root / "cache").symlink_to(there)

    found = house.clear()

    told = "it is a link, and none is followed"
    assert whys(found.left) == dict.fromkeys(("artifacts/export-2", "checkpoints/distill-1", "cache"), told)
    assert len(found.left) == 3
    assert all(item.size_bytes == 0 for item in found.left)
    assert list(whys(found.goes)) == ["artifacts/export-1"]
    assert (there / "model.onnx").read_text() == "twelve bytes"
    assert (house.root / "artifacts" / "export-2").is_symlink()


@pytest.mark.parametrize("area", ["artifacts", "checkpoints", "cache/served"])
def test_a_whole_area_that_is_a_link_is_left(house: House, tmp_path: Path, area: str) -> None:
    full(house)
    (tmp_path / "there").mkdir()
    (house.root / area).rename(tmp_path / "there" / "area")
    (house.root / area).symlink_to(tmp_path / "there" / "area")
    before = everything(tmp_path / "there")
    found = house.clear()
    assert whys(found.left)[area] == "it is a link, and none is followed"
    assert everything(tmp_path / "there") == before


def test_a_trash_that_is_a_link_is_refused(house: House, tmp_path: Path) -> None:
    house.sealed("export-1")
    (tmp_path / "there").mkdir()
    (house.root / "trash").symlink_to(tmp_path / "there")
    with pytest.raises(BadRequest) as refused:
        house.clear()
    assert str(refused.value) == (
        f"{house.root}/trash is a link, and what is removed must stay in the workspace: remove the link first"
    )
    assert house.store.get("export-1") is not None


def test_what_is_no_finished_artifact_is_left_and_told(house: House) -> None:
    (house.sealed("export-1").path / MANIFEST).unlink()
    (house.sealed("export-2").path / MANIFEST).write_text("{")
    house.sealed("export-3").path.rename(house.root / "artifacts" / "mine")
    (house.root / "artifacts" / "notes.txt").write_text("mine too")
    found = house.clear()
    why = "it is no finished artifact of this name, so what it is worth is unknown: look at it, remove it by hand"
    assert whys(found.left) == dict.fromkeys(
        ("artifacts/export-1", "artifacts/export-2", "artifacts/mine", "artifacts/notes.txt"), why
    )


def test_what_lies_on_another_file_system_is_left(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.sealed("export-1")

    def refused(self: Path, target: Path) -> Path:
        raise OSError(errno.EXDEV, "Invalid cross-device link", str(self), None, str(target))

    planned = house.planned()
    monkeypatch.setattr(Path, "rename", refused)
    assert whys(remove(planned).left) == {
        "artifacts/export-1": "it lies on another file system than the workspace: remove it by hand"
    }


def test_served_versions_of_a_model_that_no_registry_knows_are_kept(house: House) -> None:
    for name, version in (("known", 1), ("known", 2), ("unknown", 1)):
        _old(house.root / "cache" / "served" / name / f"{version}-0123" / "model.onnx")
    _old(house.root / "cache" / "served" / "known" / ".download-new" / "model.onnx", days=0.5)
    house.registered("known", {}, {}, alias=2)
    kept = {
        "cache/served/known/2-0123": "an alias names version 2 of known",
        "cache/served/unknown/1-0123": "no registry that was asked knows unknown",
    }
    assert judged(house.found()) == (kept, ["cache/served/known/1-0123"])


def test_nothing_else_in_the_cache_goes(house: House) -> None:
    for name in ("hub/models--x/blob", "datasets/a", "docstrings/b", "lessons/c", "digests.json", "tmp", "template/x"):
        _old(house.root / "cache" / name)
    assert house.found() == Found((), (), (), ())


# -- a kill in the middle ----------------------------------------------------------------------------------------------


_KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from pipeline.retention import plan, remove
from pipeline.needs import Keep

planned = plan(Path(sys.argv[1]), keep=Keep(days=1, runs=0))
{moment} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
remove(planned)
"""
KILLED_WHILE = {moment: _KILLED.format(moment=moment) for moment in ("Path.rename", "shutil.rmtree")}


@pytest.mark.parametrize(("moment", "there"), [("Path.rename", True), ("shutil.rmtree", False)])
def test_a_kill_in_the_middle_leaves_what_is_whole_or_nothing_that_looks_finished(
    house: House, moment: str, there: bool
) -> None:
    house.clock.now = time.time()  # as the other process has it
    artifact = house.sealed("export-1")
    for key in ("export-2", "export-3"):
        house.sealed(key)
    house.ran("demo", "export-3", days=0)

    command = [sys.executable, "-c", KILLED_WHILE[moment], house.root]
    ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)

    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert (house.store.get("export-1") == artifact) is there
    assert house.store.get("export-3") is not None
    trash = [path.name.partition(".")[0] for path in (house.root / "trash").iterdir()]
    assert trash == ([] if there else ["export-1"])
    found = house.clear(Keep(days=1, runs=0))
    assert len(found.goes) == 2
    assert [path.name for path in (house.root / "artifacts").iterdir()] == ["export-3"]
    assert list((house.root / "trash").iterdir()) == []


def test_a_file_system_that_fails_is_one_message_and_what_was_begun_is_ended_next_time(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.sealed("export-1")
    planned = house.planned()

    def failing(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as broken:
        broken.setattr(shutil, "rmtree", failing)
        with pytest.raises(Transient, match=r"the file system failed: .*Input/output error"):
            remove(planned)
    assert house.store.get("export-1") is None
    assert list(whys(house.clear().goes).values()) == ["a removal that was interrupted"]
    assert list((house.root / "trash").iterdir()) == []


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(5, "less than a minute"), (60, "1 minute"), (7300, "2 hours"), (86_400, "1 day"), (900_000, "10 days")],
)
def test_a_time_span_is_told_in_the_unit_that_suits_it(seconds: float, told: str) -> None:
    assert ago(seconds) == told
