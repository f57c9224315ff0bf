"""How many fields a message has, counted before it is made: of millions of empty ones the loop would make objects for
a second, and answer nobody meanwhile."""

from collections.abc import Iterator
from typing import Final

from serving.errors import BadRequest

_Paths = dict[int, "_Paths"]
_INSIDE: Final[_Paths] = {5: {5: {}}}  # the inputs of a ModelInferRequest, and the contents of those
_SIZES: Final = {1: 8, 3: 0, 4: 0, 5: 4}  # in bytes by wire type; the fields of a group stand behind its begin


def require_few_fields(body: bytes, *, most: int) -> None:
    """Raise BadRequest where there are more; a message that is broken is left to who reads it."""
    for count, _ in enumerate(_fields(body, 0, len(body), inside=_INSIDE), start=1):
        if count > most:
            raise BadRequest(f"the message has more than the {most} fields that are read; split the request")


def _fields(body: bytes, at: int, end: int, *, inside: _Paths) -> Iterator[int]:
    """Number by number, as far as it can be read."""
    while at < end:
        tag, at = _varint(body, at, end)
        number, kind = tag >> 3, tag & 7
        yield number
        size = _SIZES.get(kind, 0)
        if kind in (0, 2):
            size, at = _varint(body, at, end)
        elif kind not in _SIZES:
            return
        if kind == 0:
            continue
        if kind == 2 and number in inside:
            yield from _fields(body, at, min(at + size, end), inside=inside[number])
        at += size


def _varint(body: bytes, at: int, end: int) -> tuple[int, int]:
    """The number, and where the next one begins."""
    found = shift = 0
    while at < end and shift < 70:
        byte = body[at]
        at += 1
        found |= (byte & 127) << shift
        if byte < 128:
            return found, at
        shift += 7
    return 0, end  # cut off
