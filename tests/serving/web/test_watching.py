"""What the page says of the server in a real Chromium: whether it is well, rates, phases, versions, and its end."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import tiny_bundle
from selenium.webdriver.common.keys import Keys

from serving.faults import Unauthorized
from serving.http import Asked
from serving.models import Live, load
from serving.registry import Resolved

RunSite = Callable[..., AbstractContextManager[Any]]
Open = Callable[..., Any]
OTHER = {"name": "m", "digest": "d" * 64}
WELL: Mapping[str, Any] = {
    "source": "models:/m@champion",
    "registry_up": True,
    "alias_found": True,
    "polled_s_ago": 3.2,
    "from_cache": False,
    "versions": [],
    "quarantined": [],
    "rollbacks": 0,
    "canary": None,
    "shadow": None,
}

ON: Mapping[str, Any] = {"off": None, "trouble": None}
COMPARED: Mapping[str, Any] = {
    "compared": 1204,
    "agreed": 1188,
    "agreement": 1188 / 1204,
    "measure": "kl",
    "mean": 0.00213,
    "worst": 0.41,
    "dropped": 17,
    "main": {"version": "7", "p50_ms": 1.2, "p99_ms": 3.4},
    "shadow": {"p50_ms": 0.9, "p99_ms": 2.9},
}
NOTHING: Mapping[str, Any] = {**COMPARED, "compared": 0, "dropped": 0, "main": None, "shadow": None}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Live:
    path = tmp_path_factory.mktemp("watching") / "bundle"
    return load(Resolved(path=path, name="m", version="7", digest=tiny_bundle(path).digest), threads=1)


@pytest.fixture(scope="module")
def followed(run_site: RunSite, model: Live) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A server, and the state that it tells."""
    state: dict[str, Any] = {}
    with run_site(model, following=lambda: state) as site:
        yield site, state


def told(version: str, **changes: Any) -> dict[str, Any]:
    plain = {"lane": "", "role": "serving", "version": version, "since": None, "requests": 0, "errors": 0}
    return {**OTHER, **plain, "p50_ms": None, "p99_ms": None, **changes}


def test_rates_and_phases_follow_the_traffic(run_site: RunSite, page: Open, model: Live) -> None:
    with run_site(model) as site:
        shown = page(site.url)
        assert shown.text("#headline") == "m version 7 is in service and well"
        assert shown.text("#phases .hint") == "Latency by phase; nothing was answered yet"
        stop = threading.Event()

        def ask() -> None:
            with httpx.Client() as client:
                while not stop.wait(0.01):
                    client.post(f"{site.url}/classify", json={"texts": ["good"]})
                    client.post(f"{site.url}/classify", json={"texts": []})

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            rate = "Number(document.querySelectorAll('.tile b')[arguments[0]].innerText)"
            for place, name in ((0, "Answered"), (3, "Bad requests")):
                assert shown.texts(".tile h3")[place] == name
                shown.wait(f"{rate} > 3", place, what=f"a rate of {name}")
            shown.wait("document.querySelector('#phases .hint').innerText.includes('answered in the last')")
        finally:
            stop.set()
            asking.join()
        rows = [row.split("\t") for row in shown.texts("#phases tbody tr")]
        assert [row[0] for row in rows] == ["queue", "tokenize", "infer", "other"]
        assert all(row[1].endswith(" ms") and row[2].endswith(" ms") for row in rows)
        assert "answered a second · the model's p99 " in shown.text("#details")
        shown.wait("document.querySelector('.tile path').getAttribute('d').split('L').length > 2", what="a line")
        shown.wait(f"{rate} === 0", 0, what="the rate to fall again")
        assert shown.complaints() == []


