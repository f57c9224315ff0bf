"""Trying a text in a real Chromium, on servers as the image runs them: one for each task."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from fakes import tiny_bundle

RunProcess = Callable[..., AbstractContextManager[Any]]
Open = Callable[..., Any]
MANY = tuple(f"label {index}" for index in range(12))


@pytest.fixture(scope="module")
def serve(browser: Any, run_process: RunProcess, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The address of a server of a tiny bundle; each stays for one test."""
    folder = tmp_path_factory.mktemp("trying")

    def of(name: str, **options: Any) -> AbstractContextManager[Any]:
        tiny_bundle(folder / name, name=name, **options)
        return run_process(folder / name)

    return of


def test_a_classification_shows_its_label_and_every_score_in_order(serve: Any, page: Open) -> None:
    with serve("moods", refuse_below=0.6) as server:
        shown = page(server.url)
        shown.ask("good")
        assert shown.text("#send") == "Classify"
        assert shown.text("#result .big") == "positive 93.5 %"
        assert shown.texts(".bars li") == ["positive\n(given)\n93.5 %", "negative\n6.5 %"]
        widths = shown.js("Array.from(document.querySelectorAll('.fill'), each => each.style.width)")
        assert [float(width.removesuffix("%")) for width in widths] == pytest.approx([93.503, 6.497], abs=0.001)
        assert shown.text("#spoken") == "positive, 93.5 %"
        assert shown.text("#result > .hint").startswith("By moods version local, digest ")

        phases = [told.split()[0] for told in shown.texts(".legend li")]
        assert phases == ["queue", "tokenize", "infer", "other"]
        assert "in the server" in shown.text(".timing .hint")

        shown.ask("good bad")
        assert shown.text(".notice") == "The model refuses to answer\nIts best score, 50.0 %, is below 60.0 %."
        assert shown.texts(".bars .value") == ["50.0 %", "50.0 %"]
        assert shown.complaints() == []


def test_of_many_labels_ten_are_shown_and_all_on_demand(serve: Any, page: Open) -> None:
    with serve("many", labels=MANY) as server:
        shown = page(server.url)
        shown.ask("good")
        assert shown.texts(".bars .label")[0] == "label 1\n(given)"
        assert len(shown.texts(".bars li")) == 10
        more = shown.browser.find_element("css selector", ".bars + button")
        assert more.text == "All 12 labels"
        more.send_keys(" ")
        assert len(shown.texts(".bars li")) == 12
        assert shown.js("document.activeElement.className") == "bars"


def test_several_labels_are_shown_with_their_thresholds(serve: Any, page: Open) -> None:
    with serve("several", task="multi-label", thresholds=(0.9, 0.6)) as server:
        shown = page(server.url)
        shown.ask("good")
        assert shown.text("#result .big") == "positive"
        assert shown.texts(".bars li") == ["positive\n(given)\n93.5 %", "negative\n50.0 %"]
        marks = shown.js("Array.from(document.querySelectorAll('.mark'), each => each.style.left)")
        assert marks == ["60%", "90%"]
        shown.ask("nothing")
        assert (shown.text("#result .big"), shown.text("#spoken")) == ("No label", "No label reaches its threshold")


def test_a_model_of_pairs_has_two_fields(serve: Any, page: Open) -> None:
    with serve("pairs", texts_per_item=2) as server:
        shown = page(server.url)
        assert (shown.text("#text-label"), shown.text("#text2-label")) == ("First text", "Second text")
        shown.ask("good", "fine")
        assert shown.text("#result .big").startswith("positive ")


def test_a_regression_is_a_number(serve: Any, page: Open) -> None:
    with serve("stars", task="regression") as server:
        shown = page(server.url)
        assert shown.js("document.getElementById('second').hidden")
        shown.ask("good bad")
        assert (shown.text("#result .big"), shown.text("#spoken")) == ("4", "The score is 4")


