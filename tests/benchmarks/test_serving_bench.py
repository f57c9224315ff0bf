"""The bench of servers: what it is asked, what it tells, and one short real run of ours."""

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import tiny_bundle

from benchmarks import serving_bench
from benchmarks.machine import affinity
from benchmarks.openloop import trace
from benchmarks.openloop.plan import Plan
from benchmarks.openloop.results import Rate, ServerResult
from benchmarks.serving import contest as contest_module
from benchmarks.serving import overload
from benchmarks.serving.arguments import PARTS, parsed
from benchmarks.serving.contest import Contest
from benchmarks.serving.contestants import OURS
from benchmarks.serving.figures import Figure
from benchmarks.serving.overhead import Idle
from benchmarks.serving.peak import IN_PROCESS, Peaks
from benchmarks.serving.texts import of_length, read_texts, texts_of
from benchmarks.serving_bench import main
from serving.bundle import Bundle
from serving.errors import BadRequest, Transient

two_cores = pytest.mark.skipif(len(affinity()) < 2, reason="the generator needs a core of its own")
SHORT = (
    *("--rounds", "1", "--seconds", "0.5", "--half-rps", "40", "--half-s", "1"),
    *("--idle-s", "0.5", "--soak-s", "2", "--flood-s", "1", "--bound-ms", "2000", "--overload-bound-ms", "2000"),
)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "bundle")


def last(out: str) -> Any:
    return json.loads(out.splitlines()[-1])


@two_cores
def test_ours_is_measured_alone_in_a_short_real_run(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "LATEST_MS", 1e6)  # how late a generator is on a busy machine is not what is tested
    parts, out = "overhead,idle,start,soak", tmp_path / "found.json"
    code = main(["--bundle", str(bundle.path), "--only", parts, "--peers", "", *SHORT, "--out", str(out)])
    told = last(capsys.readouterr().out)
    assert code == 1  # nothing is known of memory after two seconds
    assert told["figures"]["memory"]["kept"] == "not known"
    assert told["not_measured"] == {}
    assert list(told["found"]) == parts.split(",")
    assert set(told["figures"]) == {
        *("overhead, p50", "overhead, p99", "idle CPU", "ready", "first answer, of the steady p50", "memory"),
        *("best scores of one text, apart", "overhead, requests lost", "soak, requests lost"),
    }
    assert told["figures"]["overhead, p50"]["value"] > 0
    assert told["found"]["overhead"]["requests"] > 20
    assert told["bundle"]["digest"] == bundle.digest
    assert told["machine"]["cores"] > 0
    assert json.loads(out.read_text())["figures"] == told["figures"]


