"""The forms in which MLflow's clients send items, read without pandas; serving.pyfunc reads the same ones for MLflow.

JSON, one of:
    {"dataframe_split": {"columns": ["text"], "data": [["a"], ["b"]]}}
    {"dataframe_records": [{"text": "a"}, {"text": "b"}]}
    {"instances": ...} or {"inputs": ...}: texts, rows, records, or columns: ["a", "b"], [["a", "b"]], [{"text": "a"}],
                                           {"text": ["a", "b"]}
CSV: a row of names, then a row per item.
Pairs have the columns text and text_pair. Columns of other names are passed over.
"""

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from serving.bundle import Item, ServingSpec
from serving.errors import BadRequest
from serving.schema import UNREADABLE, require_count, require_limits

COLUMNS: Final = ("text", "text_pair")
FORMS: Final = ("dataframe_split", "dataframe_records", "instances", "inputs")
_SHAPES: Final = {1: "texts, or the column 'text'", 2: "pairs of texts, or the columns 'text' and 'text_pair'"}


class Split(msgspec.Struct):
    """A frame by its columns' names and its rows; its index is not read."""

    data: list[list[Any]]
    columns: list[Any] | None = None


class Body(msgspec.Struct):
    """What a client sends as JSON: one of the four forms."""

    dataframe_split: Split | msgspec.UnsetType = msgspec.UNSET
    dataframe_records: list[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET
    instances: Any = msgspec.UNSET
    inputs: Any = msgspec.UNSET
    params: dict[str, Any] | None = None


_DECODER: Final = msgspec.json.Decoder(Body)


def items_of_json(body: bytes, *, spec: ServingSpec) -> list[Item]:
    """Raises BadRequest where the body is none of the forms, or exceeds the limits of `spec`."""
    try:
        asked = _DECODER.decode(body)
    except UNREADABLE as error:
        raise BadRequest(f"the body cannot be read: {error}; send one of {', '.join(FORMS)} as JSON") from error
    given = [name for name in FORMS if getattr(asked, name) is not msgspec.UNSET]
    if len(given) != 1:
        raise BadRequest(f"the body has {' and '.join(given) or 'none'} of {', '.join(FORMS)}; send one of them")
    if asked.params:
        raise BadRequest(f"params has {next(iter(asked.params))!r:.50}; this model takes none")
    (name,) = given
    return _items(_rows(getattr(asked, name), name=name, spec=spec), name=name, spec=spec)


def items_of_csv(body: bytes, *, spec: ServingSpec) -> list[Item]:
    """The same of CSV in UTF-8."""
    try:
        rows = csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        columns, *data = itertools.islice((row for row in rows if row), spec.max_items + 2)
    except (ValueError, csv.Error) as error:
        wanted = "a row of names and then a row per item, as UTF-8"
        raise BadRequest(f"the body cannot be read as CSV: {error}; send {wanted}") from error
    if len(data) > spec.max_items:
        raise BadRequest(f"the CSV holds more than the {spec.max_items} items allowed; split the request")
    split = Split(data=[[*row] for row in data], columns=[*columns])
    return _items(_of_split(split, spec=spec), name="CSV", spec=spec)


def _rows(given: Any, *, name: str, spec: ServingSpec) -> Sequence[Any]:
    """One value per item: a text, or a list of its texts. Too many are not looked at."""
    if isinstance(given, str):
        return [given]
    if isinstance(given, Split):
        require_count(len(given.data), spec=spec, name=name)
        return _of_split(given, spec=spec)
    if isinstance(given, Mapping):
        columns = [[one] if isinstance(one, str) else one for one in _named(given, spec=spec)]
        if any(not isinstance(column, list) for column in columns) or len({*map(len, columns)}) != 1:
            raise BadRequest(f"the columns differ in length, or are no lists; send {_SHAPES[spec.texts_per_item]}")
        require_count(len(columns[0]), spec=spec, name=name)
        return [[*row] for row in zip(*columns, strict=True)]
    if not isinstance(given, list):
        raise BadRequest(f"the items are no list; send {_SHAPES[spec.texts_per_item]}")
    require_count(len(given), spec=spec, name=name)
    return [_named(one, spec=spec) if isinstance(one, dict) else one for one in given]


def _of_split(split: Split, *, spec: ServingSpec) -> Sequence[Any]:
    """By the columns' names; by their places where they have none."""
    if split.columns is None or split.columns == [*range(spec.texts_per_item)]:
        return split.data
    names = [str(name) for name in split.columns]
    for row in split.data:
        if len(row) != len(names):
            raise BadRequest(f"a row has {len(row)} value(s) for {len(names)} column(s); send one for each")
    if len(set(names)) != len(names):
        raise BadRequest("a column is there twice; send each once")
    return [_named(dict(zip(names, row, strict=True)), spec=spec) for row in split.data]


def _named(record: Mapping[str, Any], *, spec: ServingSpec) -> list[Any]:
    wanted = COLUMNS[: spec.texts_per_item]
    if missing := [name for name in wanted if name not in record]:
        told = ", ".join(repr(name) for name in record)[:100] or "none"
        raise BadRequest(f"the column {missing[0]!r} is missing among {told}; send {_SHAPES[spec.texts_per_item]}")
    return [record[name] for name in wanted]


def _items(rows: Sequence[Any], *, name: str, spec: ServingSpec) -> list[Item]:
    count = spec.texts_per_item
    items = []
    for index, row in enumerate(rows):
        texts = (row,) if isinstance(row, str) else tuple(row) if isinstance(row, list) else ()
        if len(texts) != count or not all(isinstance(text, str) for text in texts):
            raise BadRequest(f"item {index} of {name} is {row!r:.50}; send {_SHAPES[count]}")
        items.append(texts)
    require_limits(items, spec=spec, name=name)
    return items
