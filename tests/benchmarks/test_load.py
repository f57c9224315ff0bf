"""A load's findings in words, and the page that shows them."""

import math
import re
from typing import Any

import msgspec
import pytest

from benchmarks.load import Loaded, Phase, Target, load_rate, phases_of
from benchmarks.load_page import load_page_of, phases_table, points_table
from benchmarks.machine import read
from benchmarks.openloop import trace as trace_module
from benchmarks.openloop.results import Rate
from benchmarks.openloop.running import running
from benchmarks.openloop.trace import Trace
from serving.errors import Transient

POINT = Rate(200.0, 30.0, 6000, 5990, 8, 2, 2.5, 4.0, 9.75, late_p50_ms=0.01, late_p99_ms=0.2)
RATE = Loaded(
    "http://h:1/<p>",
    "rate",
    "2026-01-01T00:00:00+00:00",
    31.4,
    3,
    (POINT,),
    read(),
    latencies_ms=(*(1.0 + i / 100 for i in range(2000)), None, None),
    phases=(Phase("infer", 5990, 1.2345, 3.0),),
)


def point(rps: float, p99_ms: float, *, void: str = "") -> Rate:
    return msgspec.structs.replace(POINT, offered_rps=rps, p99_ms=p99_ms, void=void)


PEAK = msgspec.structs.replace(
    RATE,
    kind="peak",
    points=(point(200.0, 9.75), point(400.0, 80.0), point(283.0, 20.0)),
    bound_ms=25.0,
    best_rps=283.0,
    broken_rps=400.0,
    latencies_ms=(),
    phases=(),
)


def test_a_rate_is_told_in_a_line() -> None:
    assert RATE.told() == (
        "200 requests/s for 30 s: 5,990 of 6,000 answered, 8 refused, 2 failed; p50 / p90 / p99 2.50 / 4.00 / 9.75 ms"
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "283 requests/s kept p99 <= 25 ms, 400 broke it"),
        ({"broken_rps": None}, "283 requests/s kept p99 <= 25 ms, none was seen to break it"),
        ({"best_rps": None}, "no rate kept p99 <= 25 ms, down to 200 requests/s"),
    ],
)
def test_a_search_is_told_in_a_line(changes: dict[str, Any], told: str) -> None:
    assert msgspec.structs.replace(PEAK, **changes).told() == told


def test_a_search_that_ended_at_a_void_point_found_nothing_for_certain() -> None:
    assert (RATE.void, PEAK.void) == ("", "")
    ended = msgspec.structs.replace(PEAK, points=(*PEAK.points, point(350.0, 20.0, void="it lagged")))
    assert ended.void == "it lagged"
    earlier = msgspec.structs.replace(PEAK, points=(point(350.0, 20.0, void="it lagged"), *PEAK.points))
    assert earlier.void == "", "it was asked again"


def test_the_page_of_a_rate_shows_latencies_phases_and_the_machine() -> None:
    page = load_page_of(RATE)
    assert "<h1>Load on http://h:1/&lt;p&gt;</h1>" in page
    assert RATE.told() in page
    assert page.count("<svg") == 2
    assert "2 requests without a good answer are not drawn." in page
    assert '<td data-is="p50 ms">1.234</td>' in page
    assert RATE.machine.cpu_model in page
    assert not re.search(r"<script|(src|href)=\"(?!#)", page), "nothing is fetched, nothing runs"


def test_the_page_of_a_search_shows_the_rates_beside_the_bound() -> None:
    page = load_page_of(PEAK)
    assert page.count("<svg") == 1
    assert "bound of 25 ms" in page
    assert "Where the server" not in page
    assert [row[-1] for row in points_table(PEAK).rows] == ["", "", "the highest within the bound"]
    assert phases_table(PEAK).rows == ()


def test_a_page_of_which_nothing_is_known_says_why() -> None:
    void = msgspec.structs.replace(RATE, points=(point(200.0, 9.0, void="it lagged"),), latencies_ms=(None,))
    page = load_page_of(void)
    assert "<p>Void: it lagged.</p>" in page
    assert "<svg" not in page


def test_phases_are_those_of_good_answers_after_the_warm_up() -> None:
    due_ns = [0, 600_000_000, 700_000_000, 800_000_000]
    told = ["a;dur=9", "a;dur=1, b;dur=5", "a;dur=3", "a;dur=99"]
    found = phases_of(Trace(10.0, 0.5, 1.0, due_ns, due_ns, due_ns, [200, 200, 200, 503], told))
    assert found == (Phase("a", 2, 1.0, 3.0), Phase("b", 1, 5.0, 5.0))


def test_a_server_that_answers_the_first_request_alone_gave_no_good_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_module, "LATEST_MS", math.inf)
    monkeypatch.setattr("benchmarks.load.require_answer", lambda _: None)
    monkeypatch.setattr("benchmarks.load.trace_http", lambda _: Trace(9.0, 0.0, 1.0, [0, 1], [0, 1], [5, -1], [503, 0]))
    with pytest.raises(Transient) as caught:
        load_rate(Target("http://h:1/", ("{}",)), rps=9.0, seconds=1.0)
    assert str(caught.value) == (
        "http://h:1/ gave no good answer to 2 requests (1 refused, 1 failed); offer fewer a second, or look at its log"
    )


def test_latencies_stand_in_the_order_of_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_module, "LATEST_MS", math.inf)
    with running(["benchmarks.openloop.answerer"], cores=()) as server:
        found = load_rate(Target(f"{server.url}/", ("{}",), connections=32), rps=50.0, seconds=0.5)
    assert len(found.latencies_ms) == found.points[0].sent > 5
    assert (found.phases, found.bodies, found.kind) == ((), 1, "rate")
