"""One page that shows a session: who passed, who is fast and who is good, every sample's place, what disturbed it, and
the machine. Self-contained: no script, no outside resource."""

import re
from pathlib import Path
from typing import Final

from benchmarks.measure import WarmUp
from benchmarks.openloop.results import Rate
from benchmarks.pictures import Picture, distributions, in_order, quality, under_load
from benchmarks.receipt import Measured, Receipt
from benchmarks.shown import (
    NONE,
    Outcomes,
    Table,
    circumstances,
    machine_facts,
    noise_told,
    readings_table,
    rules_table,
    variants_table,
)

TEMPLATE: Final = "page.html.j2"
# Said by a sign too: colour alone is lost on grey paper.
SIGNS: Final = {"PASS": "\N{CHECK MARK}", "FAIL": "\N{MULTIPLICATION X}", "INCONCLUSIVE": "?"}
AT_ONCE: Final = 12  # findings that are seen unfolded


def write_page(told: Outcomes, path: Path) -> None:
    """Write the page to `path`; its folder is there."""
    path.write_text(page_of(told), encoding="utf-8")


def page_of(told: Outcomes) -> str:
    """The page as HTML text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def marked(pictures: tuple[Picture, ...]) -> list[tuple[Markup, Picture]]:
        return [(Markup(each.svg), each) for each in pictures]  # noqa: S704 (matplotlib escapes what it draws)

    receipt, verdict = told.receipt, told.verdict
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template(TEMPLATE).render(
        title=told.title,
        verdict=verdict,
        signs=SIGNS,
        circumstances=circumstances(receipt),
        rules=None if verdict is None else rules_table(verdict),
        variants=variants_table(told),
        quality=marked(quality(told)),
        distributions=marked(distributions(receipt)),
        server=server_table(receipt),
        under_load=marked(under_load(receipt)),
        in_order=marked(in_order(receipt)),
        longest=max(receipt.how.load.lengths),
        disturbed=receipt.disturbed,
        noise=noise_told(receipt),
        at_once=AT_ONCE,
        unbroken=unbroken,
        readings=readings_table(receipt),
        hidden=receipt.unknown,
        machine=machine_facts(receipt.machine),
        measured=measured_facts(receipt),
    )


def unbroken(cell: str) -> str:
    """Intervals and percentiles stay on one line each."""
    return re.sub(r"\[[^\]]*\]|\S+ / \S+ / \S+", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), cell)


def server_table(receipt: Receipt) -> Table:
    """A row an offered rate, for every variant that was measured as a server; no rows where none was."""
    headings = (
        "variant",
        "offered/s",
        "answered",
        "refused",
        "failed",
        "p50 / p90 / p99 ms",
        "generator late p99 ms",
        "",
    )
    rows = [_rate_cells(each, rate) for each in receipt.variants if each.server for rate in each.server.points]
    return Table(headings, tuple(rows))


def _rate_cells(measured: Measured, rate: Rate) -> tuple[str, ...]:
    assert measured.server is not None
    latency = " / ".join(NONE if ms is None else f"{ms:.3g}" for ms in (rate.p50_ms, rate.p90_ms, rate.p99_ms))
    best = "the highest within the bound" if rate.offered_rps == measured.server.best_rps and not rate.void else ""
    return (
        f"{measured.name}, {measured.server.scenario}",
        f"{rate.offered_rps:,.1f}",
        f"{rate.answered:,} of {rate.sent:,}",
        f"{rate.refused:,}",
        f"{rate.failed:,}",
        latency,
        f"{rate.late_p99_ms:.3g}",
        f"void: {rate.void}" if rate.void else best,
    )


def measured_facts(receipt: Receipt) -> dict[str, str]:
    """How the session was done, and by which files."""
    how = receipt.how
    unsteady = [each.name for each in receipt.variants if not all(w.steady for w in _warm_ups(each))]
    return {
        "started": receipt.started,
        "took": f"{receipt.seconds:,.0f} s",
        "attempts": str(receipt.attempts),
        "target": receipt.target,
        "threads": f"{how.threads}, on cores {', '.join(map(str, how.cores))}",
        "different texts timed": ", ".join(f"{count:,} of {length} tokens" for length, count in how.distinct.items()),
        "different texts as they come": f"{how.distinct_real:,}",
        "texts judged": f"{how.items:,}",
        "not steady after warm-up": ", ".join(unsteady) or "none",
        **{f"digest of {each.name}": each.facts.digest[:16] for each in receipt.variants},
        "digest of the receipt": receipt.digest[:16],
    }


def _warm_ups(measured: Measured) -> list[WarmUp]:
    return [warm_up for warm_ups in measured.warm_ups.values() for warm_up in warm_ups]
