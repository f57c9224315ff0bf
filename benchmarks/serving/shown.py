"""Tables for people."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.serving.figures import Figure

if TYPE_CHECKING:
    from rich.table import Table


def build_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
    """The first column is what a row is about, the others are numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def figures_table(figures: Sequence[Figure]) -> "Table":
    """What was to be reached, and whether it was."""
    return build_table(("figure", "found", "to reach", "kept"), [each.row() for each in figures])
