import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from serving.security import notes
from serving.security.notes import LogFormat, Requests, Told, logging_to

TOLD = Told("r-1", "POST", "/classify", 200, 1.5, "ok", "10.0.0.1", "alice")
_log = logging.getLogger("serving.test")


def lines_of(work: Callable[[], None], *, form: LogFormat = "json") -> list[str]:
    reader, writer = os.pipe()
    with logging_to(writer, form=form):
        work()
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as file:
        return file.read().splitlines()


def log_of(work: Callable[[], None]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_of(work)]


def test_a_line_of_json_has_the_time_the_level_and_what_was_said() -> None:
    (line,) = log_of(lambda: _log.info("served %s", "x\ny"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {"level": "info", "logger": "serving.test", "message": "served x\ny"}


def test_a_failure_s_trace_is_in_its_line_of_json() -> None:
    def fail() -> None:
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            _log.exception("failed")

    (line,) = log_of(fail)
    assert line["message"] == "failed"
    assert line["trace"].endswith("ZeroDivisionError: division by zero")


def test_a_request_s_line_has_its_fields() -> None:
    (line,) = log_of(lambda: Requests(every=True).note(TOLD))
    del line["time"]
    assert line == {
        "level": "info",
        "logger": "serving.requests",
        "message": "answered 200 in 1.5 ms",
        "id": "r-1",
        "method": "POST",
        "path": "/classify",
        "status": 200,
        "ms": 1.5,
        "outcome": "ok",
        "client": "10.0.0.1",
        "key": "alice",
    }


def test_as_text_what_a_client_sent_cannot_make_a_line_of_its_own() -> None:
    told = Told("r-1", "GET", "/a\n2026 INFO forged \udc80", 503, 1.5)
    (line,) = lines_of(lambda: Requests(every=False).note(told), form="text")
    assert line.endswith(
        " WARNING serving.requests answered 503 in 1.5 ms id='r-1' method='GET' "
        r"path='/a\n2026 INFO forged \udc80' status=503 ms=1.5"
    )


def test_a_path_that_is_no_utf_8_is_written_all_the_same() -> None:
    (line,) = log_of(lambda: Requests(every=False).note(Told("r", "GET", "/\udcff", 500, 1.0)))
    assert line["path"] == "/\\udcff"


def test_a_storm_of_failures_is_cut_and_the_cut_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    sparing = notes._Sparing(clock=lambda: now_s[0])
    record = logging.LogRecord("a", logging.ERROR, "", 0, "failed", (), None)
    assert [sparing.filter(record) for _ in range(60)].count(True) == notes.MOST_A_SECOND
    assert sparing.filter(logging.LogRecord("b", logging.ERROR, "", 0, "other", (), None))
    assert all(sparing.filter(logging.LogRecord("a", logging.INFO, "", 0, "fine", (), None)) for _ in range(60))
    now_s[0] = 1.0
    later = logging.LogRecord("a", logging.ERROR, "", 0, "failed again", (), None)
    assert sparing.filter(later)
    assert later.getMessage() == "failed again (10 lines before this were left out)"


def test_requests_that_had_no_line_are_told_with_the_next_one() -> None:
    now_s = [0.0]

    def fail() -> None:
        requests = Requests(every=False, clock=lambda: now_s[0])
        failed = msgspec.structs.replace(TOLD, status=503)
        assert [requests.wants(503) for _ in range(60)].count(True) == notes.MOST_A_SECOND
        assert not requests.wants(200)
        now_s[0] = 1.0
        for _ in range(2):
            assert requests.wants(503)
            requests.note(failed)

    messages = [line["message"] for line in log_of(fail)]
    assert messages == ["answered 503 in 1.5 ms (10 lines before this were left out)", "answered 503 in 1.5 ms"]


def test_a_reader_that_is_stuck_holds_up_nobody_and_what_was_lost_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "MOST_WAITING", 100)
    monkeypatch.setattr(notes, "FLUSH_S", 5.0)
    reader, writer = os.pipe()
    seen: list[bytes] = []

    def drain() -> None:
        while chunk := os.read(reader, 65536):
            seen.append(chunk)

    thread = threading.Thread(target=drain)
    with logging_to(writer, form="json"):
        started_s = time.monotonic()
        for _ in range(1000):
            _log.info("x" * 1000)
        assert time.monotonic() - started_s < 2.0
        thread.start()
        time.sleep(0.3)
        _log.info("again")
    os.close(writer)
    thread.join(10)
    os.close(reader)
    last = json.loads(b"".join(seen).splitlines()[-1])
    assert re.fullmatch(r"again \(\d{3} lines did not fit before this\)", last["message"])


def test_a_reader_that_never_reads_does_not_keep_the_process_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "FLUSH_S", 0.1)
    reader, writer = os.pipe()
    started_s = time.monotonic()
    with logging_to(writer, form="json"):
        for _ in range(200):
            _log.info("x" * 1000)
    assert time.monotonic() - started_s < 2.0
    os.close(reader)  # the thread that writes ends by it
    os.close(writer)


def test_a_reader_that_is_gone_is_no_failure() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with logging_to(writer, form="json"):
        _log.info("nobody hears this")
    os.close(writer)