def test_entities_are_marked_where_they_are_whatever_stands_before_them(serve: Any, page: Open) -> None:
    text = "\U0001f600\U0001f468‍\U0001f469‍\U0001f467 good é awful, \U00020bb7 dull\n  end"
    with serve("tags", task="token-classification", max_length=32) as server:
        shown = page(server.url)
        shown.ask(text)
        assert shown.text("#send") == "Tag"
        marked = shown.js("Array.from(document.querySelectorAll('mark'), each => each.firstChild.data)")
        assert marked == ["good", "awful", "dull"]
        plain = """(() => { const copy = document.querySelector('.tagged').cloneNode(true);
            copy.querySelectorAll('.tag').forEach(each => each.remove()); return copy.textContent })()"""
        assert shown.js(plain) == text
        at = text.index("awful")
        rows = [row.split("\t") for row in shown.texts("#result tbody tr")]
        assert rows[1] == ["awful", "mood", "99.9 %", f"{at}–{at + 5}"]  # noqa: RUF001 the dash of a range
        assert shown.text("#spoken") == "3 entities: good, mood; awful, mood; dull, mood"
        shown.ask("nothing")
        assert "Nothing was found in this text." in shown.text("#result")


def test_an_embedding_shows_its_norm_and_how_near_two_texts_are(serve: Any, page: Open) -> None:
    with serve("vectors", task="embedding") as server:
        shown = page(server.url)
        shown.ask("good good bright")
        assert shown.texts("figcaption") == ["3 numbers from 0 to 3.2; norm 3.578"]
        shown.ask("good fine bad", "good good bright")
        assert shown.text("#result .big") == "0.4000 cosine similarity"
        assert len(shown.texts("figcaption")) == 2


def test_a_refused_request_is_told_in_the_server_s_own_words(serve: Any, page: Open) -> None:
    with serve("short", max_characters=20) as server:
        shown = page(server.url)
        shown.put("#text", "\U0001f600" * 20)
        assert shown.text("#text-hint") == "Texts are cut at 16 tokens. 20 of at most 20 characters."
        assert not shown.js("document.getElementById('text-hint').classList.contains('wrong')")
        shown.ask("x" * 21)
        assert shown.js("document.getElementById('text-hint').classList.contains('wrong')")
        alert = shown.browser.find_element("css selector", "#result [role=alert]")
        assert alert.text == "Refused with 422\ntexts[0] has 21 characters, more than the 20 allowed"
        shown.ask("good")
        assert shown.text("#result .big").startswith("positive")


def test_what_the_model_fails_on_is_an_error_in_the_first_line_too(serve: Any, page: Open) -> None:
    with serve("fails") as server:
        shown = page(server.url)
        assert shown.text("#headline") == "fails version local is in service and well"
        shown.ask("poison")
        assert shown.text("#result [role=alert]") == (
            "Failed with 500\nmodel fails gave NaN or infinity for this input; its weights are unfit"
        )
        shown.wait("document.documentElement.dataset.level === 'bad'")
        assert shown.text("#headline") == "fails version local is in service and not well"
        assert shown.texts("#reasons li") == ["1 of 1 requests failed in the last minute."]


def test_a_text_or_a_label_that_is_markup_stays_text(serve: Any, page: Open) -> None:
    evil = "<img src=x onerror=hacked=1> good</mark><script>hacked=1</script>"
    with serve(
        "evil",
        task="token-classification",
        labels=("O", "B-<b onclick=hacked=1>", "I-<b onclick=hacked=1>"),
        max_length=32,
    ) as s:
        shown = page(s.url)
        shown.ask(evil)
        assert shown.text("#result mark") == "good</mark><script>hacked=1</script<b onclick=hacked=1> 100 %"
        assert evil.split("good")[0] in shown.text(".tagged")
        assert shown.js("document.querySelectorAll('#result :is(img, script), mark b').length") == 0
        assert shown.js("typeof hacked") == "undefined"
        assert shown.complaints() == []


def test_the_example_fills_the_form(serve: Any, page: Open, tmp_path: Path) -> None:
    with serve("example") as server:
        shown = page(server.url)
        shown.browser.find_element("css selector", "#example").click()
        assert shown.js("document.getElementById('text').value").startswith("The staff were kind")
        assert shown.js("document.activeElement.id") == "text"
