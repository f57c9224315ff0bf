"""Tensors of the Open Inference Protocol as this server reads and writes them: in JSON, and as raw bytes.

Values are flat, row by row: `str` where the datatype is BYTES, else a numpy array. Raw numbers are little-endian; a raw
text is its length in UTF-8 (32 bits) and then itself.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from serving.errors import BadRequest
from serving.protocols.amounts import shown

NUMBERS: Final[dict[str, np.dtype[Any]]] = {"INT64": np.dtype("<i8"), "FP32": np.dtype("<f4")}
_LENGTH_BYTES: Final = 4
_MOST_AXES: Final = 8
_RAW: Final = "the raw data of"


class Tensor(NamedTuple):
    """One input or output; `parameters` are what the protocol lets each side add."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Any
    parameters: Mapping[str, object] = {}


def from_json(data: Sequence[Any], *, name: str, datatype: str, shape: Sequence[int], most: int) -> Tensor:
    """`data` is flat, or nested as `shape` says; `most` values are read.

    Raises:
        BadRequest: it is not what `datatype` and `shape` say.
    """
    count, kind = _count(name, shape, most=most), str if datatype == "BYTES" else int
    values = _flat(data, name=name, shape=shape, count=count)
    strange = next((value for value in values if type(value) is not kind), None)
    if strange is not None:
        raise BadRequest(f"the data of input {name!r} holds {shown(strange)}, which is no {datatype}")
    if kind is str:
        return Tensor(name, datatype, tuple(shape), values)
    try:
        return Tensor(name, datatype, tuple(shape), np.array(values, NUMBERS[datatype]))
    except OverflowError as error:
        raise BadRequest(f"the data of input {name!r} holds a number that is no {datatype}") from error


def from_raw(raw: bytes, *, name: str, datatype: str, shape: Sequence[int], most: int) -> Tensor:
    """The same of raw bytes.

    Raises:
        BadRequest: they are not what `datatype` and `shape` say, or no UTF-8.
    """
    count = _count(name, shape, most=most)
    if datatype == "BYTES":
        return Tensor(name, datatype, tuple(shape), _texts(raw, name=name, count=count))
    numbers = NUMBERS[datatype]
    if len(raw) != count * numbers.itemsize:
        wanted = f"{count * numbers.itemsize} of its shape {list(shape)}"
        raise BadRequest(f"{_RAW} input {name!r} has {len(raw)} bytes, not the {wanted}")
    return Tensor(name, datatype, tuple(shape), np.frombuffer(raw, numbers))


def text_of(value: bytes, *, name: str) -> str:
    """One element of BYTES.

    Raises:
        BadRequest: it is no UTF-8.
    """
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"the data of input {name!r} is no UTF-8: {error.reason} at byte {error.start}") from error


def to_raw(tensor: Tensor) -> bytes:
    """The values as raw bytes."""
    if tensor.datatype != "BYTES":
        raw: bytes = tensor.values.astype(NUMBERS[tensor.datatype], copy=False).tobytes()
        return raw
    encoded = [text.encode() for text in tensor.values]
    return b"".join(len(one).to_bytes(_LENGTH_BYTES, "little") + one for one in encoded)


def _count(name: str, shape: Sequence[int], *, most: int) -> int:
    """What is more than the model's limits allow is refused by its shape: to read it would hold up the others."""
    if len(shape) > _MOST_AXES:
        raise BadRequest(f"input {name!r} has {len(shape)} axes, more than the {_MOST_AXES} that are read")
    if not shape or any(size < 0 for size in shape):
        raise BadRequest(f"input {name!r} has the shape {list(shape)}; its sizes are whole numbers, none below 0")
    count = math.prod(max(1, size) for size in shape)  # many rows without a value are many, too
    if count > most:
        raise BadRequest(f"input {name!r} has {count} values, more than the {most} that are read; split the request")
    return math.prod(shape)


def _flat(data: Sequence[Any], *, name: str, shape: Sequence[int], count: int) -> list[Any]:
    if not isinstance(data, list):
        raise BadRequest(f"the data of input {name!r} is no list")
    if len(shape) > 1 and data and isinstance(data[0], list):
        if len(data) != shape[0] or any(not isinstance(row, list) or len(row) != shape[1] for row in data):
            raise BadRequest(f"the rows of input {name!r} are not those of its shape {list(shape)}")
        data = [value for row in data for value in row]
    if len(data) != count:
        raise BadRequest(f"input {name!r} has {len(data)} value(s), and its shape {list(shape)} says {count}")
    return data


def _texts(raw: bytes, *, name: str, count: int) -> list[str]:
    texts: list[str] = []
    place = 0
    while place + _LENGTH_BYTES <= len(raw) and len(texts) < count:
        begin = place + _LENGTH_BYTES
        place = begin + int.from_bytes(raw[place:begin], "little")
        texts.append(text_of(raw[begin:place], name=name))
    if place != len(raw) or len(texts) != count:
        told = f"{count} text(s), each after its length in 4 bytes"
        raise BadRequest(f"{_RAW} input {name!r} ({len(raw)} bytes) are not {told}")
    return texts
