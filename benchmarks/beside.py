"""Each variant beside its own fp32, for people (a table) and for machines (records of the JSON line): what was lost, by
chance or not, and whether its answers depend on their batch. All from the gate's figures and the tests made of them.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from rich.table import Table


class Beside(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One variant beside its own fp32; the field names are the interface of the JSON line, the figures those of the
    gate. What the task or the variant does not have is not there."""

    name: str
    fp32: str
    drop: float | None = None
    drop_low: float | None = None
    drop_high: float | None = None
    mcnemar_p: float | None = None
    flips: float | None = None
    flips_low: float | None = None
    flips_high: float | None = None
    ece: float | None = None
    ece_fp32: float | None = None
    batch_difference: float | None = None
    batch_flips: float | None = None


def build_beside(
    figures: Mapping[str, Mapping[str, float]], compared: Mapping[str, Mapping[str, Any]]
) -> tuple[Beside, ...]:
    """`compared` holds of each variant, of those served, what it was compared with (`against`) and by which tests."""
    return tuple(_beside(name, found, figures) for name, found in compared.items() if not name.endswith("-torch-fp32"))


def _beside(name: str, found: Mapping[str, Any], figures: Mapping[str, Mapping[str, float]]) -> Beside:
    told: dict[str, Any] = {each: figures[name][each] for each in Beside.__struct_fields__ if each in figures[name]}
    if "flips" not in told:
        told.pop("batch_flips", None)  # answers are numbers, which nobody asked whether they flip
    if "mcnemar" in found:
        told["mcnemar_p"] = found["mcnemar"]["p_value"]
    if "ece" in figures[found["against"]]:
        told["ece_fp32"] = figures[found["against"]]["ece"]
    return Beside(name=name, fp32=found["against"], **told)


def build_beside_table(beside: Sequence[Beside], *, metric: str) -> "Table":
    """For people: a column for each thing that any variant has."""
    from rich import box
    from rich.table import Table

    title = "each beside its own ONNX fp32, on the same items"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("variant", no_wrap=True)
    columns = {
        f"drop of {metric}\n[95 % interval]": [_with_interval(b.drop, b.drop_low, b.drop_high) for b in beside],
        "McNemar\np": [_number(b.mcnemar_p) for b in beside],
        "flips\n[95 % interval]": [_with_interval(b.flips, b.flips_low, b.flips_high) for b in beside],
        "calibration error\n(of fp32)": [_of_fp32(b.ece, b.ece_fp32) for b in beside],
        "in batches:\nlargest difference": [_number(b.batch_difference) for b in beside],
        "in batches:\nflips": [_number(b.batch_flips) for b in beside],
    }
    known = {heading: cells for heading, cells in columns.items() if any(cell != "-" for cell in cells)}
    for heading in known:
        table.add_column(heading, justify="right")
    for cells in zip([b.name for b in beside], *known.values(), strict=True):
        table.add_row(*cells)
    return table


def _number(value: float | None) -> str:
    """Three places, and never "-0.000": a drop of nothing is none to either side."""
    return "-" if value is None else f"{round(value, 3) + 0.0:.3f}"


def _with_interval(value: float | None, low: float | None, high: float | None) -> str:
    told = [_number(each) for each in (value, low, high)]
    return "-" if value is None else f"{told[0]} [{told[1]}, {told[2]}]"


def _of_fp32(value: float | None, fp32: float | None) -> str:
    return "-" if value is None else f"{_number(value)} ({_number(fp32)})"
