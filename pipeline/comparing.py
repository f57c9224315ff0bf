"""`retort compare`: two sessions that lie somewhere, each with its receipt and the gate's figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pipeline.errors import BadArtifact
from pipeline.gate_rules import TASK_METRICS
from pipeline.paired_quality import paired_quality, session_label
from pipeline.workspace import RECORD, Workspace

if TYPE_CHECKING:
    from benchmarks.comparison import Comparison

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
    figures = [_figures(each) for each in (one, other)]
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
    told = msgspec.json.decode(record.read_bytes())
    step = told["steps"].get(session_label(told))
    found = Workspace.open(place.resolve().parents[1]).store.get(step["key"]) if step else None
    if found is None:
        raise BadArtifact(f"{place}: this run has no benchmark, or it was removed since; `retort run` makes it")
    return found.path


def _figures(place: Path) -> dict[str, dict[str, float]]:
    """None where they were not kept."""
    path = (place if place.is_dir() else place.parent) / FIGURES
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, float]])
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise BadArtifact(
            f"{path} does not hold the figures of a benchmark ({error}); measure again, or remove it, and quality is "
            "left uncompared"
        ) from error
