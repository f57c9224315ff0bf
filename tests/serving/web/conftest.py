"""A real Chromium, without a window and without a network, and real servers for it to look at."""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from serving.app import App, Guard, Open
from serving.batcher import Batcher
from serving.connections import Connections
from serving.desk import Desk
from serving.front import Front
from serving.listening import address_of, bind, listen
from serving.metrics import Metrics
from serving.models import Live, Models
from serving.protocols import health, plain
from serving.web import routes
from serving.web.state import Followed

CHROMIUM, DRIVER = "chromium", "chromedriver"
WAIT_S = 30
READY_S = 60


@pytest.fixture(scope="session")
def browser() -> Iterator[Chrome]:
    """Skipped where there is none, but not in CI."""
    found = shutil.which(CHROMIUM), shutil.which(DRIVER)
    if None in found:
        told = f"{CHROMIUM} and {DRIVER} are not installed: apt-get install chromium chromium-driver"
        if os.environ.get("RETORT_CI"):
            pytest.fail(told)
        pytest.skip(told)
    options = ChromeOptions()
    options.binary_location = str(found[0])
    for told in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000"):
        options.add_argument(told)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(executable_path=str(found[1])))
    driver.set_page_load_timeout(WAIT_S)
    yield driver
    driver.quit()


@dataclass
class Process:
    """A server as the image runs it."""

    process: "subprocess.Popen[str]"
    url: str


@contextlib.contextmanager
def _process(source: Path, *options: str, port: int = 0) -> Iterator[Process]:
    errors = source.parent / f"{source.name}.err"
    command = [sys.executable, "-m", "serving", str(source), "--port", str(port), "--threads", "1", *options]
    with errors.open("w") as err, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, errors.read_text()
            yield Process(process, line.split(" on ")[1].strip())
        finally:
            process.kill()


@pytest.fixture(scope="session")
def run_process() -> Callable[..., AbstractContextManager[Process]]:
    """`python -m serving SOURCE` until the block ends."""
    return _process


@dataclass
class Site:
    """A server in this process, whose insides a test may move."""

    url: str
    desk: Desk


@contextlib.contextmanager
def _site(
    live: Live, *, following: Followed | None = None, guard: Guard | None = None, below: str = ""
) -> Iterator[Site]:
    models, metrics, ready = Models(live), Metrics(), threading.Event()
    batcher: Batcher[Any] = Batcher(models.answer_jobs, executors=1, limit=16, costs=live.costs)
    desk = Desk(models, batcher, metrics)
    every = [*plain.routes(desk), *health.routes(desk), *routes(desk, following=following)]
    app = App(desk, routes=every, guard=guard or Open())

    async def behind_proxy(scope: Any, receive: Any, send: Any) -> None:
        assert scope["path"].startswith(below), scope["path"]
        await app({**scope, "path": scope["path"].removeprefix(below)}, receive, send)

    with bind("127.0.0.1", 0) as listener:
        listen(listener)
        front = Front(
            Connections(behind_proxy if below else app),
            listener=listener,
            others=None,
            ready=ready.set,
            ended=lambda: None,
        )
        front.start()
        try:
            assert ready.wait(READY_S)
            yield Site(address_of(listener) + below, desk)
        finally:
            front.stop()
            front.join()
            batcher.close()


@pytest.fixture(scope="session")
def run_site() -> Callable[..., AbstractContextManager[Site]]:
    """A server of `live` with the page, telling what `following` does, until the block ends; with `below` as it is seen
    through a proxy that has it below that path."""
    return _site


class Page:
    """The page of one server in the browser, and what a person does and sees there."""

    def __init__(self, browser: Chrome, url: str) -> None:
        self.browser, self.url = browser, url

    def open(self, *, until: str = "!document.getElementById('send').disabled") -> "Page":
        """Load it, and wait until the form can be used."""
        self.browser.get_log("browser")
        self.browser.get(self.url)
        self.wait(until)
        return self

    def js(self, code: str, *told: Any) -> Any:
        return self.browser.execute_script(f"return {code}", *told)

    def wait(self, code: str, *told: Any, what: str = "") -> None:
        """Until an expression holds."""
        end = time.monotonic() + WAIT_S
        while not self.js(code, *told):
            assert time.monotonic() < end, f"waited for {what or code}; the page: {self.text('body')}"
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """What is to be read there."""
        return _lines(str(self.js("document.querySelector(arguments[0]).innerText", selector)))

    def texts(self, selector: str) -> list[str]:
        found = self.js("Array.from(document.querySelectorAll(arguments[0]), each => each.innerText)", selector)
        return [_lines(each) for each in found]

    def put(self, selector: str, text: str) -> None:
        """Type into a field; the driver types no characters beyond the basic plane."""
        field = self.browser.find_element(By.CSS_SELECTOR, selector)
        field.clear()
        if all(ord(character) < 2**16 for character in text):
            field.send_keys(text)
        else:
            field.click()
            self.browser.execute_cdp_cmd("Input.insertText", {"text": text})

    def ask(self, text: str, second: str | None = None) -> None:
        """Type, send by the keyboard, and wait for what comes of it."""
        self.js("document.getElementById('result').replaceChildren()")
        self.put("#text", text)
        if second is not None:
            self.put("#text2", second)
        self.browser.switch_to.active_element.send_keys(Keys.CONTROL, Keys.ENTER)
        done = "document.getElementById('result').childElementCount && !document.getElementById('try').ariaBusy"
        self.wait(done, what="an answer")

    def complaints(self) -> list[str]:
        """What the browser itself had to say: broken rules of the policy, errors of the scripts."""
        return [str(entry["message"]) for entry in self.browser.get_log("browser")]

    def emulate(self, *, width: int = 0, height: int = 900, zoom: float = 1, **features: str) -> None:
        """Media features, e.g. prefers_color_scheme="dark"; a width of 0 is the window's own."""
        size = {"width": width, "height": height if width else 0, "deviceScaleFactor": zoom, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": named})


def _lines(text: str) -> str:
    """Without the empty ones."""
    return "\n".join(line.strip(" ") for line in text.splitlines() if line.strip())


@pytest.fixture
def page(browser: Chrome) -> Iterator[Callable[..., Page]]:
    """Opens the page of a server in an untouched browser."""

    def opened(url: str, **options: str) -> Page:
        return Page(browser, url).open(**options)

    yield opened
    Page(browser, "").emulate()
    browser.execute_script("try { localStorage.clear(); sessionStorage.clear() } catch {}")
    browser.get("about:blank")
