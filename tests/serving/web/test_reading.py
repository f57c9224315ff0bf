"""Whether everybody can read the page in a real Chromium: card and receipts, light and dark, narrow and magnified, by
keyboard, and by the rules of axe-core."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path
from typing import Any

import axe_core_python
import pytest
from fakes import tiny_bundle
from selenium.webdriver.common.keys import Keys

from serving.models import load
from serving.registry import Resolved

RunSite = Callable[..., AbstractContextManager[Any]]
Open = Callable[..., Any]
AXE = Path(axe_core_python.__file__).parent / "axe.min.js"
CARD = """---
license: none
---
# The card

It is *good* and **safe**: `a|b`, p95\\_ms, [its page](https://example.org/a?b=c), [no](javascript:alert),
[file](sbom.json), <b>x</b>.

| a | b |
|---|:-:|
| `x \\| y` | 1 |

- one
- two
  goes on

1. first

```sh
echo "<script>" # not **bold**
```

> quoted

![picture](https://example.org/x.png)
"""
FIGURES = '{"tiny": {"accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95, "a_figure_of_a_long_name_ms": 1.5}}'
CANARY = {"source": "models:/m@challenger", "share": 0.05}
STATE = {
    "source": "models:/m@champion",
    "registry_up": False,
    "alias_found": True,
    "polled_s_ago": 3.2,
    "from_cache": False,
    "rollbacks": 1,
    "shadow": None,
    "quarantined": [{"lane": "", "version": "10", "why": "it-has-a-digest-" + "0123456789abcdef" * 4}],
    "versions": [
        {"lane": lane, "role": "serving", "name": "m", "version": version, "digest": "d" * 64, "since": None}
        | {"requests": 123_456, "errors": 7, "p50_ms": 1.25, "p99_ms": 12.5}
        for lane, version in (("", "7"), ("canary", "8"), ("shadow", "9"))
    ],
}


@pytest.fixture(scope="module")
def site(run_site: RunSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A version with all there may be of it."""
    folder = tmp_path_factory.mktemp("reading")
    digest = tiny_bundle(folder / "bundle", task="token-classification", max_length=32).digest
    (folder / "files.sha256").write_text("")
    (folder / "README.md").write_text(CARD)
    (folder / "bundle" / "receipts").mkdir()
    (folder / "bundle" / "receipts" / "quality@here.json").write_text(FIGURES)
    model = load(Resolved(path=folder / "bundle", name="m", version="7", digest=digest), threads=1)
    polls = count()
    with run_site(model, following=lambda: {**STATE, "canary": {**CANARY, "requests": next(polls)}}) as site:
        yield site


def unfolded(shown: Any) -> Any:
    """With an answer, and everything opened."""
    shown.ask("good and awful, \U0001f600 dull")
    shown.js("document.querySelectorAll('details').forEach(each => { each.open = true })")
    return shown


def test_the_card_is_rendered_and_nothing_in_it_is_run(site: Any, page: Open) -> None:
    shown = unfolded(page(site.url))
    prose = "document.querySelector('.prose')"
    names = shown.js(f"Array.from({prose}.children, each => each.tagName)")
    assert names == ["H3", "P", "DIV", "UL", "OL", "PRE", "BLOCKQUOTE", "P"]
    assert shown.texts(".prose > p")[0] == (
        "It is good and safe: a|b, p95_ms, its page, [no](javascript:alert), [file](sbom.json), <b>x</b>."
    )
    assert shown.texts(".prose :is(em, strong)") == ["good", "safe"]
    assert shown.js(f"Array.from({prose}.querySelectorAll('a'), each => [each.href, each.rel])") == [
        ["https://example.org/a?b=c", "noopener noreferrer"],
        ["https://example.org/x.png", "noopener noreferrer"],
    ]
    assert shown.texts(".prose :is(th, td)") == ["a", "b", "x | y", "1"]
    assert shown.texts(".prose li") == ["one", "two goes on", "first"]
    assert shown.text(".prose pre") == 'echo "<script>" # not **bold**'
    assert shown.js(f"{prose}.querySelectorAll('b, img, script').length") == 0


@pytest.mark.parametrize(
    "text", ["", "|", "| a |\n|-|", "```", "- ", "#", "[](", "**", "a\n|-", "`", "\\", "> > >\n>", "1."]
)
def test_no_markdown_is_lost_or_hangs_the_page(site: Any, page: Open, text: str) -> None:
    shown = page(site.url)
    reading = """const [text, done] = arguments;
        import("/ui/markdown.js").then(({ rendered }) => {
          const place = document.createElement("div");
          place.append(...rendered(text));
          done(place.textContent);
        })"""
    told = shown.browser.execute_async_script(reading, text)
    assert set(told) >= set(text) - set("#|-`> \n1.")


def test_receipts_are_tables_of_figures_with_their_intervals(site: Any, page: Open) -> None:
    shown = unfolded(page(site.url))
    rows = [row.split("\t") for row in shown.texts(".receipt tbody tr")]
    assert rows == [["accuracy", "0.9", "0.8 to 0.95"], ["a_figure_of_a_long_name_ms", "1.5", ""]]


def test_the_form_is_there_although_the_folder_of_the_version_is_gone(
    run_site: RunSite, page: Open, tmp_path: Path
) -> None:
    digest = tiny_bundle(tmp_path / "b").digest
    model = load(Resolved(path=tmp_path / "b", name="m", version="7", digest=digest), threads=1)
    (tmp_path / "b").rename(tmp_path / "gone")
    with run_site(model) as site:
        shown = page(site.url)
        shown.ask("good")
        assert shown.text("#result .big") == "positive 93.5 %"
        assert f"\nSize\n{model.spec.parameters:,} parameters\n" in shown.text("#about")
        assert shown.text("#about > .hint").startswith("Its folder is gone from the disk: ")
        assert shown.complaints() == []


def test_it_is_dark_or_light_as_the_system_is_or_as_was_chosen(site: Any, page: Open) -> None:
    shown = page(site.url)
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(245, 246, 248)", "rgb(19, 22, 27)"
    for scheme, colour, name in (("dark", dark, "Light"), ("light", light, "Dark")):
        shown.emulate(prefers_color_scheme=scheme)
        shown.wait(f"{ground} === '{colour}'")
        shown.wait("document.getElementById('theme').innerText === arguments[0]", name)
    shown.browser.find_element("css selector", "#theme").send_keys(Keys.ENTER)
    assert (shown.js(ground), shown.text("#theme")) == (dark, "Light")
    shown.open()
    assert shown.js(ground) == dark


@pytest.mark.parametrize(("width", "zoom"), [(320, 1), (640, 2), (768, 1), (1280, 1)])
def test_nothing_is_wider_than_the_window(site: Any, page: Open, width: int, zoom: int) -> None:
    shown = unfolded(page(site.url))
    shown.emulate(width=width, zoom=zoom)
    shown.wait(f"innerWidth === {width}")
    assert shown.js("document.documentElement.scrollWidth") <= width
    outside = """Array.from(document.querySelectorAll('body *'), each => [each, each.getBoundingClientRect()])
        .filter(([each, box]) => box.width && box.right > innerWidth + 1 && !each.closest('.scrolls, pre, .unseen'))
        .map(([each]) => each.outerHTML.slice(0, 80))"""
    assert shown.js(outside) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_axe_finds_no_barrier(site: Any, page: Open, scheme: str, width: int) -> None:
    shown = unfolded(page(site.url))
    shown.emulate(width=width, prefers_color_scheme=scheme)
    shown.browser.execute_script(AXE.read_text(encoding="utf-8"))
    found = shown.browser.execute_async_script("axe.run(document).then(arguments[0])")
    told = [(each["id"], each["nodes"][0]["html"], each["nodes"][0]["failureSummary"]) for each in found["violations"]]
    assert told == []
    assert len(found["passes"]) > 30


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_a_contrast_of_four_and_a_half(site: Any, page: Open, scheme: str) -> None:
    """Drawn on a canvas, which knows every way to write a colour; axe passes over those it does not know."""
    shown = unfolded(page(site.url))
    shown.emulate(prefers_color_scheme=scheme)
    found = shown.js(f"({CONTRASTS})()")
    assert len(found) > 100
    assert [each for each in found if each[0] < 4.5] == []


CONTRASTS = """() => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const luminance = (grounds) => {
    context.clearRect(0, 0, 1, 1);
    for (const colour of grounds) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
    const [r, g, b] = Array.from(context.getImageData(0, 0, 1, 1).data, (value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !element.checkVisibility() || element.closest("noscript, :disabled")) continue;
    const grounds = [];
    for (let each = element; each; each = each.parentElement) grounds.unshift(getComputedStyle(each).backgroundColor);
    const ground = luminance(grounds);
    const text = luminance([...grounds, getComputedStyle(element).color]);
    found.push([(Math.max(ground, text) + 0.05) / (Math.min(ground, text) + 0.05), walk.currentNode.data.slice(0, 40)]);
  }
  return found;
}"""


def test_all_of_it_is_reached_by_the_keyboard_and_the_focus_is_seen(site: Any, page: Open) -> None:
    shown = page(site.url)
    shown.js("document.querySelectorAll('details').forEach(each => { each.open = true })")
    reached = []
    for _ in range(30):
        shown.browser.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(
            shown.js(
                "[document.activeElement.id || document.activeElement.className || document.activeElement.tagName, "
                "getComputedStyle(document.activeElement).outlineStyle]"
            )
        )
        if shown.js("document.activeElement.matches('footer :last-child')"):
            break
    names = [name for name, _ in reached]
    assert names[:6] == ["skip", "theme", "text", "send", "example", "scrolls"]
    assert {"SUMMARY", "PRE", "A"} <= set(names)
    assert [told for told in reached if told[1] == "none"] == []


def test_the_skip_link_leads_to_the_form(site: Any, page: Open) -> None:
    shown = page(site.url)
    shown.browser.find_element("css selector", "body").send_keys(Keys.TAB)
    shown.wait("document.activeElement.getBoundingClientRect().top >= 0", what="the link to be seen")
    shown.browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert shown.js("document.activeElement.id") == "text"


def test_what_is_read_keeps_its_focus_and_its_place_while_figures_change(site: Any, page: Open) -> None:
    shown = page(site.url)
    shown.emulate(width=320)
    shown.js("document.querySelector('#lanes .scrolls').focus()")
    shown.js("(document.activeElement.scrollLeft = 60)")
    before = shown.text("#lanes .lines")
    shown.wait("document.querySelector('#lanes .lines').innerText !== arguments[0]", before, what="another second")
    assert shown.js("[document.activeElement.className, document.activeElement.scrollLeft]") == ["scrolls", 60]


def test_who_wants_no_motion_gets_none(site: Any, page: Open) -> None:
    shown = page(site.url)
    moving = """Array.from(document.querySelectorAll('*')).filter(each =>
        parseFloat(getComputedStyle(each).transitionDuration) || getComputedStyle(each).animationName !== 'none'
        ).length"""
    assert shown.js(moving) > 0
    shown.emulate(prefers_reduced_motion="reduce")
    assert shown.js(moving) == 0


def test_nothing_is_asked_of_anybody_else(site: Any, page: Open) -> None:
    shown = unfolded(page(site.url))
    asked = shown.js("performance.getEntriesByType('resource').map(each => new URL(each.name).origin)")
    assert len(asked) > 8
    assert set(asked) == {site.url}
    assert shown.complaints() == []


def test_it_works_below_a_path_of_a_proxy(run_site: RunSite, page: Open, tmp_path: Path) -> None:
    digest = tiny_bundle(tmp_path / "b").digest
    model = load(Resolved(path=tmp_path / "b", name="m", version="7", digest=digest), threads=1)
    with run_site(model, below="/models/m") as site:
        shown = page(f"{site.url}/")
        shown.ask("good")
        assert shown.text("#result .big") == "positive 93.5 %"
        assert shown.text("#headline") == "m version 7 is in service and well"
        assert shown.complaints() == []
