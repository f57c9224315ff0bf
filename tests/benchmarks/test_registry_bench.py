"""The registry's benchmark: what it times is what the pipeline does, and what it tells is what it timed."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import registry_bench
from benchmarks.made_bundle import made_bundle
from benchmarks.registry_bench import (
    ALIAS,
    ALIAS_COMMAND,
    BACK,
    BUILD,
    COMMAND,
    COMPARE,
    GIVEN,
    OTHERS,
    OURS,
    PROMOTE,
    REGISTER,
    UPLOAD,
    VERSION,
    WHOLE,
    Desk,
)
from pipeline.tracking.client import default_uri, talking_to
from pipeline.tracking.versions import Version, aliases_of, download, versions_of
from serving.bundle import read_bundle
from serving.signatures import FILES_TAG, verify_folder

# Raised inside MLflow's own models of its tables.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """With two versions."""
    workspace = tmp_path_factory.mktemp("registry")
    desk = Desk(made_bundle(workspace / "made", size_bytes=200_000), workspace)
    desk.ours()
    desk.ours()
    return desk


def champion(desk: Desk, name: str = "measured") -> str:
    with talking_to(desk.uri) as client:
        return str((aliases_of(client, name) or {})["champion"])


def versions(desk: Desk, name: str = "measured") -> list[Version]:
    with talking_to(desk.uri) as client:
        return versions_of(client, name)


def test_what_is_timed_leaves_a_whole_version_that_champion_names(desk: Desk, tmp_path: Path) -> None:
    before = len(versions(desk))
    seconds = desk.ours()
    made = versions(desk)[before:]
    assert [str(version.number) for version in made] == [desk.version] == [champion(desk)]
    with talking_to(desk.uri) as client:
        found = download(client, made[0], tmp_path)
    verify_folder(found, files_digest=made[0].tags[FILES_TAG], key=None)
    assert read_bundle(found / "bundle").digest == desk.bundle.digest
    assert seconds.keys() == set(OURS)
    assert all(value > 0 for value in seconds.values())
    assert seconds[BUILD] + seconds[REGISTER] + seconds[PROMOTE] <= seconds[WHOLE]
    assert seconds[UPLOAD] + seconds[COMPARE] + seconds[VERSION] <= seconds[REGISTER]


def test_a_rollback_is_timed_from_the_last_version_to_the_one_before(desk: Desk) -> None:
    seconds = desk.back()
    assert list(seconds) == [BACK]
    assert int(champion(desk)) == int(desk.version) - 1
    desk.back()
    assert int(champion(desk)) == int(desk.version) - 1, "promoted again first, out of the time"


def test_the_command_line_rolls_back_as_well(desk: Desk) -> None:
    seconds = desk.back_by_command()
    assert int(champion(desk)) == int(desk.version) - 1
    assert seconds.keys() == {COMMAND, f"{COMMAND}: CPU"}
    assert seconds[COMMAND] > seconds[f"{COMMAND}: CPU"] / 2 > 0


def test_mlflow_alone_registers_the_same_model_and_sets_the_alias(desk: Desk) -> None:
    seconds = desk.mlflow(GIVEN, pip_requirements=["onnxruntime"])
    assert list(seconds) == [GIVEN]
    assert champion(desk, "beside") == str(versions(desk, "beside")[-1].number)
    desk.mlflow(GIVEN, pip_requirements=["onnxruntime"])
    assert list(desk.alias()) == [ALIAS]
    assert champion(desk, "beside") == "1"
    desk.mlflow(GIVEN, pip_requirements=["onnxruntime"])
    assert desk.alias_by_process().keys() == {ALIAS_COMMAND, f"{ALIAS_COMMAND}: CPU"}
    assert champion(desk, "beside") == "1"


def test_registrations_at_once_are_counted(desk: Desk, tmp_path: Path) -> None:
    found = registry_bench.register_at_once(desk.uri, tmp_path, count=3)
    assert {name: found[name] for name in ("asked", "lost", "incomplete", "surplus", "failed")} == {
        "asked": 3,
        "lost": 0,
        "incomplete": 0,
        "surplus": 0,
        "failed": [],
    }
    assert found["registry"] == desk.uri
    assert found["version_bytes"] > registry_bench.SMALL_BYTES


class Quick:
    """A desk whose every time is known: the round's number, in seconds."""

    def __init__(self, bundle: Any, workspace: Path) -> None:
        self.uri, self.rounds, self.version_bytes = default_uri(workspace), 0, 7
        self.sides = (self.ours, self.others)

    def ours(self) -> dict[str, float]:
        self.rounds += 1
        return dict.fromkeys(OURS, float(self.rounds))

    def others(self) -> dict[str, float]:
        return dict.fromkeys(OTHERS, float(self.rounds))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the figures are written."""
    monkeypatch.setattr(registry_bench, "Desk", Quick)
    monkeypatch.setattr(registry_bench, "MADE_BYTES", 100_000)
    monkeypatch.setattr("sys.argv", ["registry_bench", "--repeats", "3", "--out", str(tmp_path / "found.json")])
    return tmp_path / "found.json"


def ended_with() -> Any:
    with pytest.raises(SystemExit) as ended:
        registry_bench.main()
    return ended.value.code


def test_where_all_bounds_are_kept_it_ends_well(
    quick: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry_bench, "AT_MOST_S", {WHOLE: 10.0, BACK: 4.0})
    registry_bench.main()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("fault", "what"),
    [("failed", ["away"]), ("lost", 1), ("incomplete", 2), ("surplus", 1)],
    ids=lambda each: str(each),
)
def test_registrations_at_once_of_which_anything_is_lost_end_with_66(
    quick: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: str, what: Any
) -> None:
    found = {"asked": 3, "registry": "r", "failed": [], "lost": 0, "incomplete": 0, "surplus": 0, fault: what}
    monkeypatch.setattr(registry_bench, "AT_MOST_S", {})
    monkeypatch.setattr(registry_bench, "register_at_once", lambda *_, **__: found)
    monkeypatch.setattr("sys.argv", ["registry_bench", "--repeats", "1", "--postgres", "--tracking-uri", "r"])
    assert ended_with() == 66
    assert capsys.readouterr().err == f"registry_bench: of 3 registrations at once {fault}: {what}\n"


def test_figures_are_medians_of_all_rounds_but_the_first_beside_their_bounds(
    quick: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended_with() == 66
    out, err = capsys.readouterr()
    assert err == (
        "registry_bench: roll back, warm took 4.000 s, and the bound is 2 s; roll back, the whole command line took "
        "4.000 s, and the bound is 2 s\n"
    )
    lines = out.splitlines()
    told, written = json.loads(lines[-1]), json.loads(quick.read_text())
    times = {"n": 3, "median_s": 4.0, "min_s": 3.0, "max_s": 5.0}
    assert told["figures"] == {
        **dict.fromkeys((*OURS, *OTHERS), times),
        WHOLE: {**times, "at_most_s": 10.0, "kept": True},
        **{name: {**times, "at_most_s": 2.0, "kept": False} for name in (BACK, COMMAND)},
    }
    assert told["first_round"] == {**dict.fromkeys(OURS, 1.0), **dict.fromkeys(OTHERS, 2.0)}
    assert (told["bundle"]["made_for_this"], told["bundle"]["name"]) == (True, "made-100000")
    assert told["bundle"]["version_bytes"] == 7
    assert told["machine"]["cores"] > 0
    assert {name: written[name] for name in told} == told
    assert written["raw"][0]["seconds"] == [3.0, 4.0, 5.0]
    table = [" ".join(line.split()) for line in lines]
    assert "register and promote 3 4.000 3.000 5.000 10 yes" in table
    assert "roll back, warm 3 4.000 3.000 5.000 2 NO" in table


def test_a_bundle_that_is_given_is_the_one_that_is_measured(
    quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = made_bundle(tmp_path / "mine", size_bytes=50_000, seed=7)
    monkeypatch.setattr("sys.argv", ["registry_bench", "--repeats", "1", "--bundle", str(mine.path)])
    monkeypatch.setattr(registry_bench, "AT_MOST_S", {})
    registry_bench.main()
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["bundle"]["made_for_this"], told["bundle"]["digest"]) == (False, mine.digest)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--postgres",), "--postgres needs --tracking-uri, a server that keeps its tables in PostgreSQL"),
        (("--repeats", "0"), "--repeats and --at-once must be above 0"),
        (("--at-once", "0"), "--repeats and --at-once must be above 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["registry_bench", *arguments])
    with pytest.raises(SystemExit):
        registry_bench.main()
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"error: {message}")
