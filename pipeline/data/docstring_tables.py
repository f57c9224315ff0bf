"""Labelled docstrings as columns, one set for each kind of task; every label is read off the source, none is made up.

text, label     a first paragraph and its library
topics          the library, and `code` where a word of the text is code: several labels at once
tokens, tags    the words, and which of them are code (dotted, underscored, camel-cased or called): B-code
other, score    the paragraph of another example, and how near the two are: 1 for one package, 0.5 for one library
"""

import re
from bisect import bisect_right
from collections.abc import Sequence

from pipeline.data.digests import unit_hash
from pipeline.data.docstring_sets import Labelled, Split
from pipeline.data.table import Table

# Dotted: neither a number nor an abbreviation such as e.g.
CODE = re.compile(r"[^\W\d]\w+\.\w+[\w.]*|\w*[a-z]_\w+|\w*[a-z][A-Z]\w*|\w+\(.*\)|`.+`")
WORD = re.compile(r"[.,;:!?]|[^\s.,;:!?]+(?:[.:]\w[^\s.,;:!?]*)*")


def docstring_table(examples: Sequence[Labelled], *, split: Split) -> Table:
    """The columns of one split."""
    tagged = [(each, WORD.findall(each.text)) for each in examples]
    others = _partners(examples)
    columns: dict[str, list[object]] = {
        "text": [each.text for each in examples],
        "label": [each.label for each in examples],
        "topics": [[each.label, *(["code"] if any(map(CODE.fullmatch, words)) else [])] for each, words in tagged],
        "tokens": [words for _, words in tagged],
        "tags": [["B-code" if CODE.fullmatch(word) else "O" for word in words] for _, words in tagged],
        "other": [each.text for each in others],
        "score": [_nearness(one, other) for one, other in zip(examples, others, strict=True)],
    }
    return Table(where=f"{split} data (docstrings)", columns=tuple(columns), read=columns.__getitem__)


def _partners(examples: Sequence[Labelled]) -> list[Labelled]:
    """Another example for each: in turn one of its package, one of its library, one of another; the next in a mixed
    order, or that order's next where there is none."""
    order = sorted(range(len(examples)), key=lambda place: unit_hash(examples[place].text, salt="pairs"))
    mixed = [examples[place] for place in order]
    rings: dict[tuple[str, ...], list[int]] = {}
    for turn, each in enumerate(mixed):
        for key in _groups(each):
            rings.setdefault(key, []).append(turn)
    found = list(examples)
    for turn, (place, each) in enumerate(zip(order, mixed, strict=True)):
        wanted, ring = (1.0, 0.5, 0.0)[turn % 3], rings[_groups(each)[turn % 3]]
        after = bisect_right(ring, turn)
        following = (mixed[ring[(after + step) % len(ring)]] for step in range(len(ring) - 1))
        near = (other for other in following if _nearness(each, other) == wanted)
        found[place] = next(near, mixed[(turn + 1) % len(mixed)])
    return found


def _groups(each: Labelled) -> tuple[tuple[str, ...], ...]:
    """Its package, its library and all: where one as near as wanted is looked for."""
    return (each.label, each.package), (each.label,), ()


def _nearness(one: Labelled, other: Labelled) -> float:
    if one.label != other.label:
        return 0.0
    return 1.0 if one.package == other.package else 0.5
