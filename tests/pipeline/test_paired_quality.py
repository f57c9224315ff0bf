"""Quality item by item where the answers of two runs are at hand, and where nothing may be said that way."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fakes import manifest_of, tiny_bundle
from receipts import INT8, SMALL, TEACHER, measured, receipt
from taskdata import write
from written import WRITTEN

from benchmarks.outputs import write_outputs
from benchmarks.receipt import write_receipt
from pipeline.artifact import sealed_files, write_json
from pipeline.config import RunConfig
from pipeline.paired_quality import paired_quality, run_in
from pipeline.tasking.base import ALL
from pipeline.tasks import TaskSplits
from pipeline.workspace import Workspace

TEXTS = [
    f"{word} {other}" for word in ("bad", "good", "awful", "fine") for other in ("dull", "bright", "so", "it", "a")
]
LABELS = [("negative", "positive")[number % 2] for number in range(len(TEXTS))]
INT8S = [(INT8, INT8)]


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "w")


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    return {split: write(tmp_path, split, text=TEXTS, label=LABELS) for split in ("train", "dev", "test")}


def run_of(place: Workspace, name: str, data: dict[str, str], *, wrong: tuple[int, ...]) -> Path:
    """The folder of a finished run whose int8 answers all test texts rightly but these."""
    task = {"kind": "classification", "data": {"kind": "files", **data}}
    config = RunConfig.model_validate({**WRITTEN, "name": name, "task": task})
    made = place.store.partial(f"{name}-quantize")
    tiny_bundle(made / "bundle", name=INT8)
    place.store.publish(f"{name}-quantize", manifest_of(f"{name}-quantize", sealed_files(made)))
    out = place.store.partial(f"{name}-benchmark")
    (out / "logits").mkdir()
    rows = [(1, 0) if (label == "negative") != (number in wrong) else (0, 1) for number, label in enumerate(LABELS)]
    write_outputs(out / "logits" / f"{INT8}.npy", [np.float32(row) for row in rows])
    write_receipt(receipt([measured(INT8)]), out)
    manifest = manifest_of(f"{name}-benchmark", sealed_files(out))
    inputs = {"task": TaskSplits(config.task, ALL).identity(place.cache)}
    place.store.publish(f"{name}-benchmark", msgspec.structs.replace(manifest, inputs=inputs))
    steps = {"quantize-student": {"key": f"{name}-quantize"}, "benchmark": {"key": f"{name}-benchmark"}}
    place.record(name, config=config.model_dump(mode="json"), steps=steps)
    return place.run_folder(name)


def test_two_runs_on_the_same_texts_are_compared_item_by_item(place: Workspace, data: dict[str, str]) -> None:
    a, b = run_of(place, "a", data, wrong=(1, 2)), run_of(place, "b", data, wrong=(1, 2, 3))
    change = paired_quality(a, b, pairs=INT8S)[INT8]
    assert (change.metric, change.paired, change.estimate) == ("accuracy", True, pytest.approx(-0.05))
    assert -0.2 < change.low < -0.05 < change.high <= 0, "the two that both have wrong widen nothing"


def test_copies_of_the_texts_elsewhere_are_the_same_texts(
    place: Workspace, data: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "copies").mkdir()
    copies = {split: str(shutil.copy(path, tmp_path / "copies")) for split, path in data.items()}
    a, b = run_of(place, "a", data, wrong=()), run_of(place, "b", copies, wrong=(1,))
    assert paired_quality(a, b, pairs=INT8S)[INT8].estimate == pytest.approx(-0.05)


def test_runs_on_other_texts_are_not_compared_item_by_item(
    place: Workspace, data: dict[str, str], tmp_path: Path
) -> None:
    other = data | {"test": write(tmp_path, "other", text=TEXTS[::-1], label=LABELS)}
    a, b = run_of(place, "a", data, wrong=()), run_of(place, "b", other, wrong=())
    assert paired_quality(a, b, pairs=INT8S) == {}


def test_runs_whose_texts_are_others_today_are_not_compared_item_by_item(
    place: Workspace, data: dict[str, str], tmp_path: Path
) -> None:
    a, b = run_of(place, "a", data, wrong=()), run_of(place, "b", data, wrong=())
    write(tmp_path, "test", text=TEXTS[:4], label=LABELS[:4])
    assert paired_quality(a, b, pairs=INT8S) == {}


def test_variants_without_a_bundle_of_their_run_are_left_out(place: Workspace, data: dict[str, str]) -> None:
    a, b = run_of(place, "a", data, wrong=()), run_of(place, "b", data, wrong=())
    pairs = [("teacher-torch-fp32", "teacher-torch-fp32"), ("champion", "champion"), (SMALL, TEACHER)]
    assert paired_quality(a, b, pairs=pairs) == {}


def test_a_folder_that_is_no_measured_run_has_nothing_to_compare(place: Workspace, data: dict[str, str]) -> None:
    a = run_of(place, "a", data, wrong=())
    assert paired_quality(a, place.root, pairs=INT8S) == {}
    write_json(place.root / "runs/c/run.json", {"name": "c", "config": {}, "steps": {"benchmark": {"key": "gone-1"}}})
    assert run_in(place.root / "runs/c") is None
