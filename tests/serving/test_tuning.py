"""The file beside a bundle's core: written, found where it is this bundle's and this machine's, and else ignored."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from fakes import tiny_bundle

from serving.bundle import read_bundle
from serving.errors import BadArtifact, BadRequest
from serving.tuning import (
    BatchPolicy,
    Earned,
    Found,
    Point,
    Setting,
    Together,
    Tuning,
    WherePays,
    find_tuning,
    most_earned,
    plain,
    write_tuning,
)

ONE, TWO = Setting(sessions=1, threads=2, executors=2), Setting(sessions=2, threads=1, executors=2)
POINT = Point(offered_rps=50.0, answered=1000, unanswered=0, p50_ms=2.5, p90_ms=3.0, p99_ms=None)
DIGEST, MACHINE = "d" * 64, "Example CPU; avx2; 2 cores; no quota"


def earned(setting: Setting, *rates: float | None) -> Earned:
    return Earned(setting, rates, (POINT,))


def tuning(**changes: object) -> Tuning:
    plain_one = Tuning(
        bundle=DIGEST,
        machine=MACHINE,
        target="here",
        started="2026-11-21T10:00:00+00:00",
        bound_ms=20.0,
        percent=99,
        libraries={"onnxruntime": "1.31.1"},
        setting=TWO,
        earned=(earned(ONE, 500.0, 510.0), earned(TWO, 800.0, 812.5)),
    )
    return msgspec.structs.replace(plain_one, **changes)


def found(folder: Path, *, threads: int = 2) -> Found:
    return find_tuning(folder, digest=DIGEST, machine=MACHINE, threads=threads)


def test_what_was_written_is_found_on_its_machine(tmp_path: Path) -> None:
    path = write_tuning(tuning(), tmp_path)
    assert path == tmp_path / "tuning@here.json"
    assert found(tmp_path) == Found(tuning(), "tuning@here.json", ())
    assert tuning().told() == "800 requests/s within p99 <= 20 ms, 2026-11-21T10:00:00+00:00"


def test_settings_say_what_they_are() -> None:
    assert plain(4).told() == "1 session of 4 threads, 2 executors, each item alone"
    together = Setting(sessions=2, threads=1, executors=4, batch=Together(items=8))
    assert together.told() == "2 sessions of 1 thread, 4 executors, up to 8 items of a request together"
    assert Setting(batch=WherePays()).told() == "1 session of 1 thread, 1 executor, items together where it pays"
    assert plain(1) == Setting(sessions=1, threads=1, executors=1)


@pytest.mark.parametrize("batch", [Together(items=8), WherePays()])
def test_a_batch_policy_survives_the_file(tmp_path: Path, batch: BatchPolicy) -> None:
    together = msgspec.structs.replace(TWO, batch=batch)
    written = tuning(setting=together, earned=(earned(together, 800.0),))
    write_tuning(written, tmp_path)
    assert found(tmp_path).tuning == written


@pytest.mark.parametrize("executors", [1, 5])
def test_executors_that_the_sessions_cannot_keep_busy_are_refused(executors: int) -> None:
    with pytest.raises(ValueError, match=f"^executors is {executors}; 2 sessions keep 2 to 4 of them busy$"):
        Setting(sessions=2, threads=1, executors=executors)


def test_a_bundle_s_digest_and_its_seal_know_nothing_of_tunings(tmp_path: Path) -> None:
    before = tiny_bundle(tmp_path)
    write_tuning(tuning(bundle=before.digest), tmp_path)
    assert read_bundle(tmp_path).digest == before.digest
    (tmp_path / "tuning@here.json").write_text("nonsense")
    assert read_bundle(tmp_path).digest == before.digest


def test_a_folder_without_tunings_has_none(tmp_path: Path) -> None:
    assert found(tmp_path) == Found(None, "", ())


def resealed(raw: bytes, **changes: object) -> bytes:
    """What a forger writes: other content with the right sha256 over it."""
    told = msgspec.json.decode(raw)["tuning"] | changes
    digest = hashlib.sha256(msgspec.json.encode(msgspec.convert(told, Tuning))).hexdigest()
    return msgspec.json.encode({"sha256": digest, "tuning": told})


UNFIT: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "edited": (lambda raw: raw.replace(b"812.5", b"912.5"), "it was altered after it was written; measure again"),
    "another setting": (
        lambda raw: resealed(raw, setting={"sessions": 1, "threads": 2, "executors": 2, "batch": {"kind": "alone"}}),
        "it names another setting than the one that earned most there",
    ),
    "nothing earned": (
        lambda raw: resealed(raw, earned=[]),
        "it names another setting than the one that earned most there",
    ),
    "another schema": (
        lambda raw: resealed(raw, schema=2),
        "it has schema 2, and this version reads 1; measure again",
    ),
    "another bundle": (
        lambda raw: resealed(raw, bundle="e" * 64),
        f"it is of bundle {'e' * 12}, and this is {'d' * 12}",
    ),
    "another machine": (
        lambda raw: resealed(raw, machine="Other\nCPU\x1b[2J"),
        f"it was earned on another machine (Other CPU [2J; this is {MACHINE})",
    ),
    "no json": (
        lambda raw: raw[:-20],
        "it is no tuning of schema 1: Input data was truncated; measure again",
    ),
    "unknown field": (
        lambda raw: raw.replace(b'"percent"', b'"per\\ncent"'),
        "it is no tuning of schema 1: Object contains unknown field `per cent` - at `$.tuning`; measure again",
    ),
    "no session": (
        lambda raw: raw.replace(b'"sessions": 2', b'"sessions": 0'),
        "it is no tuning of schema 1: Expected `int` >= 1 - at `$.tuning.setting.sessions`; measure again",
    ),
    "endless": (
        lambda raw: raw + b" " * 2**20,
        "it is no file of at most 1048576 bytes, as sweeps write them; measure again",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_file_that_is_not_what_a_sweep_found_here_is_ignored_and_the_reason_fits_on_a_line(
    tmp_path: Path, case: str
) -> None:
    spoil, why = UNFIT[case]
    path = write_tuning(tuning(), tmp_path)
    path.write_bytes(spoil(path.read_bytes()))
    assert found(tmp_path) == Found(None, "", (f"tuning@here.json is ignored: {why}",))


def test_a_tuning_for_more_cores_than_this_process_has_is_ignored(tmp_path: Path) -> None:
    write_tuning(tuning(), tmp_path)
    told = "tuning@here.json is ignored: it asks for 2 x 1 threads, and this process may use 1"
    assert found(tmp_path, threads=1) == Found(None, "", (told,))


def test_what_is_no_file_is_ignored_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "tuning@folder.json").mkdir()
    os.mkfifo(tmp_path / "tuning@pipe.json")
    why = "is ignored: it is no file of at most 1048576 bytes, as sweeps write them; measure again"
    assert found(tmp_path).ignored == (f"tuning@folder.json {why}", f"tuning@pipe.json {why}")


def test_of_several_that_fit_the_newest_counts_and_a_foreign_one_is_told(tmp_path: Path) -> None:
    newer = tuning(target="b", started="2026-11-22T10:00:00+00:00")
    for each in (tuning(target="a"), newer, tuning(target="c", machine="Other CPU")):
        write_tuning(each, tmp_path)
    assert found(tmp_path) == Found(
        newer,
        "tuning@b.json",
        (
            f"tuning@c.json is ignored: it was earned on another machine (Other CPU; this is {MACHINE})",
            "tuning@a.json is ignored: tuning@b.json is newer",
        ),
    )


def test_a_tuning_replaces_the_one_of_its_target_in_one_step(tmp_path: Path) -> None:
    write_tuning(tuning(), tmp_path)
    write_tuning(tuning(bound_ms=10.0), tmp_path)
    assert found(tmp_path).tuning == tuning(bound_ms=10.0)
    assert [path.name for path in tmp_path.iterdir()] == ["tuning@here.json"]


@pytest.mark.parametrize("target", ["", "../else", "a b", "-x"])
def test_a_target_that_makes_no_file_name_is_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(BadRequest) as refused:
        write_tuning(tuning(target=target), tmp_path)
    assert str(refused.value) == f"target {target!r} makes no file name; use letters, digits, '.', '_' and '-'"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact) as refused:
        write_tuning(tuning(), tmp_path / "away")
    path = tmp_path / "away/tuning@here.json"
    assert str(refused.value) == f"{path} cannot be written: No such file or directory; name another folder"


def test_the_most_earned_is_the_less_of_what_a_finalist_earned() -> None:
    lucky, steady = earned(ONE, 900.0, 500.0), earned(TWO, 700.0, 690.0)
    assert most_earned([lucky, steady]) == steady


def test_a_setting_measured_once_is_no_finalist_beside_those_measured_twice() -> None:
    assert most_earned([earned(ONE, 900.0), earned(TWO, 700.0, 690.0)]) == earned(TWO, 700.0, 690.0)


def test_near_the_most_the_fewest_sessions_win() -> None:
    near, far = earned(ONE, 971.0), earned(ONE, 969.0)
    assert most_earned([earned(TWO, 1000.0), near]) == near
    assert most_earned([earned(TWO, 1000.0), far]) == earned(TWO, 1000.0)


def test_where_none_kept_the_bound_nobody_earned_most() -> None:
    assert most_earned([earned(ONE, None, None), earned(TWO, 800.0, None)]) is None
    assert most_earned([]) is None