@two_cores
def test_a_part_that_cannot_be_measured_does_not_end_the_others(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--bundle", str(bundle.path), "--only", "half,overload,idle", "--peers", "", *SHORT]
    code = main(asked)
    told = last(capsys.readouterr().out)
    assert code == 1
    assert told["not_measured"] == {
        "half": "half needs the best peer's peak: measure peak too, or give --half-rps and one of --peers",
        "overload": "overload needs --slow-bundle, a model that a core answers about 150 times a second",
    }
    assert list(told["found"]) == ["idle"]


@two_cores
def test_a_peer_that_is_not_there_is_told_with_its_error(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    why = "bentoml cannot be installed (pip ended with 1); its last lines:\n  no"

    def fail(*_: object) -> Path:
        raise Transient(why)

    monkeypatch.setattr(contest_module, "install", fail)
    main(["--bundle", str(bundle.path), "--only", "idle", "--peers", "bentoml", *SHORT])
    out = capsys.readouterr().out
    assert last(out)["not_measured"] == {
        "bentoml": "bentoml cannot be installed (pip ended with 1); its last lines:\n  no"
    }
    assert "bentoml was not measured: bentoml cannot be installed (pip ended with 1); its last lines:" in out


@two_cores
def test_the_half_of_a_peak_is_the_peak_s_that_was_measured(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, float] = {}
    point = Rate(100.0, 5.0, 500, 500, 0, 0, 1.0, 2.0, 3.0, late_p50_ms=0.1, late_p99_ms=0.2)
    rates = {OURS: 700.0, "fastapi": 450.0, IN_PROCESS: 800.0}
    peaks = Peaks({name: (ServerResult("http", 25.0, 99, rps, (point,)),) for name, rps in rates.items()}, 1)

    def overhead(_: object, *, rps: float, **__: object) -> Any:
        seen["overhead"] = rps
        raise Transient("not measured here")

    def half(_: object, *, rps: float, best_peer: str, **__: object) -> Any:
        seen[best_peer] = rps
        raise Transient("not measured here")

    monkeypatch.setattr(serving_bench, "find_peaks", lambda *_, **__: peaks)
    monkeypatch.setattr(serving_bench, "measure_half", half)
    monkeypatch.setattr(serving_bench, "measure_overhead", overhead)
    assert main(["--bundle", str(bundle.path), "--only", "peak,half,overhead", "--peers", ""]) == 1
    assert seen == {"fastapi": 225.0, "overhead": 350.0}


@two_cores
@pytest.mark.parametrize(("share", "code"), [(0.001, 0), (0.5, 1), (None, 1)])
def test_it_ends_well_only_where_every_figure_is_kept(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, share: float | None, code: int
) -> None:
    idle = Idle(1.0, share or 0.0)
    monkeypatch.setattr(Idle, "figures", lambda _: (Figure.most("idle CPU", share, 0.01),))
    monkeypatch.setattr(serving_bench, "measure_idle", lambda *_, **__: idle)
    assert main(["--bundle", str(bundle.path), "--only", "idle", "--peers", ""]) == code


# -- an hour is not lost -----------------------------------------------------------------------------------------------


def peaks_of(**rates: float) -> Peaks:
    """Of one round; OURS by the name `ours`, and in process by `floor`."""
    names = {"ours": OURS, "floor": IN_PROCESS}
    found = {name: (ServerResult("http", 25.0, 99, rps, (), broken_rps=1.01 * rps),) for name, rps in rates.items()}
    return Peaks({names.get(name, name): each for name, each in found.items()}, rounds=1)


def failing(error: BaseException) -> Any:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


@two_cores
def test_what_is_known_is_written_after_every_search_and_part(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen = tmp_path / "found.json", []

    def written() -> Any:
        return json.loads(out.read_text())

    def find(*_: object, keep: Any, **__: object) -> Peaks:
        for rates in ({"fastapi": 450.0}, {"fastapi": 450.0, "ours": 700.0}):
            keep(peaks_of(**rates))
            seen.append(list(written()["found"]["peak"]["searches"]))
        return peaks_of(fastapi=450.0, ours=700.0, floor=750.0)

    def half(*_: object, **__: object) -> Any:
        seen.append([written()["figures"]["peak over the best peer's"]["kept"]])
        raise Transient("not measured here")

    def idle(*_: object, **__: object) -> Idle:
        seen.append([written()["not_measured"]["half"]])
        return Idle(1.0, 0.001)

    for name, does in {"find_peaks": find, "measure_half": half, "measure_idle": idle}.items():
        monkeypatch.setattr(serving_bench, name, does)
    assert main(["--bundle", str(bundle.path), "--only", "peak,half,idle", "--peers", "", "--out", str(out)]) == 1
    assert seen == [["fastapi"], ["fastapi", OURS], ["yes"], ["not measured here"]]
    assert list(written()["found"]) == ["peak", "idle"]


@two_cores
def test_what_is_kept_names_no_folder_of_the_machine(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_bench, "measure_idle", lambda *_, **__: Idle(1.0, 0.001))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.jsonl").write_text('{"text": "a fine day"}\n')
    out = tmp_path / "found.json"
    asked = ["--bundle", str(bundle.path), "--texts", "texts.jsonl", "--only", "idle", "--peers", "", "--out", str(out)]
    assert main(asked) == 0
    kept = json.loads(out.read_text())["asked"]
    assert [kept[name] for name in ("bundle", "texts", "out")] == ["bundle", "texts.jsonl", "found.json"]
    assert str(tmp_path) not in out.read_text()


@two_cores
def test_a_part_that_ends_with_what_no_one_expected_does_not_end_the_others(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serving_bench, "measure_overhead", failing(ValueError("no JSON")))
    monkeypatch.setattr(serving_bench, "measure_idle", lambda *_, **__: Idle(1.0, 0.001))
    assert main(["--bundle", str(bundle.path), "--only", "overhead,idle", "--peers", "", "--half-rps", "9"]) == 1
    told, errors = capsys.readouterr()
    assert last(told)["not_measured"] == {"overhead": "ValueError: no JSON"}
    assert list(last(told)["found"]) == ["idle"]
    assert "Traceback (most recent call last):" in errors


@two_cores
def test_an_interrupted_bench_tells_what_there_is(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serving_bench, "find_peaks", lambda *_, **__: peaks_of(fastapi=450.0, ours=700.0, floor=750.0))
    monkeypatch.setattr(serving_bench, "measure_half", failing(KeyboardInterrupt()))
    out = tmp_path / "found.json"
    assert main(["--bundle", str(bundle.path), "--only", "peak,half,idle", "--peers", "", "--out", str(out)]) == 130
    told = last(capsys.readouterr().out)
    assert (list(told["found"]), told["not_measured"]) == (["peak"], {"half": "interrupted"})
    assert told["figures"]["peak over the best peer's"]["kept"] == "yes"
    assert json.loads(out.read_text())["not_measured"] == {"half": "interrupted"}


@two_cores
def test_without_a_round_of_ours_the_peak_is_an_error_and_what_needs_it_is_told_why(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[float] = []

    def half(*_: object, rps: float, **__: object) -> Any:
        seen.append(rps)
        raise Transient("not measured here")

    monkeypatch.setattr(serving_bench, "find_peaks", lambda *_, **__: peaks_of(fastapi=450.0, floor=750.0))
    monkeypatch.setattr(serving_bench, "measure_half", half)
    assert main(["--bundle", str(bundle.path), "--only", "peak,half,overhead,soak", "--peers", ""]) == 1
    told, needed = last(capsys.readouterr().out), "half of our peak is not known: measure peak too, or give --half-rps"
    assert told["not_measured"] == {
        "peak": f"{OURS} failed in every round, the last time with: nothing said",
        "half": "not measured here",
        "overhead": needed,
        "soak": needed,
    }
    assert (seen, list(told["found"]["peak"]["searches"])) == ([225.0], ["fastapi", IN_PROCESS])


@two_cores
def test_a_file_that_cannot_be_written_is_told_and_ends_nothing(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serving_bench, "measure_idle", lambda *_, **__: Idle(1.0, 0.001))
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "found.json"
    assert main(["--bundle", str(bundle.path), "--only", "idle", "--peers", "", "--out", str(out)]) == 1
    told, errors = capsys.readouterr()
    assert list(last(told)["found"]) == ["idle"]
    assert f"--out {out} cannot be written: " in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "peak,pique"), f"--only pique: parts are {', '.join(PARTS)}"),
        (("--rounds", "0"), "--rounds must be above 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(["--bundle", "b", *arguments])
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"error: {message}")


def test_an_unknown_peer_ends_the_bench_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--bundle", str(tmp_path), "--peers", "nobody"]) == 64
    assert capsys.readouterr().err.startswith("error: --peers nobody: nobody here is called so; there are fastapi")


# -- texts -------------------------------------------------------------------------------------------------------------


def test_texts_come_from_json_lines_packed_ones_or_plain_lines(tmp_path: Path) -> None:
    import gzip

    rows = b'{"sentence": "a b", "label": 1}\n{"text": "c"}\n'
    (tmp_path / "a.jsonl").write_bytes(rows)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows))
    (tmp_path / "a.txt").write_text("a b\n\nc\n")
    assert {tuple(sorted(read_texts(path))) for path in tmp_path.iterdir()} == {("a b", "c")}


