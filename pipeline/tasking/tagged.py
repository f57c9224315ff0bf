"""Tagged text as it is read: words with IOB2 tags, or text with spans of characters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.data.table import Table
from pipeline.errors import BadArtifact, BadRequest
from serving.spans import Span, words_of


@dataclass(frozen=True)
class TaggedRow:
    """One text, where its words are, and the tag of each (`O`, `B-x`, `I-x`)."""

    text: str
    words: tuple[Span, ...]
    tags: tuple[str, ...]


def read_tagged(
    table: Table, *, text: str, label: str, names: Sequence[str], alternatives: str | None
) -> list[TaggedRow]:
    """Every row; `names` are those of coded tags.

    Raises:
        BadArtifact: no rows, an empty one, words and tags of different number, a tag outside IOB2, a span that does
            not fit the words of its text.
    """
    texts, labels = table.column(text), table.column(label)
    if not len(texts):
        raise BadArtifact(f"{table.where} holds no rows")
    rows = []
    for number, (value, told) in enumerate(zip(texts, labels, strict=True), start=1):
        place = f"{table.where}, row {number}"
        if isinstance(value, str):
            rows.append(_from_spans(value, told, place=place))
        elif isinstance(value, list | tuple):
            rows.append(_from_words(value, told, names=names, alternatives=alternatives, place=place))
        else:
            raise BadRequest(
                f"{place}: column '{text}' holds {type(value).__name__} values, not text or lists of words"
            )
    return rows


def _from_words(
    words: Sequence[object], told: object, *, names: Sequence[str], alternatives: str | None, place: str
) -> TaggedRow:
    if not isinstance(told, list | tuple) or len(told) != len(words):
        found = len(told) if isinstance(told, list | tuple) else repr(told)
        raise BadArtifact(f"{place}: {len(words)} words and {found} tags: each word needs one")
    if not words or any(not isinstance(word, str) or not word.strip() for word in words):
        raise BadArtifact(f"{place}: the text is empty or has an empty word: remove it")
    offered = [_offered(tag, names=names, alternatives=alternatives, place=place) for tag in told]
    spans, position = [], 0
    for word in map(str, words):
        spans.append((position, position + len(word)))
        position += len(word) + 1
    return TaggedRow(" ".join(map(str, words)), tuple(spans), agreed(offered))


def agreed(offered: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """One of the tags offered for each word. Where the first is B an entity begins; it goes on while the first is I and
    a type is left that all its words are offered, the first such being its own. What goes on with none begins anew."""
    tags: list[str] = []
    while len(tags) < len(offered):
        options, *following = offered[len(tags) :]
        begin = next((tag for tag in options if tag[:2] != "I-"), options[0])
        kinds, words = [tag[2:] for tag in options if tag[:2] == begin[:2] == "B-"], 1
        for options in following:
            fitting = [kind for kind in kinds if options[0][:2] == "I-" and f"I-{kind}" in options]
            if not fitting:
                break
            kinds, words = fitting, words + 1
        tags += [f"B-{kinds[0]}", *[f"I-{kinds[0]}"] * (words - 1)] if kinds else [begin]
    return tuple(tags)


def _offered(tag: object, *, names: Sequence[str], alternatives: str | None, place: str) -> tuple[str, ...]:
    """One tag, or several, by name; a coded one stands for its place among the names."""
    if isinstance(tag, int) and not isinstance(tag, bool):
        if not 0 <= tag < len(names):
            raise BadArtifact(f"{place}: the tag is {tag}, and the data names {len(names)} tags: give tags as text")
        tag = names[tag]
    found = tuple(str(tag).split(alternatives)) if alternatives else (str(tag),)
    if any(each != "O" and (each[:2] not in ("B-", "I-") or not each[2:]) for each in found):
        raise BadArtifact(f"{place}: the tag is {tag!r}: tags are O, B-type and I-type (IOB2); convert the data")
    return found


def _from_spans(text: str, told: object, *, place: str) -> TaggedRow:
    if not text.strip():
        raise BadArtifact(f"{place}: the text is empty: remove the row or fill it in")
    words = words_of(text)
    tags = ["O"] * len(words)
    if not isinstance(told, list | tuple):
        raise BadArtifact(f"{place}: the spans are {told!r}: expected a list of {{start, end, label}}")
    for span in told:
        start, end, name = _span(span, text=text, place=place)
        first = next((i for i, word in enumerate(words) if word[0] == start), None)
        last = next((i for i, word in enumerate(words) if word[1] == end), None)
        if first is None or last is None or last < first:
            raise BadArtifact(
                f"{place}: the entity {text[start:end]!r} (characters {start} to {end}) does not begin and end "
                f"where words do: words there are {_near(text, words, start, end)}; move its "
                "bounds, or part the words by blanks"
            )
        if any(tag != "O" for tag in tags[first : last + 1]):
            raise BadArtifact(f"{place}: the entity {text[start:end]!r} overlaps another: a word has one tag; keep one")
        tags[first : last + 1] = [f"B-{name}", *[f"I-{name}"] * (last - first)]
    return TaggedRow(text, tuple(words), tuple(tags))


def _span(span: object, *, text: str, place: str) -> tuple[int, int, str]:
    if isinstance(span, Mapping):
        start, end, name = (span.get(key) for key in ("start", "end", "label"))
        if isinstance(start, int) and isinstance(end, int) and isinstance(name, str) and name:
            if 0 <= start < end <= len(text):
                return start, end, name
            raise BadArtifact(f"{place}: a span from {start} to {end} is outside its text of {len(text)} characters")
    raise BadArtifact(f"{place}: a span is {span!r}: expected start and end (characters) and label")


def _near(text: str, words: Sequence[Span], start: int, end: int) -> str:
    touched = [text[a:b] for a, b in words if a < end and b > start]
    return ", ".join(repr(word) for word in touched[:5]) or "none"


def tag_names(rows: Sequence[TaggedRow], *, where: str, types: tuple[str, ...] | None) -> tuple[str, ...]:
    """`O`, then B-x and I-x of every type, in the order given or the alphabet's; BadArtifact where there is none."""
    found = types or tuple(sorted({tag[2:] for row in rows for tag in row.tags if tag != "O"}))
    if not found:
        raise BadArtifact(f"{where} has no entity in any row: there is nothing to learn")
    return ("O", *(f"{prefix}-{name}" for name in found for prefix in "BI"))
