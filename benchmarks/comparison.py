"""What a comparison of two receipts finds, as records (the JSON line) and as a table. A is the earlier or usual one, B
is held against it."""

from typing import TYPE_CHECKING, Final, Literal

import msgspec

if TYPE_CHECKING:
    from rich.table import Table

Times = Literal["faster", "slower", "no difference seen", "unknown"]

HEADLINES: Final = ("p95_ms", "p50_ms")  # times are told by the first one that both have


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One figure, by the gate's name for it, in A and in B; `ratio` is B over A, with its 95 % interval where it has
    one."""

    figure: str
    a: float
    b: float
    ratio: float
    low: float | None = None
    high: float | None = None

    @property
    def is_certain(self) -> bool:
        """Whether all of the interval lies on one side of no difference."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high


class QualityChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The metric in B less that in A, with the ends of its 95 % interval; `paired`: on the same items, one by one."""

    metric: str
    estimate: float
    low: float
    high: float
    paired: bool


class Compared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One variant of A beside one of B: the figures, what they come to in a word, and in a sentence."""

    a: str
    b: str
    same_file: bool
    times: Times
    sentence: str
    changes: tuple[Change, ...]
    quality: QualityChange | None = None


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`notes` tell what else differs between the two, and what could not be compared."""

    variants: tuple[Compared, ...]
    notes: tuple[str, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """A plain-language verdict a variant, those first whose files differ."""
        return tuple(each.sentence for each in sorted(self.variants, key=lambda each: each.same_file))


def headline(changes: tuple[Change, ...]) -> Change | None:
    """The figure that times are told by."""
    by_figure = {change.figure: change for change in changes}
    return next((by_figure[figure] for figure in HEADLINES if figure in by_figure), None)


def pair_name(a: str, b: str) -> str:
    return a if a == b else f"{b} beside {a}"


def build_table(comparison: Comparison) -> "Table":
    """Every figure of every pair, for people."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title="B beside A", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("variant", overflow="fold")
    for heading in ("figure", "A", "B", "B over A", "95 % interval"):
        table.add_column(heading, justify="right")
    for each in comparison.variants:
        for number, change in enumerate(each.changes):
            name = Text(pair_name(each.a, each.b) if number == 0 else "")  # a name may hold [brackets]
            interval = "" if change.low is None else f"{change.low:.3f} to {change.high:.3f}"
            table.add_row(name, change.figure, f"{change.a:.4g}", f"{change.b:.4g}", f"{change.ratio:.3f}", interval)
    return table