def test_versions_and_the_shadow_s_agreement_are_told(run_site: RunSite, page: Open, model: Live) -> None:
    state = {
        **WELL,
        "versions": [
            told("7", requests=1500, errors=2, p50_ms=1.234, p99_ms=12.34, since="2026-11-22T03:11:40+00:00"),
            told("6", role="hot"),
            told("8", lane="canary", requests=75),
            told("9", lane="shadow"),
        ],
        "canary": {**ON, "source": "models:/m@challenger", "version": "8", "share": 0.05, "requests": 75},
        "shadow": {**ON, "source": "models:/m@next", "version": "9", **COMPARED},
    }
    with run_site(model, following=lambda: state) as site:
        shown = page(site.url)
        rows = [row.split("\t") for row in shown.texts("#lanes tbody tr")]
        assert rows[0][:7] == ["m 7", "main", "d" * 12, "1,500", "2", "1.23 ms", "12.3 ms"]
        assert [row[1] for row in rows] == ["main", "kept loaded", "canary", "shadow"]
        assert shown.texts("#lanes li") == [
            "Follows models:/m@champion. The registry answers, asked a few seconds ago.",
            "The canary, models:/m@challenger, is on: version 8 is given 5 % of the requests and answered 75.",
            "The shadow, models:/m@next, is on: version 9 gives the same answer for 98.7 % of 1,204 items; mean "
            "divergence (KL) 0.00213, worst 0.41; p99 2.90 ms against 3.40 ms; 17 requests were not shown to it for "
            "want of time.",
        ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"off": "its alias is <b>gone</b>", "version": None}, "off: its alias is <b>gone</b>."),
        ({}, "on: version 8 {}."),
        ({"trouble": "the disk is full"}, "on: version 8 {}. But: the disk is full."),
    ],
)
def test_a_canary_and_a_shadow_are_said_to_be_on_or_off_and_why(
    followed: Any, page: Open, changes: dict[str, Any], told: str
) -> None:
    site, state = followed
    beside = {**ON, "source": "models:/m@next", "version": "8", **changes}
    state.clear()
    state.update({**WELL, "canary": {**beside, "share": 0.05, "requests": 0}, "shadow": {**beside, **NOTHING}})
    shown = page(site.url)
    assert shown.texts("#lanes li")[1:] == [
        f"The canary, models:/m@next, is {told.format('is given 5 % of the requests and answered 0')}",
        f"The shadow, models:/m@next, is {told.format('has not computed anything yet')}",
    ]


def test_a_canary_beside_a_version_that_stays_is_no_alias_of_that_version(followed: Any, page: Open) -> None:
    site, state = followed
    canary = {**ON, "source": "models:/m@next", "version": "8", "share": 0.05, "requests": 3}
    state.clear()
    state.update({**WELL, "source": "models:/m/7", "registry_up": None, "alias_found": None, "canary": canary})
    assert page(site.url).texts("#lanes li") == [
        "Served from models:/m/7; it follows no alias.",
        "The canary, models:/m@next, is on: version 8 is given 5 % of the requests and answered 3.",
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"registry_up": False}, "The registry is away: this version stays until it answers."),
        (
            {"registry_up": False, "from_cache": True},
            "The registry is away since before the start: this version came from the cache.",
        ),
        ({"alias_found": False}, "The alias is gone: this version stays until it names another."),
        ({"rollbacks": 1}, "A version was taken back by the alarm."),
        (
            {"quarantined": [{"lane": "canary", "version": "8", "why": "it is <b>unfit</b>"}]},
            "Version 8 (canary) was refused; see Versions.",
        ),
    ],
)
def test_the_first_line_warns(followed: Any, page: Open, changes: dict[str, Any], reason: str) -> None:
    site, state = followed
    state.clear()
    state.update({**WELL, **changes})
    shown = page(site.url)
    assert shown.text("#headline") == "m version 7 is in service, with a warning"
    assert shown.texts("#reasons li") == [reason]
    assert shown.js("document.title") == "! m 7"
    if "quarantined" in changes:
        assert shown.texts("#lanes li")[-1] == "Version 8 (canary) is refused until the alias moves: it is <b>unfit</b>"


def test_requests_turned_away_and_draining_are_told(run_site: RunSite, page: Open, model: Live) -> None:
    with run_site(model) as site:
        shown = page(site.url)
        for _ in range(3):
            site.desk.metrics.count("rejected")
        shown.wait("document.documentElement.dataset.level === 'warn'")
        assert shown.texts("#reasons li") == [
            "3 requests were turned away in the last minute: it has more to do than it can."
        ]
        site.desk.draining = True
        shown.wait("document.getElementById('headline').innerText.endsWith('is draining and will stop')")
        site.desk.draining = False


def test_few_failures_warn_and_many_are_an_alarm(run_site: RunSite, page: Open, tmp_path: Path) -> None:
    digest = tiny_bundle(tmp_path / "b").digest
    model = load(Resolved(path=tmp_path / "b", name="m", version="7", digest=digest), threads=1)
    with run_site(model) as site:
        shown = page(site.url)
        model.tally.add([1.0] * 199, errors=1)
        shown.wait("document.documentElement.dataset.level === 'warn'")
        assert shown.texts("#reasons li") == ["1 of 200 requests failed in the last minute."]
        model.tally.add([], errors=50)
        shown.wait("document.documentElement.dataset.level === 'bad'")
        assert shown.text("#headline") == "m version 7 is in service and not well"


