"""How much a body holds, before anything is made of it, and a value of it in few words.

A body of 4 MiB may hold a million lists: to make them all takes longer than others may be held up, and 40 times as much
memory. To count them takes neither.
"""

from typing import Final

from serving.errors import BadRequest

SMALL_BYTES: Final = 65536
"""Of bodies up to here nothing is counted: whatever they hold is little."""
SPARE_VALUES: Final = 32768
_FIRST_BYTES: Final = 4 * SMALL_BYTES
_MARKS: Final = b",[{"
_MOST_CHARACTERS: Final = 50


def require_few_values(body: bytes, *, most: int) -> None:
    """Raise BadRequest where a large JSON body holds more than `most` values beside SPARE_VALUES."""
    if len(body) <= SMALL_BYTES:
        return
    most += SPARE_VALUES
    for size_bytes in (_FIRST_BYTES, len(body)):  # most of those that hold too many do so from their begin on
        if _holds_more(body[:size_bytes], most):
            raise BadRequest(f"the body holds more than the {most} values that are read; split the request")


def count_of(marks: bytes, body: bytes) -> int:
    """How often any of these bytes is there; in a time that does not depend on it."""
    return len(body) - len(body.translate(None, marks))


def shown(value: object) -> str:
    """A value of a body in a message. Neither long nor deep ones are worded whole."""
    if isinstance(value, str):
        return repr(value[:_MOST_CHARACTERS])
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "an object" if isinstance(value, dict) else f"{value!r:.{_MOST_CHARACTERS}}"


def _holds_more(begin: bytes, most: int) -> bool:
    """Of values there are as many as marks outside of strings, and one: each is the first of its list or object, or
    behind a comma."""
    if count_of(_MARKS, begin) <= most:
        return False
    bare = begin.replace(b"\\\\", b"").replace(b'\\"', b"")  # the quotes that are left begin and end strings
    if count_of(b'"', bare) // 2 > 2 * most:
        return True
    return count_of(_MARKS, b"".join(bare.split(b'"')[::2])) > most
