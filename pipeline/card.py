"""The model card of a version, README.md: Markdown written from the facts, with no number of its own."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.version_records import Figure, StepFacts, VersionFacts
from serving.schema import ROUTES

TEMPLATE: Final = "card.md.j2"
CARD: Final = "README.md"
LABELS_SHOWN: Final = 30
HEAD_CHARACTERS: Final = 4000  # MLflow's own database holds descriptions of 5000
_PURPOSES: Final = {
    "classification": "It gives a text one label of several",
    "multi-label": "It gives a text any number of labels",
    "regression": "It gives a text a number",
    "token-classification": "It finds entities in a text",
    "embedding": "It turns a text into a vector",
}
_COMPARED: Final = {
    "drop": "Of the first figure it lost, beside its own fp32",
    "flips": "Share of the texts that it answers otherwise than its own fp32",
    "agreement": "Share of the texts that it answers as the teacher does",
    "ece": "How far its probabilities are from how often it is right (expected calibration error)",
}
_RESOURCES: Final = (
    ("cold_start_ms", "From the start of a process to the first answer", "ms"),
    ("rss_mb", "Memory held after the last request", "MB"),
    ("peak_mb", "Most memory that it ever held", "MB"),
    ("server_rps", "Highest rate that kept the server's bound", "requests/s"),
)
_MARKUP = re.compile(r"([\\`*_\[\]<>|#~$])")


def render_card(facts: VersionFacts) -> str:
    """The whole card."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(  # noqa: S701 (Markdown: what is not ours goes through `text` or `code`)
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(_FILTERS)
    example = ["First text.", "Second text."]
    items = [[each, "Its other text."] for each in example] if facts.spec.texts_per_item > 1 else example
    card = environment.get_template(TEMPLATE).render(
        facts=facts,
        purpose=_PURPOSES[facts.spec.task].replace("a text", "a pair of texts" if items is not example else "a text"),
        labels=_labels(facts.spec.labels),
        data=next(each for each in facts.origins if each.role == "data"),
        compared=[(name, told) for name, told in _COMPARED.items() if name in facts.first.figures],
        resources=_RESOURCES,
        languages=_languages(facts),
        versions=_versions,
        route=ROUTES[facts.spec.task],
        python_example=json.dumps(items),
        json_example=json.dumps(items),
    )
    return re.sub(r"\n{3,}", "\n\n", card).strip() + "\n"


def card_head(card: str) -> str:
    """What a registry shows of a card: down to its second heading, and no longer than it can keep."""
    head = re.split(r"^## ", card, maxsplit=1, flags=re.MULTILINE)[0].strip()
    return head if len(head) <= HEAD_CHARACTERS else f"{head[: HEAD_CHARACTERS - 4].rpartition(' ')[0]} ..."


def text(value: object) -> str:
    """Words that are not ours, as Markdown shows them: no markup, no link, one line."""
    return _MARKUP.sub(r"\\\1", " ".join(str(value).split()))


def code(value: object) -> str:
    """An identifier, in a code span; a bar would end a table's cell even there."""
    told = " ".join(str(value).split()).replace("`", "'").replace("|", "\\|")
    return f"`{told}`" if told else ""


def number(value: float) -> str:
    """To four figures, without an exponent where people need none."""
    told = f"{value + 0.0:,.0f}" if abs(value) >= 10_000 else f"{value + 0.0:.4g}"
    return "0" if told == "-0" else told


def interval(figure: Figure) -> str:
    """0.878 [0.868, 0.888]"""
    ends = (figure.low, figure.high)
    told = [number(end) if end is not None else "not known" for end in ends] if any(e is not None for e in ends) else []
    return f"{number(figure.value)} [{', '.join(told)}]" if told else number(figure.value)


_FILTERS: Final[Mapping[str, Callable[..., str]]] = {
    "text": text,
    "code": code,
    "number": number,
    "interval": interval,
    "count_of": "{:,}".format,
    "percent": lambda share: f"{number(100 * share)} %",
    "megabytes": lambda size: number(size / 1e6),
}


def _labels(labels: tuple[str, ...]) -> str:
    shown = ", ".join(code(label) for label in labels[:LABELS_SHOWN])
    return f"{len(labels):,}: {shown}{', ...' if len(labels) > LABELS_SHOWN else ''}"


def _languages(facts: VersionFacts) -> str:
    """Of the text and the data, which is what the model has seen; of the teacher where nobody says more."""
    by_role = {each.role: each.languages for each in facts.origins}
    seen = dict.fromkeys(language for role, names in by_role.items() if role != "teacher" for language in names)
    if seen:
        return f"{', '.join(seen)} (stated of the text or the data)"
    teacher = ", ".join(by_role.get("teacher", ()))
    return f"{teacher} (stated of the teacher)" if teacher else "not stated by any of its sources"


def _versions(told: Mapping[str, str] | Iterable[StepFacts]) -> str:
    """Libraries by name, of a session or of all steps."""
    found: dict[str, Any] = {}
    for versions in [told] if isinstance(told, Mapping) else [step.versions for step in told]:
        for name, version in versions.items():
            found.setdefault(name, {})[version] = None
    return ", ".join(f"{name} {' and '.join(found[name])}" for name in sorted(found) if "absent" not in found[name])
