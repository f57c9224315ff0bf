"""Rows of a split as items and labels, checked; the dev cut, the caps and the overlap."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.data.digests import unit_hash
from pipeline.data.table import Table
from pipeline.errors import BadArtifact, BadRequest
from serving.bundle import Item


@dataclass(frozen=True)
class Rows:
    """A split as read: raw labels, and the names of coded ones if the data carries them."""

    where: str
    items: tuple[Item, ...]
    labels: tuple[object, ...]
    class_names: tuple[str, ...]

    def pick(self, indices: Sequence[int]) -> "Rows":
        """The same split with these rows only."""
        return replace(self, items=tuple(self.items[i] for i in indices), labels=tuple(self.labels[i] for i in indices))


def read_rows(table: Table, *, text: tuple[str, ...], label: str) -> Rows:
    """The split's items and raw labels; empty splits, texts and labels are refused."""
    labels = table.column(label)
    return Rows(
        where=table.where,
        items=read_texts(table, text=text),
        labels=tuple(labels),
        class_names=table.class_names.get(label, ()),
    )


def read_texts(table: Table, *, text: tuple[str, ...]) -> tuple[Item, ...]:
    """A split's items alone; an empty split and empty texts are refused."""
    columns = [table.column(name) for name in text]
    if not len(columns[0]):
        raise BadArtifact(f"{table.where} holds no rows")
    for name, values in zip(text, columns, strict=True):
        _check_texts(name, values, where=table.where)
    return tuple(zip(*columns, strict=True))


def _check_texts(name: str, values: Sequence[object], *, where: str) -> None:
    for number, value in enumerate(values, start=1):
        if value is None or (isinstance(value, str) and not value.strip()):
            raise BadArtifact(f"{where}, row {number}: column '{name}' is empty: remove the row or fill it in")
        if not isinstance(value, str):
            raise BadRequest(f"{where}: column '{name}' holds {type(value).__name__} values, not text")


def item_key(item: Item) -> str:
    """Two items with the same key are the same text: case and white space do not tell them apart."""
    return "\x1f".join(" ".join(text.casefold().split()) for text in item)


def cut_dev(rows: Rows, *, share: float) -> tuple[Rows, Rows]:
    """(train, dev): by the hash of the text, so that equal texts stay together and more rows move none."""
    in_dev = [unit_hash(item_key(item), salt="dev") < share for item in rows.items]
    train = rows.pick([i for i, held in enumerate(in_dev) if not held])
    dev = rows.pick([i for i, held in enumerate(in_dev) if held])
    for name, part in (("train", train), ("dev", dev)):
        if not part.items:
            raise BadArtifact(
                f"{rows.where}: cutting dev_share {share} from {len(rows.items)} rows leaves no {name} rows: "
                "change dev_share, or name a dev split"
            )
    return train, replace(dev, where=f"dev cut from {rows.where}")


def take(rows: Rows, *, limit: int | None) -> Rows:
    """At most `limit` rows, chosen by the hash of their text and left in their order."""
    if limit is None or len(rows.items) <= limit:
        return rows
    places = [(unit_hash(item_key(item), salt="take"), i) for i, item in enumerate(rows.items)]
    return rows.pick(sorted(index for _, index in sorted(places)[:limit]))


def count_overlap(test: Rows, *, train: Rows) -> int:
    """How many test items also occur in train."""
    known = {item_key(item) for item in train.items}
    return sum(item_key(item) in known for item in test.items)
