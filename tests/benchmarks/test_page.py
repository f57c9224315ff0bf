"""The page of a session: whole in itself, every text escaped, and every part that the session has anything for."""

import re
from pathlib import Path

import pytest
from pages import Page, require_self_contained
from receipts import INT8, NOISE, SMALL, TEACHER, figures_of, measured, receipt, samples_ns, server

from benchmarks.measure import TOTAL
from benchmarks.page import page_of, write_page
from benchmarks.receipt import Receipt
from benchmarks.shown import Outcomes
from pipeline import gates

RULES = ("accuracy >= 0.95 * teacher", "p95_ms <= 0.3 * teacher with confidence", "server_rps >= 100")


def told(of: Receipt | None = None, *, title: str = "tickets", metric: str = "accuracy") -> Outcomes:
    of = of or receipt()
    figures = figures_of(of)
    return Outcomes(title, of, figures, metric, gates.judge(gates.parse_rules(RULES), figures, [SMALL, INT8]))


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(page_of(told()))


def test_the_page_is_whole_in_itself(page: Page) -> None:
    assert page.text.startswith("<!doctype html>")
    require_self_contained(page)


def test_there_is_a_picture_for_each_thing_that_was_measured(page: Page) -> None:
    assert [value for value in page.values("aria-label") if value] == [
        "Quality against latency",
        "Latency of 64 tokens",
        "Latency of 16 tokens",
        "Latency of texts as they come",
        *(f"Samples of {name} in order" for name in (TEACHER, SMALL, INT8)),
    ]


def test_pictures_take_their_colours_from_the_page_in_light_and_in_dark(page: Page) -> None:
    drawn = "".join(re.findall(r"<svg.*?</svg>", page.text, re.DOTALL))
    assert set(re.findall(r"(?:fill|stroke): (#\w+)", drawn)) == set()
    used = set(re.findall(r"var\((--[\w-]+)\)", drawn))
    assert {"--ink", "--faint", "--series-1", "--series-2", "--series-3"} <= used
    light, dark = page.text.split("prefers-color-scheme: dark")
    for name in used:
        assert f"{name}:" in light
        assert f"{name}:" in dark


def test_the_verdict_is_told_by_a_sign_and_a_word_and_not_by_colour_alone(page: Page) -> None:
    assert "? INCONCLUSIVE" in page.texts
    assert {"\N{CHECK MARK} PASS", "\N{MULTIPLICATION X} FAIL"} <= set(page.texts)


def test_the_gate_s_bounds_stand_in_the_picture_with_the_rules_they_are_of(page: Page) -> None:
    assert {f"gate: {rule}" for rule in RULES[:2]} <= set(page.texts)
    assert f"gate: {RULES[2]}" not in page.texts, "it is about neither axis"


def test_noise_is_listed_and_what_the_machine_hides(page: Page) -> None:
    assert "No detector found noise in these samples." in page.texts
    assert "the governor of the cores" in page.texts
    assert [TEACHER, "1.005", "50", "–", "15", "0.4%"] in page.table_rows  # noqa: RUF001
    assert ["CPU", "Testor 9000"] in page.table_rows
    assert ["memory", "8,192 MB, limited to 4,096 MB"] in page.table_rows


def test_a_disturbed_session_says_that_it_gives_no_verdict_on_times() -> None:
    texts = Page(page_of(told(receipt(findings=(NOISE,), set_aside=(NOISE,), attempts=4)))).texts
    assert f"Disturbed: noise in 1 of 15 processes after 4 attempts: {NOISE.told}." in texts
    assert {NOISE.told, f"Set aside and measured again: {NOISE.told}"} <= set(texts)


def test_a_served_variant_has_its_points_and_a_picture_of_them() -> None:
    result = server((100.0, 9.0), (200.0, 30.0), (400.0, None), best_rps=100.0, void="the generator was 3 ms late")
    found = Page(page_of(told(receipt([measured(TEACHER), measured(SMALL), measured(INT8, server=result)]))))
    require_self_contained(found)
    assert "Latency under load" in found.values("aria-label")
    rows = [row for row in found.table_rows if row[0] == f"{INT8}, engine"]
    assert [(row[1], row[2], row[5], row[7]) for row in rows] == [
        ("100.0", "1,000 of 1,000", "1 / 2 / 9", "the highest within the bound"),
        ("200.0", "2,000 of 2,000", "1 / 2 / 30", ""),
        ("400.0", "4,000 of 4,000", "1 / 2 / –", "void: the generator was 3 ms late"),  # noqa: RUF001
    ]


def test_without_judged_answers_and_gate_there_is_a_page_of_the_latencies() -> None:
    found = Page(page_of(Outcomes("bundles", receipt(), figures_of(receipt(), {}))))
    require_self_contained(found)
    assert "Quality against latency" not in found.values("aria-label")
    assert not {"Rules", "PASS", "FAIL"} & set(found.texts)


def test_one_variant_of_few_samples_makes_a_page() -> None:
    few = measured(INT8, n=3, real={}, real_ns={}, readings=(), rss_mb=())
    found = Page(page_of(Outcomes("bundles", receipt([few]))))
    require_self_contained(found)
    assert [INT8, "–", "–", "–", "0", "–"] in found.table_rows  # noqa: RUF001


def test_names_and_sentences_are_text_and_not_markup() -> None:
    evil = "<script>alert(1)</script> & $x_{1$ \"q\" 'r'"
    of = receipt([measured(evil, ms=3.0), measured(TEACHER)], unknown=(evil,))
    figures = figures_of(of, {evil: (0.8, 0.7, 0.9), TEACHER: (0.9, 0.8, 0.95)})
    verdict = gates.judge(gates.parse_rules(["accuracy >= 0.5"]), figures, [evil])
    found = Page(page_of(Outcomes(evil, of, figures, "accuracy", verdict)))
    require_self_contained(found)
    assert "<script" not in found.text
    assert found.texts.count(evil) >= 4
    assert f"Samples of {evil} in order" in found.values("aria-label")


def test_many_samples_do_not_make_a_long_page() -> None:
    many = {64: {TOTAL: samples_ns(10.0, n=20_000)}, 16: {TOTAL: samples_ns(2.0, n=20_000)}}
    large = page_of(Outcomes("bundles", receipt([measured(TEACHER, samples_ns=many)])))
    assert len(large) < 1.3 * len(page_of(Outcomes("bundles", receipt([measured(TEACHER, n=300)]))))


def test_the_same_session_makes_the_same_page(tmp_path: Path) -> None:
    write_page(told(), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page_of(told())
