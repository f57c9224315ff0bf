"""`retort bench` and `retort compare` from the command line: exit codes, the last line, and what is refused."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from commands import Retort, runner
from fakes import tiny_bundle
from receipts import NOISE, SMALL, figures_of, measured, receipt

from benchmarks import session
from benchmarks.collect import Kept
from benchmarks.receipt import Load, write_receipt
from pipeline.artifact import write_json


@pytest.fixture
def retort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Retort:
    """Runs the command line in this process, in a folder with two bundles; whether this machine is quiet is not what is
    tested."""
    tiny_bundle(tmp_path / "old", name="old")
    tiny_bundle(tmp_path / "new", name="new", bias=1.0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "measure_until_quiet", lambda measure, load: noticing(measure, load, ()))
    return runner(monkeypatch, capsys)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> None:
    """What draws takes seconds, and is tested elsewhere."""
    monkeypatch.setattr("benchmarks.page.write_page", lambda _told, _path: None)


def noticing(measure: Any, load: Load, found: Any) -> Any:
    """As many repeats as are asked for, in which this was found."""
    return Kept(tuple(measure(i) for i in range(load.processes)), found, ()), 1


SMALL_LOAD = ("--lengths", "5,12", "--samples", "20", "--processes", "1", "--real", "4", "--threads", "1")


def test_a_bench_without_a_gate_shows_the_figures_and_ends_well(retort: Retort, tmp_path: Path) -> None:
    told = retort("bench", "old", "new", *SMALL_LOAD)
    assert told.code == 0, told.err
    assert told.json["metric"] == "agreement"
    assert told.json["verdict"] is None
    found = told.json["targets"]["ort-cpu"]
    assert found["receipt"] == ".retort/bench/receipt.json"
    assert set(found["figures"]) == {"old", "new"}
    assert (tmp_path / ".retort/bench/report.html").is_file()
    assert "noise:      none was found" in told.out
    assert "12 tokens: p50 / p95 / p99 ms" in " ".join(told.out.split())


@pytest.mark.usefixtures("page")
@pytest.mark.parametrize(
    ("rule", "code", "verdict"),
    [("agreement >= 0.1", 0, "PASS"), ("size_mb <= 0", 66, "FAIL"), ("p50_ms <= 9999", 67, "INCONCLUSIVE")],
)
def test_the_gate_s_verdict_is_the_exit_code(
    retort: Retort, rule: str, code: int, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = (NOISE,) if code == 67 else ()
    monkeypatch.setattr(session, "measure_until_quiet", lambda measure, load: noticing(measure, load, noise))
    told = retort("bench", "old", "new", *SMALL_LOAD, "--gate", rule, "--out", "out")
    assert (told.code, told.json["verdict"]) == (code, verdict)
    assert f"gate:       {verdict}: " in told.out
    assert told.err.startswith(f"retort: {verdict}: ") is (code != 0)


@pytest.mark.usefixtures("page")
def test_labels_are_judged_and_bundles_named(retort: Retort, tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("q,y\n" + "good bad fine,positive\nbright dull dull awful,negative\n" * 10)
    told = retort(
        *("bench", "a=old", "b=new", *SMALL_LOAD, "--data", "test.csv", "--text", "q", "--label", "y"),
        *("--baseline", "b", "--gate", "accuracy >= 0.4"),
    )
    assert told.code == 0, told.err
    assert told.json["metric"] == "accuracy"
    assert told.json["targets"]["ort-cpu"]["figures"]["b"]["agreement"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("old", "old"), "two bundles are called 'old': tell them apart by NAME=FOLDER, as in new=old"),
        (("old", "--baseline", "new"), "--baseline new: no bundle is called so; there are old"),
        (("old", "--lengths", "16;64"), "--lengths 16;64: expected whole numbers apart by commas, as in 16,64"),
        (("old", "--lengths", "16,16"), "--lengths 16,16: lengths must be above 0 and differ"),
        (("old", "--data", "a", "--texts", "b"), "--data and --texts are both given: the items come from one of them"),
        (("old", "--bound-ms", "0"), "--bound-ms 0: give a number above 0"),
        (("old", "--bound-ms", "nan"), "--bound-ms nan: give a number above 0"),
        (("old", "--bound-ms", "inf"), "--bound-ms inf: give a number above 0"),
        (("old", *SMALL_LOAD, "--out", "old/model.onnx"), "the session's folder "),
        (
            ("old", "--gate", "p50_ms <= 1 * typo"),
            "rule 'p50_ms <= 1 * typo': no bundle is called 'typo'; there are old",
        ),
        (("a/b=old",), "a/b=old: a bundle cannot be called 'a/b', as rules and files name it: "),
        (("old", "--gate", "speed >= 11"), "rule 'speed >= 11': nobody measures 'speed'."),
        (("old", "--threads", "99999"), "99999 threads on "),
        (("nowhere",), "nowhere is not a bundle: "),
    ],
)
def test_a_wrong_request_is_one_clear_message(retort: Retort, arguments: tuple[str, ...], message: str) -> None:
    told = retort("bench", *arguments)
    assert told.code in (64, 65)
    assert told.err.startswith(f"retort: {message}")
    assert not Path(".retort/bench/receipt.json").exists()


@pytest.mark.usefixtures("page")
def test_a_rate_under_load_is_measured_where_it_is_asked_for(retort: Retort, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import served_load
    from benchmarks.openloop.results import ServerResult

    found = ServerResult("engine", bound_ms=20.0, percent=99, best_rps=120.0, points=())
    asked: list[float] = []

    def load(_path: Path, _items: Any, **settings: Any) -> ServerResult:
        asked.append(settings["plan"].bound_ms)
        return found

    monkeypatch.setattr(served_load, "load_engine", load)
    told = retort("bench", "old", *SMALL_LOAD, "--bound-ms", "20", "--gate", "server_rps >= 100")
    assert told.code == 0, told.err
    assert asked == [20.0, 20.0], "there and back"
    assert told.json["targets"]["ort-cpu"]["figures"]["old"]["server_rps"] == 120.0


def test_two_sessions_are_compared_in_sentences(retort: Retort, tmp_path: Path) -> None:
    for name, ms in (("a", 5.0), ("b", 4.0)):
        found = receipt([measured(SMALL, ms=ms, digest=name, seed=int(ms))])
        (tmp_path / name).mkdir()
        write_receipt(found, tmp_path / name)
        write_json(tmp_path / name / "figures.json", figures_of(found))
    told = retort("compare", "a", "b")
    assert told.code == 0, told.err
    assert told.json["variants"][0]["times"] == "faster"
    assert told.json["variants"][0]["sentence"] in " ".join(told.out.split())
    again = retort("compare", "a", "b", "--pair", f"{SMALL}={SMALL}")
    assert again.json == told.json


@pytest.mark.parametrize("pair", ["x", "=x", "x="])
def test_a_pair_that_is_none_is_refused(retort: Retort, pair: str) -> None:
    told = retort("compare", "a", "b", "--pair", pair)
    assert (told.code, told.err) == (
        64,
        f"retort: --pair {pair}: expected A_NAME=B_NAME, a variant of A and one of B\n",
    )


def test_a_comparison_is_json_that_can_be_read_again(retort: Retort, tmp_path: Path) -> None:
    from benchmarks.comparison import Comparison

    write_receipt(receipt(), tmp_path)
    told = retort("compare", tmp_path, tmp_path, "--pair", f"{SMALL}=student-onnx-int8")
    assert told.code == 0, told.err
    assert msgspec.json.decode(told.out.splitlines()[-1], type=Comparison).variants[0].times == "faster"


@pytest.mark.usefixtures("page")
def test_json_is_all_that_is_printed_when_it_is_asked_for(retort: Retort, children: list[Any], tmp_path: Path) -> None:
    write_receipt(receipt(), tmp_path)
    (tmp_path / "texts.txt").write_text("good\n")
    for command in (
        ("bench", "old", "new", *SMALL_LOAD, "--gate", "agreement >= 0.1"),
        ("compare", tmp_path, tmp_path, "--pair", f"{SMALL}=student-onnx-int8"),
        ("tune", "old", "--texts", "texts.txt"),
    ):
        told = retort(*command, "--json")
        assert told.code == 0, told.err
        assert len(told.out.splitlines()) == 1
        assert isinstance(told.json, dict)


# -- tune --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The processes of a sweep on one core; each setting earns 100 requests a second an executor."""
    from benchmarks import tune
    from benchmarks.openloop.results import Rate, ServerResult

    jobs: list[Any] = []

    def child(job: Any, **_: Any) -> ServerResult:
        jobs.append(job)
        rps = 100.0 * job.setting.executors
        point = Rate(rps, 3.0, 1000, 1000, 0, 0, 5.0, 9.0, 12.0, late_p50_ms=0.1, late_p99_ms=0.2)
        return ServerResult("engine", job.plan.bound_ms, job.plan.percent, rps, (point,))

    monkeypatch.setattr(tune, "run_child", child)
    monkeypatch.setattr(tune, "usable_threads", lambda: 1)
    return jobs


