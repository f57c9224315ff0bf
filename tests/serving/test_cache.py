import fcntl
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.cache import beside, claim, fetching, prune, publish
from serving.errors import Transient

HOLDING = """
import sys
from pathlib import Path
from serving.cache import claim
held = claim(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Versions 1 to 9, and what else lies in a model's folder."""
    folder = tmp_path / "cache" / "m"
    for version in range(1, 10):
        made(folder, version)
    (folder / "champion.alias").write_text("{}")
    (folder / "another").mkdir()
    return folder


def place(folder: Path, version: int) -> Path:
    return folder / f"{version}-{'ab' * 8}"


def made(folder: Path, version: int) -> Path:
    made = place(folder, version)
    made.mkdir(parents=True)
    (made / "model.onnx").write_text(str(version))
    return made


def versions(folder: Path) -> list[int]:
    return sorted(int(each.name.partition("-")[0]) for each in folder.glob("*-*") if each.name[0] != ".")


@contextmanager
def another_process(version: Path) -> Iterator[None]:
    """One that uses it."""
    command = [sys.executable, "-c", HOLDING, str(version)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield
        process.kill()


def test_what_is_in_use_the_two_before_it_and_what_is_newer_stay(model: Path) -> None:
    assert prune(model, in_use=[place(model, 7), place(model, 3)]) == [place(model, n) for n in (1, 2, 4)]
    assert versions(model) == [3, 5, 6, 7, 8, 9]
    assert {each.name for each in model.iterdir() if "-" not in each.name} == {"champion.alias", "another"}
    assert prune(model, in_use=[place(model, 7)]) == [place(model, 3)]


def test_what_an_alias_named_last_stays_for_a_restart(model: Path) -> None:
    prune(model, in_use=[place(model, 9)], noted=[place(model, 1)])
    assert versions(model) == [1, 7, 8, 9]


def test_what_another_process_uses_stays_until_it_ends_however_it_does(model: Path) -> None:
    with another_process(place(model, 2)):
        prune(model, in_use=[place(model, 9)])
        assert versions(model) == [2, 7, 8, 9]
    assert prune(model, in_use=[place(model, 9)]) == [place(model, 2)]


def test_what_is_being_fetched_stays(model: Path) -> None:
    with fetching(place(model, 2)):
        prune(model, in_use=[place(model, 9)])
    assert versions(model) == [2, 7, 8, 9]


def test_an_older_bundle_of_the_same_number_goes_as_well(model: Path) -> None:
    other = model / f"9-{'cd' * 8}"
    other.mkdir()
    assert prune(model, in_use=[other]) == [place(model, n) for n in range(1, 8)]
    assert versions(model) == [8, 9, 9]


def test_of_a_removed_version_nothing_is_left(model: Path) -> None:
    claim(place(model, 1))
    gc.collect()
    prune(model, in_use=[place(model, 9)])
    assert list((model.parent / ".locks" / "m").iterdir()) == []


def test_nothing_is_removed_where_nobody_can_say_what_is_used(model: Path) -> None:
    (model.parent / ".locks").write_text("no folder: locks cannot be made")
    assert claim(place(model, 1)) is None
    assert prune(model, in_use=[place(model, 9)]) == []
    with fetching(place(model, 1)), beside(place(model, 1)) as folder:
        assert folder.is_dir(), "what is asked for is fetched all the same"


def test_without_a_version_of_the_model_in_use_nothing_is_removed(model: Path) -> None:
    assert prune(model, in_use=[]) == prune(model, in_use=[place(model.parent / "n", 9)]) == []


def test_what_a_download_left_that_was_killed_is_removed_and_one_that_goes_on_is_not(model: Path) -> None:
    left, going = (model / f".download-{place(model, n).name}-x{n}" for n in (1, 2))
    older = model / ".download-abcdefgh"
    for folder in (left, going, older):
        folder.mkdir()
    with another_fetches(place(model, 2)):
        prune(model, in_use=[place(model, 9)])
        assert [folder.exists() for folder in (left, going, older)] == [False, True, True]
    with fetching(place(model, 2)):
        assert not going.exists()


@contextmanager
def another_fetches(version: Path) -> Iterator[None]:
    file = version.parent.parent / ".locks" / version.parent.name / f"{version.name}.fetch"
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDONLY | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
    os.close(descriptor)


def test_one_fetches_at_a_time_and_one_that_hangs_is_not_waited_for_for_ever(model: Path) -> None:
    version = place(model, 2)
    with fetching(version), pytest.raises(Transient) as told, fetching(version, patience_s=0.2):
        pass
    assert str(told.value) == f"{version} has been fetched by another process for 0 s; look at what keeps it"
    with fetching(version, patience_s=0.0):
        pass


def test_who_waits_for_a_lock_that_is_removed_meanwhile_takes_the_new_one(model: Path) -> None:
    """Else two would each hold a lock of their own."""
    version, held = place(model, 2), []
    file = model.parent / ".locks" / "m" / f"{version.name}.used"
    file.parent.mkdir(parents=True)
    descriptor = os.open(file, os.O_RDONLY | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    thread = threading.Thread(target=lambda: held.append(claim(version)))
    thread.start()
    thread.join(0.2)
    file.unlink()
    os.close(descriptor)
    thread.join(10)
    assert held != [None]
    again = os.open(file, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(again)


def test_a_version_is_published_whole_in_the_place_of_a_damaged_one(model: Path) -> None:
    with beside(place(model, 2)) as folder:
        (folder / "files").mkdir()
        (folder / "files" / "model.onnx").write_text("whole")
        publish(folder / "files", place(model, 2))
    assert (place(model, 2) / "model.onnx").read_text() == "whole"
    assert list(model.glob(".download-*")) == []