def test_a_server_that_is_gone_is_told_and_comes_back(run_process: Any, page: Open, tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "first", name="first")
    tiny_bundle(tmp_path / "second", name="second", task="regression")
    with run_process(tmp_path / "first") as server:
        shown = page(server.url)
        shown.ask("good")
        port = int(server.url.rpartition(":")[2])
    shown.wait("document.documentElement.dataset.level === 'gone'")
    assert shown.text("#headline") == "The server does not answer"
    assert shown.text("#details").endswith("; this page asks again every second")
    shown.browser.find_element("css selector", "#send").click()
    shown.wait("document.querySelector('#result [role=alert]')")
    assert shown.text("#result [role=alert]") == "No answer\nThe server cannot be reached."

    with run_process(tmp_path / "second", port=port):
        shown.wait("document.documentElement.dataset.level === 'well'")
        assert shown.text("#headline") == "second version local is in service and well"
        shown.wait("document.getElementById('send').innerText === 'Score'")
        shown.ask("good bad")
        assert shown.text("#result .big") == "4"


def test_another_version_in_service_is_shown_without_a_reload(
    run_site: RunSite, page: Open, model: Live, tmp_path: Path
) -> None:
    with run_site(model) as site:
        shown = page(site.url)
        digest = tiny_bundle(tmp_path / "b", labels=("no", "yes")).digest
        site.desk.models.put("", load(Resolved(path=tmp_path / "b", name="m", version="8", digest=digest), threads=1))
        shown.wait("document.getElementById('headline').innerText.startsWith('m version 8 ')")
        shown.wait("document.getElementById('about').innerText.includes('2: no, yes')")


def test_a_page_that_is_not_seen_asks_nothing(run_site: RunSite, page: Open, model: Live) -> None:
    asked: list[float] = []

    def following() -> Mapping[str, Any]:
        asked.append(time.monotonic())
        return WELL

    with run_site(model, following=following) as site:
        shown = page(site.url)
        hide = "Object.defineProperty(document, 'hidden', {value: arguments[0], configurable: true}) && "
        seen = f"{hide} document.dispatchEvent(new Event('visibilitychange'))"
        shown.js(seen, True)
        time.sleep(0.3)  # what was under way
        before = len(asked)
        time.sleep(2.2)
        assert len(asked) == before
        shown.js(seen, False)
        time.sleep(0.5)
        assert len(asked) == before + 1


class Locked:
    """Lets in who has the key."""

    def name(self, _: Asked) -> str:
        return "r"

    def require_key(self, asked: Asked) -> None:
        if asked.header(b"authorization") != "Bearer the-key":
            raise Unauthorized("send a key that is valid here")

    def note(self, _: Asked, **told: Any) -> None:
        """Nothing."""


def skipped_to(shown: Any) -> str:
    """Where the skip link leads."""
    shown.js("document.querySelector('.skip').focus()")
    shown.wait("document.activeElement.getBoundingClientRect().top >= 0", what="the link to be seen")
    shown.browser.switch_to.active_element.send_keys(Keys.ENTER)
    return str(shown.js("document.activeElement.id"))


def test_where_keys_are_wanted_the_page_asks_for_one_and_keeps_it_in_the_tab_alone(
    run_site: RunSite, page: Open, model: Live
) -> None:
    with run_site(model, guard=Locked()) as site:
        shown = page(site.url, until="!document.getElementById('keys').hidden")
        shown.wait("document.getElementById('headline').innerText === 'm version 7 is in service and ready'")
        assert not shown.js("document.getElementById('try').checkVisibility()")
        assert shown.js("document.getElementById('key-wrong').hidden")
        assert skipped_to(shown) == "key"
        for key in ("wrong-kéy", "the-key"):
            shown.put("#key", key)
            shown.browser.switch_to.active_element.send_keys("\n")
            shown.wait("document.getElementById('key').value === ''")
            if key != "the-key":
                shown.wait("!document.getElementById('key-wrong').hidden")
                assert shown.text("#key-wrong") == "This key is not valid here."
        shown.wait("document.getElementById('keys').hidden")
        shown.wait("!document.getElementById('send').disabled")
        assert shown.text("#headline") == "m version 7 is in service and well"
        assert skipped_to(shown) == "text"
        shown.ask("good")
        assert shown.text("#result .big") == "positive 93.5 %"
        assert shown.js("JSON.stringify(sessionStorage)") == '{"retort-key":"the-key"}'
        assert shown.js("localStorage.length + document.cookie.length") == 0
        shown.browser.refresh()
        shown.wait("document.documentElement.dataset.level === 'well'")
        assert shown.js("document.getElementById('keys').hidden")
