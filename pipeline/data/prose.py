"""English paragraphs out of docstrings: markup gone, code, lists and field lists left out."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass

WORDS = range(6, 61)
# What cleaning can still turn into 6-60 words; the rest is not worth the time.
RAW_WORDS = range(6, 101)
LETTER_SHARE = 0.85
WORDS_PER_FUNCTION_WORD = 12
FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a an and any are as at be been between but by can do does each else false for from given has have how if
        in into is it its may more must no not of on only or other over return returns same should than that the their
        then there these this those to true under use used using was we when where whether which while will with""",
    )
)
# Sections whose body is prose; every other section's body is a list of names, or code.
PROSE_SECTIONS = frozenset({"note", "notes", "description", "summary", "overview", "background", "details", "warning"})
SECTION = re.compile(r"([A-Z][A-Za-z]+(?: [A-Za-z]+){0,2}):?")
UNDERLINE = re.compile(r"([-=~^#*+`.])\1{2,}")
NOT_PROSE = re.compile(
    r"\.\. |>>>|\.\.\. |[-*+o] |[|+]|\(?\w{1,2}[.)] |:\w|@\w|%|#|[$!] |[\w*.]+ ?\([^)]*\):|[\w*.]+ ?: "
)
NOTICE = re.compile(r"copyright|licen[sc]ed? under|all rights reserved|do not edit|auto-?generated|todo|fixme", re.I)
LEFT_OVER = re.compile(r"[{}$`|<>\\^~=]|::|__\w+__ *=|\w\(\w*,|%[sdf]")
CLEANING = (
    (re.compile(r":[a-z:+-]+:`([^`<]+?)\s*<[^`>]*>`", re.I), r"\1"),  # :role:`text <target>`
    (re.compile(r":[a-z:+-]+:`[~!](?:[^`]*\.)?([^`.]+)`", re.I), r"\1"),  # :role:`~package.name`
    (re.compile(r":[a-z:+-]+:`([^`]+)`", re.I), r"\1"),
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}"), r"\1"),  # `text <url>`_
    (re.compile(r"\[([^\]]+)\]\((?:https?:|#|\.|/)[^)]*\)"), r"\1"),  # [text](url)
    (re.compile(r"\s*\[[\w#*-]{1,12}\]_"), ""),  # [1]_
    (re.compile(r"`{1,2}([^`]+?)`{1,2}_{0,2}"), r"\1"),
    (re.compile(r"\*{1,2}([^*\s](?:[^*]*[^*\s])?)\*{1,2}"), r"\1"),
    (re.compile(r"</?[a-z][a-z0-9]*(?: [^>]*)?/?>", re.I), ""),
    (re.compile(r"\(?https?://[^\s)]+\)?"), ""),
    (re.compile(r"\\ "), ""),
    (re.compile(r"::?\s*$"), ":"),
    (re.compile(r"\s+([,.;:!?])(?=\s|$)"), r"\1"),
)
MARKUP = re.compile(r"[`*<\\\[]|https?:|::\s*$|\s[,.;:!?]")


@dataclass(frozen=True)
class Paragraphs:
    """A docstring's prose: its first paragraph if that is prose (0 or 1 text), and the others."""

    first: tuple[str, ...]
    rest: tuple[str, ...]


def docstring_paragraphs(docstring: str) -> Paragraphs:
    """The paragraphs of 6-60 English words in a raw docstring."""
    blocks = list(_prose_blocks(inspect.cleandoc(docstring).replace("\t", "    ").split("\n")))
    raw = [(index, " ".join(block)) for index, block in blocks]
    texts = [(index, _clean(text)) for index, text in raw if len(text.split()) in RAW_WORDS]
    good = [(index, text) for index, text in texts if is_english_sentence(text)]
    return Paragraphs(tuple(t for i, t in good if i == 0), tuple(t for i, t in good if i > 0))


def _prose_blocks(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Numbered paragraphs of unindented prose, outside the sections that hold lists and code."""
    in_prose = True
    for index, block in enumerate(_blocks(lines)):
        title, body = _section(block)
        if title:
            in_prose = title.lower() in PROSE_SECTIONS
        if in_prose and body and not any(_is_code(line) for line in body):
            yield index, body


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    block: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line.rstrip())
        elif block:
            yield block
            block = []


def _section(block: list[str]) -> tuple[str, list[str]]:
    """The section title that a block begins with, if any, and the block without it."""
    if len(block) > 1 and UNDERLINE.fullmatch(block[1].strip()):
        return block[0].strip(), block[2:]
    match = SECTION.fullmatch(block[0])
    if match and (len(block) == 1 or block[0].endswith(":")):
        return match[1], block[1:]
    return "", block


def _is_code(line: str) -> bool:
    return line.startswith("  ") or NOT_PROSE.match(line.strip()) is not None or ">>>" in line


def _clean(text: str) -> str:
    if MARKUP.search(text):
        for pattern, replacement in CLEANING:
            text = pattern.sub(replacement, text)
    return " ".join(text.split())


def is_english_sentence(text: str) -> bool:
    """ASCII, 6-60 words, mostly letters, begun by one, enough function words, no markup, notice or code left."""
    words = text.split()
    if len(words) not in WORDS or not text.isascii() or not text[0].isalpha() or LEFT_OVER.search(text):
        return False
    letters = sum(map(str.isalpha, text)) + text.count(" ")
    grammar = sum(word.strip(".,;:()\"'").lower() in FUNCTION_WORDS for word in words)
    return (
        letters >= LETTER_SHARE * len(text)
        and grammar * WORDS_PER_FUNCTION_WORD >= len(words)
        and NOTICE.search(text) is None
    )
