"""`retort load` against the real server in a process of its own: what is told, and what is refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Ended, Retort, runner
from fakes import tiny_bundle

from benchmarks.openloop import trace
from benchmarks.openloop.running import Running, real_server, running

TEXTS = "good\nbad bad good\na fine day\n"
SHORT = ("--data", "texts.txt", "--rate", "40", "--seconds", "1")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    bundle = tiny_bundle(tmp_path_factory.mktemp("load") / "bundle")
    with real_server(bundle.path, threads=1, queue=64, cores=()) as server:
        yield server


@pytest.fixture
def retort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Retort:
    """Runs the command line in a folder with texts; how late a generator is on a busy machine is not what is tested."""
    (tmp_path / "texts.txt").write_text(TEXTS)
    (tmp_path / "reviews.jsonl").write_text('{"sentence": "good"}\n{"sentence": "bad"}\n')
    (tmp_path / "key").write_text("sesame\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trace, "LATEST_MS", 1e6)
    return runner(monkeypatch, capsys)


def test_one_rate_is_offered_and_told_as_a_table_a_page_and_a_line_of_json(
    retort: Retort, server: Running, tmp_path: Path
) -> None:
    told = retort("load", server.url, *SHORT)
    assert told.code == 0, told.err
    (point,) = told.json["points"]
    assert (point["offered_rps"], point["seconds"], point["answered"]) == (40, 1, point["sent"])
    assert (told.json["url"], told.json["bodies"]) == (f"{server.url}/classify", 3)
    assert [phase["name"] for phase in told.json["phases"]] == ["queue", "tokenize", "infer", "total"]
    assert {phase["n"] for phase in told.json["phases"]} == {point["answered"]}
    assert (
        f"load:       40 requests/s for 1 s: {point['sent']} of {point['sent']} answered, 0 refused, 0 failed"
        in told.out
    )
    page = (tmp_path / ".retort/load/report.html").read_text()
    assert "<h1>Load on http://127.0.0.1:" in page
    assert page.count("<svg") == 2
    assert "Where the server&#39;s time went" in page or "Where the server's time went" in page
    kept = (tmp_path / ".retort/load/load.json").read_text()
    assert '"latencies_ms":[' in kept
    assert told.json["latencies_ms"] == []


def test_the_highest_rate_within_a_bound_is_searched(retort: Retort, server: Running, tmp_path: Path) -> None:
    searching = ("--find-peak", "--within-ms", "0.001", "--percent", "50", "--rate", "64", "--seconds", "0.4")
    told = retort("load", server.url, "--data", "texts.txt", *searching, "--out", "found")
    assert told.code in (0, 67), told.err
    assert (told.json["kind"], told.json["percent"], told.json["bound_ms"]) == ("peak", 50, 0.001)
    assert [point["offered_rps"] for point in told.json["points"]][:2] == [64, 32]
    assert told.json["best_rps"] is None
    assert "no rate kept p50 <= 0.001 ms, down to " in told.out
    assert (tmp_path / "found/report.html").is_file()


def test_other_protocols_of_the_same_server_are_loaded(retort: Retort, server: Running) -> None:
    told = retort("load", server.url, *SHORT, "--protocol", "invocations")
    assert told.code == 0, told.err
    assert told.json["url"] == f"{server.url}/invocations"
    told = retort("load", f"{server.url}/v2/models/tiny/infer", *SHORT, "--protocol", "v2")
    assert told.code == 0, told.err
    template = '{"texts": [{{text}}, "bad"]}'
    columns = ("--data", "reviews.jsonl", "--text", "sentence", "--body-template", template)
    told = retort("load", server.url, *SHORT, *columns)
    assert (told.code, told.json["bodies"]) == (0, 2)


def test_a_load_whose_generator_came_late_ends_as_not_known(
    retort: Retort, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "LATEST_MS", 0.0)
    told = retort("load", server.url, *SHORT)
    assert told.code == 67
    assert told.err.startswith("retort: the load says nothing about the server: the generator lagged: its p99 lateness")
    assert told.json["points"][0]["void"]


def refused(told: Ended, code: int, message: str) -> None:
    assert (told.code, told.err.strip()) == (code, f"retort: {message}")


def test_what_the_server_answers_first_is_told(retort: Retort, server: Running) -> None:
    told = retort("load", f"{server.url}/nothing", *SHORT)
    assert told.code == 64
    assert told.err.startswith('retort: the server answered the first request with 404: {"error":')
    told = retort("load", server.url, *SHORT, "--body-template", '{"words": {{text}}}')
    assert told.code == 64
    assert told.err.startswith('retort: the server answered the first request with 422: {"error":')


def test_a_server_that_takes_nothing_is_told(retort: Retort) -> None:
    told = retort("load", "127.0.0.1:9", *SHORT)
    refused(told, 75, "127.0.0.1:9 took 0 of 1 connections; start the server, or ask for fewer")


def test_a_server_that_fails_after_its_first_answer_is_told(retort: Retort) -> None:
    with running(["benchmarks.openloop.answerer", "--status", "429"], cores=()) as server:
        told = retort("load", server.url, *SHORT)
    assert told.code == 64
    assert told.err.startswith('retort: the server answered the first request with 429: {"results": []}')


def test_headers_and_a_key_go_with_each_request_and_into_no_report(
    retort: Retort, server: Running, tmp_path: Path
) -> None:
    told = retort("load", server.url, *SHORT, "--header", "X-Request-Timeout-Ms: soon", "--api-key-file", "key")
    assert told.code == 64
    assert "X-Request-Timeout-Ms is 'soon'" in told.err
    told = retort("load", server.url, *SHORT, "--api-key-file", "key")
    assert told.code == 0, told.err
    assert "sesame" not in told.out + (tmp_path / ".retort/load/report.html").read_text()
    assert "sesame" not in (tmp_path / ".retort/load/load.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no texts: give them with --data FILE, or a body with --body-template"),
        (("--data", "texts.txt", "--rate", "0"), "--rate 0: give a number above 0"),
        (("--data", "texts.txt", "--rate", "nan"), "--rate nan: give a number above 0"),
        (("--data", "texts.txt", "--seconds", "-1"), "--seconds -1: give a number above 0"),
        (("--data", "texts.txt", "--find-peak", "--within-ms", "0"), "--within-ms 0: give a number above 0"),
        (
            ("--data", "texts.txt", "--find-peak", "--percent", "95"),
            "a rate cannot be bounded by p95: its points have p50, p90, p99",
        ),
        (
            ("--data", "texts.txt", "--protocol", "v2"),
            "--protocol v2 needs the model's path: --route /v2/models/NAME/infer",
        ),
        (("--data", "texts.txt", "--header", "nothing"), "--header 'nothing': expected 'NAME: VALUE' in ASCII"),
        (
            ("--data", "texts.txt", "--header", "A: b\r\nC: d"),
            "--header 'A: b\\r\\nC: d': expected 'NAME: VALUE' in ASCII",
        ),
        (
            ("--data", "texts.txt", "--api-key-file", "nowhere"),
            "--api-key-file nowhere cannot be read: [Errno 2] No such file or directory: 'nowhere'",
        ),
    ],
)
def test_a_wrong_request_is_one_clear_message(retort: Retort, arguments: tuple[str, ...], message: str) -> None:
    refused(retort("load", "127.0.0.1:9", *arguments), 64, message)


def test_only_plain_http_is_spoken(retort: Retort) -> None:
    message = "url is 'https://h/classify': load goes over plain HTTP; write http://HOST:PORT/PATH"
    refused(retort("load", "https://h", *SHORT), 64, message)
