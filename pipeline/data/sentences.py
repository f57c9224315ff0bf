"""Sentences of a text, near enough to learn vectors from: no list of abbreviations, no language."""

import re
from itertools import pairwise

_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s+[\"'“‘(\[]*[^\W\d_a-z])|[。！？][」』”’）]*")  # noqa: RUF001


def sentences(text: str) -> list[str]:
    """The text cut behind . ! ? where a capital or another script follows, and behind their CJK forms; no blanks around
    and none empty."""
    ends = [0, *(match.end() for match in _END.finditer(text)), len(text)]
    return [part for start, end in pairwise(ends) if (part := text[start:end].strip())]