def test_tune_tells_what_each_setting_earned_and_leaves_the_winner_beside_the_bundle(
    retort: Retort, children: list[Any], tmp_path: Path
) -> None:
    from serving.bundle import read_bundle

    before = read_bundle(tmp_path / "old").digest
    (tmp_path / "texts.txt").write_text("good\n\nbad good\n")
    told = retort("tune", "old", "--texts", "texts.txt", "--bound-ms", "400")
    assert told.code == 0, told.err
    assert told.err.splitlines() == [
        "1 session of 1 thread, 1 executor, each item alone: 100 requests/s",
        "1 session of 1 thread, 2 executors, each item alone: 200 requests/s",
        "1 session of 1 thread, 1 executor, each item alone: 100, 100 requests/s",
        "1 session of 1 thread, 2 executors, each item alone: 200, 200 requests/s",
    ]
    assert "requests/s within p99 <= 400 ms; finalists were measured twice" in told.out
    assert "server:     1 session of 1 thread, 2 executors, each item alone (200 requests/s within p99 <= 4" in told.out
    assert "tuning:     old/tuning@here.json\n" in told.out
    assert told.json["setting"] == {"sessions": 1, "threads": 1, "executors": 2, "batch": {"kind": "alone"}}
    assert (tmp_path / "old" / "tuning@here.json").is_file()
    assert read_bundle(tmp_path / "old").digest == before == told.json["bundle"]
    assert {job.plan.bound_ms for job in children} == {400.0}


