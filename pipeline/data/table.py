"""Columns by name, whatever they were read from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.errors import BadRequest


@dataclass(frozen=True)
class Table:
    """One split as columns; `read` materialises a column, `class_names` holds the names of coded labels."""

    where: str
    columns: tuple[str, ...]
    read: Callable[[str], Sequence[object]]
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def column(self, name: str) -> Sequence[object]:
        """The column's values; a name that is not there is answered with those that are."""
        if name not in self.columns:
            raise missing_column(name, where=self.where, columns=self.columns)
        return self.read(name)


def missing_column(name: str, *, where: str, columns: Sequence[str]) -> BadRequest:
    """The error for a column name that the data does not have."""
    return BadRequest(f"{where} has no column '{name}': its columns are {', '.join(columns)}")
