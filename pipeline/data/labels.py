"""Raw label values as classes or numbers, and as text for messages."""

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from pipeline.data.docstring_sets import Split
from pipeline.data.examples import Rows
from pipeline.errors import BadArtifact

SHOWN = 10


def class_values(rows: Rows) -> list[int | str]:
    """Every row's label as text or integer; booleans and whole floats count as integers."""
    return [class_value(value, place=f"{rows.where}, row {n}") for n, value in enumerate(rows.labels, start=1)]


def class_value(value: object, *, place: str) -> int | str:
    """A label as text or integer; booleans and whole floats count as integers."""
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int | float) and math.isfinite(value) and value == int(value):
        return int(value)
    raise BadArtifact(f"{place}: the label is {value!r}: labels are text or integers, and every row has one")


def label_index(names: Sequence[str], *, coded: bool) -> dict[int | str, int]:
    """Label value -> class: by name, and an integer by its place where labels are coded, else by its own name."""
    by_name: dict[int | str, int] = {name: place for place, name in enumerate(names)}
    integers = (
        enumerate(range(len(names))) if coded else ((n, int(name)) for n, name in enumerate(names) if _is_int(name))
    )
    return by_name | {value: place for place, value in integers}


def _is_int(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


def refuse_unseen(
    classes: Mapping[Split, AbstractSet[int]], *, names: Sequence[str], max_train: int | None, dev_is_cut: bool
) -> None:
    """BadArtifact where a split has a class, by its place among the names, that train has not."""
    train = f"train (cut to max_train, {max_train})" if max_train is not None else "train"
    for split, found in classes.items():
        if unseen := sorted(found - classes["train"]):
            remedy = f"add such rows to train, or take them out of {split}"
            if split == "dev" and dev_is_cut and max_train is None:
                remedy = "dev was cut from train and took them all; add such rows, or name a dev split in task.data"
            raise BadArtifact(
                f"label '{names[unseen[0]]}' occurs in {split} and never in {train}, so nothing can learn it "
                f"({len(unseen)} such): {remedy}"
            )


def number(value: object, *, place: str) -> float:
    """A finite number, or text that spells one (csv columns with one bad cell are text throughout)."""
    if isinstance(value, str | int | float):
        try:
            result = float(value)
        except ValueError:
            result = math.nan
        if math.isfinite(result):
            return result
    raise BadArtifact(f"{place}: the score is {value!r}, not a number")


def in_order(values: AbstractSet[int | str]) -> list[int | str]:
    """Integers by size, then text by the alphabet."""
    return sorted(values, key=lambda value: (isinstance(value, str), value))


def shown(values: Sequence[str] | AbstractSet[int | str]) -> str:
    """The first few of them, for a message."""
    names = [str(value) for value in (in_order(values) if isinstance(values, AbstractSet) else values)]
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