def test_texts_are_the_bundle_s_own_where_no_file_is_given(bundle: Bundle) -> None:
    assert texts_of(bundle, None) == tuple(item[0] for item in bundle.golden.items)


@pytest.mark.parametrize(
    ("content", "message"), [("\n", "holds no text: give lines, or JSON with a field text or"), ("{", None)]
)
def test_a_file_without_texts_is_refused(tmp_path: Path, content: str, message: str | None) -> None:
    path = tmp_path / ("a.txt" if message else "a.jsonl")
    path.write_text(content)
    with pytest.raises(BadRequest, match=f"^--texts {path} {message or 'cannot be read: '}"):
        read_texts(path)


def test_texts_are_joined_and_cut_to_a_number_of_tokens(bundle: Bundle) -> None:
    texts = of_length(["good bad fine", "dull awful"], bundle, tokens=12)
    assert texts
    assert {len(text.split()) + 2 for text in texts} == {12}


# -- overload ----------------------------------------------------------------------------------------------------------


def test_a_flood_of_our_real_server_is_accounted_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "LATEST_MS", 1e6)
    monkeypatch.setattr(overload, "BACK_S", 1.0)
    slow = tiny_bundle(tmp_path / "slow", work=700)
    plan = Plan(bound_ms=400.0, percent=50, start_rps=16.0, steps=1, seconds=1.0)
    contest = Contest(slow, ("good", "bad bad good"), {}, cores=(), generator=())
    found = overload.measure_overload(contest, plan=plan, flood_s=1.0)
    for each in (found.twice, found.flood):
        assert each.sent == each.accepted + each.rejected + each.lost > 0
    assert found.peak.best_rps
    assert found.flood.sent > 2 * found.twice.sent
    assert found.flood.rejected > 0
    assert len(overload.rows(found)[0]) == len(overload.HEADINGS)
