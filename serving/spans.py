"""Words, the tokens they begin with, and the entities their tags spell. A span is characters [start, end) of a text, as
Python counts them: Unicode code points, so an emoji is one and a letter with a combining accent two.

Example: `words_of("(Ann's)") == [(0, 1), (1, 4), (4, 6), (6, 7)]`: ( Ann 's ).
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

Span = tuple[int, int]

OUTSIDE = "O"
_CHUNK = re.compile(r"\S+")
_QUOTES = "\"'‘’‚‛“”„‟«»‹›"  # noqa: RUF001 the typographic ones are meant
_OPENING = "([{<" + _QUOTES
_CLOSING = ".,;:!?)]}>…" + _QUOTES
_INITIALS = re.compile(r"(?:[^\W\d_]\.){2,}")
_POSSESSIVES = ("'s", "’s")  # noqa: RUF001 both apostrophes


class Entity(NamedTuple):
    """A run of words of one type: the indices of its first and last word, both part of it."""

    label: str
    first: int
    last: int


def words_of(text: str, *, until: int | None = None) -> list[Span]:
    """Cut plain text into words for tagging, as corpora of tagged words do: at white space, with brackets, quotes and
    sentence punctuation apart. Chunks that begin at `until` or later are left out: what no token reaches.

    "(Hello," -> ( Hello ,   "Ann's" -> Ann 's   "U.S." "don't" "@user" "#tag" and URLs stay whole   "?!" -> ? !
    """
    spans: list[Span] = []
    for chunk in _CHUNK.finditer(text):
        start = chunk.start()
        if until is not None and start >= until:
            break
        for piece in _pieces(chunk.group()):
            spans.append((start, start + len(piece)))
            start += len(piece)
    return spans


def word_starts(offsets: Sequence[Span], words: Sequence[Span]) -> list[int]:
    """For each word the index of its first sub-token, the first that shares a character with it; -1 where none does:
    cut away, or nothing the tokenizer keeps. Words and tokens ascend; empty tokens, the special ones, are passed over.
    """
    starts: list[int] = []
    index = 0
    for start, end in words:
        while index < len(offsets) and (offsets[index][1] <= start or offsets[index][0] == offsets[index][1]):
            index += 1
        starts.append(index if index < len(offsets) and offsets[index][0] < end else -1)
    return starts


def word_tokens(offsets: Sequence[Span], words: Sequence[Span]) -> list[Span]:
    """For each word its sub-tokens [first, end), from the first to the last that shares a character with it; (-1, -1)
    where none does."""
    found: list[Span] = []
    for first, (_, stop) in zip(word_starts(offsets, words), words, strict=True):
        end = index = first
        while 0 <= index < len(offsets) and offsets[index][0] < stop:
            index += 1
            if offsets[index - 1][0] < offsets[index - 1][1]:
                end = index
        found.append((first, end))
    return found


def entities_of(tags: Sequence[str]) -> list[Entity]:
    """The entities of IOB2 tags (O, B-x, I-x), read leniently as seqeval does by default: an I-x that follows no tag of
    type x begins an entity."""
    entities: list[Entity] = []
    label, first = "", 0
    for index, tag in enumerate((*tags, OUTSIDE)):
        kind = tag[2:]
        if label and (kind != label or tag.startswith("B-")):
            entities.append(Entity(label, first, index - 1))
            label = ""
        if kind and not label:
            label, first = kind, index
    return entities


def _pieces(chunk: str) -> list[str]:
    """The words of one chunk; together they are the chunk."""
    body, tail = _body_and_tail(chunk)
    if body.lower().endswith(_POSSESSIVES):
        return [*_peeled(body[:-2]), body[-2:], *tail]
    return _peeled(chunk)


def _peeled(chunk: str) -> list[str]:
    if all(_is_punctuation(character) for character in chunk):
        return list(chunk)
    body, tail = _body_and_tail(chunk)
    stem = body.lstrip(_OPENING)
    return [*body[: len(body) - len(stem)], stem, *tail]


def _body_and_tail(chunk: str) -> tuple[str, str]:
    """Without the closing punctuation at its end, and that; the full stop of letters with one each stays: U.S."""
    body = chunk.rstrip(_CLOSING)
    if chunk.startswith(".", len(body)) and _INITIALS.fullmatch(f"{body.lstrip(_OPENING)}."):
        body += "."
    return body, chunk[len(body) :]


def _is_punctuation(character: str) -> bool:
    return character in _OPENING or character in _CLOSING or unicodedata.category(character).startswith("P")
