"""`retort compare`: two sessions that lie somewhere, each with its receipt and the gate's figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pipeline.errors import BadArtifact
from pipeline.gate_rules import TASK_METRICS
from pipeline.paired_quality import paired_quality, session_label
from pipeline.workspace import RECORD, Workspace, read_record

if TYPE_CHECKING:
    from benchmarks.comparison import Comparison
    from benchmarks.receipt import Receipt

FIGURES = "figures.json"
Figures = Mapping[str, Mapping[str, float]]


def compare_places(
    a: Path, b: Path, *, pairs: Sequence[tuple[str, str]] = (), across_machines: bool = False
) -> "Comparison":
    """Each a folder that a benchmark left, its receipt.json, or the folder of a run, RETORT/runs/NAME, which stands for
    the session at its first target: of two runs that were judged on the same texts, quality is compared item by item.

    Raises:
        BadArtifact: there is no receipt, it is of another version, it was altered, or its figures cannot be read.
        BadRequest: the two cannot be compared.
    """
    from benchmarks.changes import quality_changes
    from benchmarks.compare import compare, pairs_by_name
    from benchmarks.receipt import read_receipt

    one, other = (_session_folder(place) for place in (a, b))
    mine, theirs = read_receipt(one), read_receipt(other)
    pairs = pairs or pairs_by_name(mine, theirs)
    figures = [_figures(place, receipt) for place, receipt in ((one, mine), (other, theirs))]
    metric = metric_of(*figures)
    quality = quality_changes(*figures, metric=metric, pairs=pairs) if metric else {}
    quality |= paired_quality(a, b, pairs=pairs)
    return compare(mine, theirs, across_machines=across_machines, pairs=pairs, quality=quality)


def metric_of(*sides: Figures) -> str:
    """The first metric of a task that every side has; "" where there is none."""
    known = [{name for figures in side.values() for name in figures} for side in sides]
    return next((metric for metric in TASK_METRICS if all(metric in names for names in known)), "")


def _session_folder(place: Path) -> Path:
    record = place / RECORD
    if not record.is_file():
        return place
    told = read_record(record)
    step = told["steps"].get(session_label(told))
    found = Workspace.open(place.resolve().parents[1]).store.get(step["key"]) if step else None
    if found is None:
        raise BadArtifact(f"{place}: this run has no benchmark, or it was removed since; `retort run` makes it")
    return found.path


def _figures(place: Path, receipt: "Receipt") -> dict[str, dict[str, float]]:
    """None where they were not kept. They must be those of the receipt, which has the same p50."""
    from benchmarks.measure import TOTAL

    path = (place if place.is_dir() else place.parent) / FIGURES
    if not path.is_file():
        return {}
    try:
        figures = msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, float]])
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise BadArtifact(
            f"{path} does not hold the figures of a benchmark ({error}); measure again, or remove it, and quality is "
            "left uncompared"
        ) from error
    for each in receipt.variants:
        latency = each.latency[max(each.latency)][TOTAL]
        if figures.get(each.name, {}).get("p50_ms") != latency.p50_ms:
            raise BadArtifact(
                f"{path} is of another session than the receipt beside it ({each.name} has another p50); measure "
                "again, or remove it, and quality is left uncompared"
            )
    return figures
