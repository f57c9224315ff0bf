"""The forms in which MLflow's clients send items, read without pandas; serving.pyfunc reads the same ones for MLflow.

JSON, one of:
    {"dataframe_split": {"columns": ["text"], "data": [["a"], ["b"]]}}
    {"dataframe_records": [{"text": "a"}, {"text": "b"}]}
    {"instances": ...} or {"inputs": ...}: texts, rows, records, or columns: ["a", "b"], [["a", "b"]], [{"text": "a"}],
                                           {"text": ["a", "b"]}
CSV: a row of names, then a row per item.
Pairs have the columns text and text_pair. Columns of other names are passed over. A frame without rows has no items.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import msgspec

from serving.bundle import Item, ServingSpec
from serving.errors import BadRequest
from serving.protocols.amounts import SPARE_VALUES, count_of, require_few_values, shown
from serving.schema import UNREADABLE, require_count, require_limits

COLUMNS: Final = ("text", "text_pair")
FORMS: Final = ("dataframe_split", "dataframe_records", "instances", "inputs")
MOST_COLUMNS: Final = 256
WIDEST_FIELD: Final = 2**31 - 1  # characters; the body's own limit comes long before
_SHAPES: Final = {1: "texts, or the column 'text'", 2: "pairs of texts, or the columns 'text' and 'text_pair'"}


class Split(msgspec.Struct):
    """A frame by its columns' names and its rows; its index is not read."""

    data: list[list[Any]]
    columns: list[str | int | float | None] | None = None


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
    require_few_values(body, most=(1 + MOST_COLUMNS) * spec.max_items)
    try:
        asked = _DECODER.decode(body)
    except UNREADABLE as error:
        raise BadRequest(f"the body cannot be read: {error}; send one of {', '.join(FORMS)} as JSON") from error
    given = [name for name in FORMS if getattr(asked, name) is not msgspec.UNSET]
    if len(given) != 1:
        raise BadRequest(f"the body has {' and '.join(given) or 'none'} of {', '.join(FORMS)}; send one of them")
    if asked.params:
        raise BadRequest(f"params has {shown(next(iter(asked.params)))}; this model takes none")
    (name,) = given
    return _items(_rows(getattr(asked, name), name=name, spec=spec), name=name, spec=spec)


def items_of_csv(body: bytes, *, spec: ServingSpec) -> list[Item]:
    """The same of CSV in UTF-8."""
    _require_few_lines(body, spec=spec)
    csv.field_size_limit(max(csv.field_size_limit(), WIDEST_FIELD))  # the process has one: others read by it too
    try:
        rows = csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        split = _of_lines(filter(None, rows), spec=spec)
    except (ValueError, csv.Error) as error:
        raise _no_csv(str(error)) from error
    return _items(_of_split(split, spec=spec), name="CSV", spec=spec)


def _of_lines(rows: Iterator[list[str]], *, spec: ServingSpec) -> Split:
    """Names and rows; what is wrong with one is told before the next is read."""
    columns = next(rows, None)
    if columns is None:
        raise _no_csv("it is empty")
    if len(columns) > MOST_COLUMNS:
        raise BadRequest(f"the CSV has {len(columns)} columns, more than the {MOST_COLUMNS} that are read")
    data: list[list[Any]] = []
    for row in islice(rows, spec.max_items + 1):
        _require_width(row, len(columns))
        data.append(row)
    if len(data) > spec.max_items:
        raise BadRequest(f"the CSV holds more than the {spec.max_items} items allowed; split the request")
    return Split(data=data, columns=[*columns])


def _require_few_lines(body: bytes, *, spec: ServingSpec) -> None:
    """Each costs its time, also one that is blank, or within a text; and so does each comma of a line."""
    lines, most = count_of(b"\r\n", body), SPARE_VALUES + MOST_COLUMNS * spec.max_items
    if lines > most:
        raise BadRequest(f"the CSV has {lines} ends of lines, more than the {most} that are read; split the request")
    widest = SPARE_VALUES + 2 * spec.max_characters
    if count_of(b",", body) > widest and any(line.count(b",") > widest for line in body.splitlines()):
        raise BadRequest(f"a line of the CSV has more than the {widest} commas that are read; send fewer columns")


def _rows(given: Any, *, name: str, spec: ServingSpec) -> Sequence[Any]:
    """One value per item: a text, or a list of its texts. Too many are not looked at."""
    if isinstance(given, str):
        return [given]
    if isinstance(given, Split):
        _require_at_most(len(given.data), spec=spec, name=name)
        return _of_split(given, spec=spec)
    if isinstance(given, Mapping):
        columns = [[one] if isinstance(one, str) else one for one in _named(given, spec=spec)]
        if any(not isinstance(column, list) for column in columns) or len({*map(len, columns)}) != 1:
            raise BadRequest(f"the columns differ in length, or are no lists; send {_SHAPES[spec.texts_per_item]}")
        _require_at_most(len(columns[0]), spec=spec, name=name)
        return [[*row] for row in zip(*columns, strict=True)]
    if not isinstance(given, list):
        raise BadRequest(f"the items are no list; send {_SHAPES[spec.texts_per_item]}")
    _require_at_most(len(given), spec=spec, name=name)
    return [_named(one, spec=spec) if isinstance(one, dict) else one for one in given]


def _of_split(split: Split, *, spec: ServingSpec) -> Sequence[Any]:
    """By the columns' names; by their places where they have none."""
    if split.columns is None or split.columns == [*range(spec.texts_per_item)]:
        return split.data
    names = [str(name) for name in split.columns]
    for row in split.data:
        _require_width(row, len(names))
    if len(set(names)) != len(names):
        raise BadRequest("a column is there twice; send each once")
    wanted = [names.index(name) for name in _wanted(names, spec=spec)]
    return [[row[place] for place in wanted] for row in split.data]


def _named(record: Mapping[str, Any], *, spec: ServingSpec) -> list[Any]:
    return [record[name] for name in _wanted(record, spec=spec)]


def _wanted(names: Iterable[str], *, spec: ServingSpec) -> Sequence[str]:
    """The columns that the model reads; all must be among `names`."""
    wanted = COLUMNS[: spec.texts_per_item]
    if missing := [name for name in wanted if name not in names]:
        told = ", ".join(shown(name) for name in islice(names, 10))[:100] or "none"
        raise BadRequest(f"the column {missing[0]!r} is missing among {told}; send {_SHAPES[spec.texts_per_item]}")
    return wanted


def _items(rows: Sequence[Any], *, name: str, spec: ServingSpec) -> list[Item]:
    count = spec.texts_per_item
    items: list[Item] = []
    for index, row in enumerate(rows):
        texts = [row] if isinstance(row, str) else row
        if not isinstance(texts, list) or len(texts) != count or not all(isinstance(text, str) for text in texts):
            raise BadRequest(f"item {index} of {name} is {shown(row)}; send {_SHAPES[count]}")
        items.append(tuple(texts))
    if items:
        require_limits(items, spec=spec, name=name)
    return items


def _require_at_most(count: int, *, spec: ServingSpec, name: str) -> None:
    """No item is none too few: MLflow's server answers a frame without rows, too."""
    if count:
        require_count(count, spec=spec, name=name)


def _require_width(row: Sequence[Any], columns: int) -> None:
    if len(row) != columns:
        raise BadRequest(f"a row has {len(row)} value(s) for {columns} column(s); send one for each")


def _no_csv(why: str) -> BadRequest:
    wanted = "a row of names and then a row per item, as UTF-8"
    return BadRequest(f"the body cannot be read as CSV: {why}; send {wanted}")