def test_tune_asks_for_several_items_a_request_and_leaves_the_file_where_it_is_told(
    retort: Retort, children: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "texts.txt").write_text("good\nbad good\n")
    told = retort("tune", "old", "--texts", "texts.txt", "--items", "2", "--target", "c2.small", "--out", "kept")
    assert told.code == 0, told.err
    assert {job.requests for job in children} == {((("good",), ("bad good",)),)}
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["tuning@c2.small.json"]


def test_the_bound_that_its_help_tells_is_the_one_it_has(retort: Retort, children: list[Any], tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("good\n")
    assert retort("tune", "old", "--texts", "texts.txt").json["bound_ms"] == 25
    assert "What p99 must keep; default: 25." in " ".join(retort("tune", "--help").out.split())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("old", "--texts", "none.txt"), 64, "none.txt is no file; name one with a text a line"),
        (("old",), 64, "Missing option '--texts'."),
        (("old", "--texts", "texts.txt", "--bound-ms", "0"), 64, "--bound-ms 0: give a number above 0"),
        (("old", "--texts", "pairs.txt"), 64, "'good' is of an item of 2 text(s), the bundle takes 1: give lines with"),
        (("old", "--texts", "texts.txt", "--bound-ms", "inf"), 64, "--bound-ms inf: give a number above 0"),
        (("old", "--texts", "texts.txt", "--items", "9"), 64, "texts.txt has 1 texts, too few for a request of 9"),
        (("nowhere", "--texts", "texts.txt"), 65, "nowhere is not a bundle: "),
    ],
)
def test_a_sweep_that_cannot_be_made_is_refused(
    retort: Retort, children: list[Any], tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "texts.txt").write_text("good\n")
    (tmp_path / "pairs.txt").write_text("good\tbad\n")
    told = retort("tune", *arguments)
    assert told.code == code
    assert told.err.startswith(f"retort: {message}")
    assert children == []
