"""What a session ended with, told to others: Markdown for a comment in a review, and JUnit XML for CI."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as Xml

from benchmarks.shown import (
    Check,
    Judged,
    Outcomes,
    Table,
    Verdict,
    circumstances,
    machine_facts,
    noise_told,
    readings_table,
    rules_table,
    variants_table,
)
from serving.errors import BadRequest

MARKDOWN: Final = "outcome.md"
JUNIT: Final = "junit.xml"
SKIPPED: Final = "SKIPPED"  # of a rule that is not kept and by which nothing has failed
AT_MOST: Final = 20  # findings in a comment, whose length is limited where it is posted
# XML 1.0 has no way to write the other control characters, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# What Markdown would read as markup: not the underscores of p95_ms, a star between two spaces, the brackets of an
# interval.
_MARKUP = re.compile(r"[\\`|~]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])|\*(?=\S)|(?<=\S)\*|<(?=[A-Za-z/!?])|&(?=[#\w]+;)")


def write_outcomes(told: Outcomes, folder: Path) -> tuple[Path, ...]:
    """Write outcome.md and, where a gate was asked, junit.xml into `folder`; the paths written. Where
    none was asked, that of an earlier session does not stay."""
    (folder / JUNIT).unlink(missing_ok=True)
    texts = {MARKDOWN: markdown(told), **({JUNIT: junit(told)} if told.verdict is not None else {})}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return tuple(folder / name for name in texts)


# -- Markdown ----------------------------------------------------------------------------------------------------------


def markdown(told: Outcomes) -> str:
    """A comment for a review: the verdict, the rules, the variants; behind a fold the noise and the machine."""
    receipt, verdict = told.receipt, told.verdict
    count = len(receipt.findings)
    parts = [f"## {_text(told.title if verdict is None else f'{verdict.verdict}: {told.title}')}"]
    if verdict is not None:
        parts += [f"{_text(verdict.reason)}.", _table(rules_table(verdict))]
    if receipt.disturbed:
        parts.append(f"**Disturbed:** {_text(receipt.disturbed)}.")
    parts += [
        _table(variants_table(told)),
        f"{_text(circumstances(receipt))}.",
        f"<details><summary>{count or 'No'} finding{'' if count == 1 else 's'} of noise; the machine</summary>",
        _list(_shortened(noise_told(receipt))),
        _table(readings_table(receipt)),
        "What this machine hides:",
        _list(receipt.unknown or ("nothing that is looked for",)),
        _table(Table(("machine", ""), tuple(machine_facts(receipt.machine).items()))),
        "</details>",
    ]
    return "\n\n".join(parts) + "\n"


def _shortened(items: Sequence[str]) -> tuple[str, ...]:
    more = len(items) - AT_MOST
    return (*items[:AT_MOST], *([f"and {more} more, in the receipt"] if more > 0 else []))


def _table(table: Table) -> str:
    rule = ("---",) * len(table.headings)
    lines = [map(_text, table.headings), rule, *(map(_text, row) for row in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(items: Sequence[str]) -> str:
    return "\n".join(f"- {_text(item)}" for item in items)


def _text(text: str) -> str:
    """One line that Markdown shows as it is."""
    return _MARKUP.sub(lambda found: f"\\{found[0]}", " ".join(text.split()))


# -- JUnit -------------------------------------------------------------------------------------------------------------


def junit(told: Outcomes) -> str:
    """A test suite a candidate, in it a test case a rule: FAIL is a failure, INCONCLUSIVE an error with its reason.
    What is not kept is skipped where nothing has failed by it: a rule against the champion, as the version stays
    challenger, and all rules of a candidate that was passed over for one that passes. So CI sees red where the exit
    code is not 0.

    Raises:
        BadRequest: no gate was asked.
    """
    verdict = told.verdict
    if verdict is None:
        raise BadRequest("JUnit XML has a test case for each rule of a gate, and no gate was asked: give it rules")
    root = Xml.Element("testsuites", name=_xml(told.title))
    outcomes = {judged.variant: _outcomes(judged, verdict) for judged in verdict.candidates}
    _count(root, [outcome for each in outcomes.values() for outcome in each])
    for judged in verdict.candidates:
        of_rules = outcomes[judged.variant]
        suite = Xml.SubElement(root, "testsuite", name=_xml(judged.variant), timestamp=told.receipt.started, time="0")
        _count(suite, of_rules)
        suite.set("skipped", str(of_rules.count(SKIPPED)))
        properties = Xml.SubElement(suite, "properties")
        for name, value in _properties(told, verdict).items():
            Xml.SubElement(properties, "property", name=_xml(name), value=_xml(value))
        for check, outcome in zip(judged.checks, of_rules, strict=True):
            _add_case(suite, judged.variant, check, outcome=outcome)
    Xml.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{Xml.tostring(root, encoding="unicode")}\n'


def _outcomes(judged: Judged, verdict: Verdict) -> tuple[str, ...]:
    """Of each check, as CI is to take it."""
    passed_over = verdict.verdict == "PASS" and judged.variant != verdict.chosen
    harmless = judged.checks if passed_over else judged.against
    unkept = {check.rule for check in harmless if check.outcome != "PASS"}
    return tuple(SKIPPED if check.rule in unkept else check.outcome for check in judged.checks)


def _count(element: Xml.Element, outcomes: Sequence[str]) -> None:
    element.set("tests", str(len(outcomes)))
    element.set("failures", str(outcomes.count("FAIL")))
    element.set("errors", str(outcomes.count("INCONCLUSIVE")))


def _add_case(suite: Xml.Element, variant: str, check: Check, *, outcome: str) -> None:
    case = Xml.SubElement(suite, "testcase", classname=_xml(variant), name=_xml(check.rule), time="0")
    text = _xml(check.text)
    if outcome == "PASS":
        Xml.SubElement(case, "system-out").text = text
    elif outcome == SKIPPED:
        Xml.SubElement(case, "skipped", message=f"{check.outcome}: {text}").text = text
    else:
        kind = "failure" if outcome == "FAIL" else "error"
        Xml.SubElement(case, kind, message=text, type=outcome).text = text


def _properties(told: Outcomes, verdict: Verdict) -> dict[str, str]:
    said = {"verdict": verdict.verdict, "reason": verdict.reason, "chosen": verdict.chosen or "none"}
    return {**said, "target": told.receipt.target, **machine_facts(told.receipt.machine)}


def _xml(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
