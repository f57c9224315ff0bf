"""Which sessions `retort compare` finds, and where."""

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import manifest_of
from receipts import INT8, SMALL, TEACHER, figures_of, measured, receipt

from benchmarks.receipt import Receipt, write_receipt
from pipeline.artifact import sealed_files, write_json
from pipeline.comparing import compare_places, metric_of
from pipeline.errors import BadArtifact, BadRequest
from pipeline.store import DirectoryStore


def kept(folder: Path, found: Receipt) -> Path:
    """A session's folder with the gate's figures."""
    folder.mkdir(parents=True, exist_ok=True)
    write_receipt(found, folder)
    write_json(folder / "figures.json", figures_of(found))
    return folder


def faster(**changes: Any) -> Receipt:
    return receipt([measured(SMALL, ms=4.0, digest="other", seed=9)], **changes)


def test_two_folders_are_compared_in_times_and_quality(tmp_path: Path) -> None:
    a, b = kept(tmp_path / "a", receipt([measured(SMALL, seed=1)])), kept(tmp_path / "b", faster())
    (found,) = compare_places(a, b).variants
    assert (found.a, found.b, found.times) == (SMALL, SMALL, "faster")
    assert found.quality is not None
    assert (found.quality.metric, found.quality.estimate) == ("accuracy", 0.0)


def test_receipts_by_their_own_path_find_their_figures_too(tmp_path: Path) -> None:
    a, b = kept(tmp_path / "a", receipt()), kept(tmp_path / "b", faster())
    found = compare_places(a / "receipt.json", b / "receipt.json", pairs=[(INT8, SMALL)])
    assert [(each.a, each.b, each.quality is not None) for each in found.variants] == [(INT8, SMALL, True)]


def test_figures_that_were_not_kept_leave_quality_uncompared(tmp_path: Path) -> None:
    a, b = kept(tmp_path / "a", receipt()), kept(tmp_path / "b", faster())
    (b / "figures.json").unlink()
    found = compare_places(a, b)
    assert found.variants[0].quality is None
    assert "Quality is not compared: no figures of it lie beside both receipts." in found.notes


def test_a_run_s_folder_stands_for_its_benchmark(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    out = store.partial("benchmark-1")
    kept(out, receipt())
    store.publish("benchmark-1", manifest_of("benchmark-1", sealed_files(out), stage="benchmark", label="benchmark"))
    run = tmp_path / "runs" / "a-run"
    write_json(run / "run.json", {"config": {}, "steps": {"benchmark": {"key": "benchmark-1"}}})
    found = compare_places(run, kept(tmp_path / "b", faster()))
    assert [each.a for each in found.variants] == [SMALL]
    write_json(run / "run.json", {"config": {}, "steps": {"distill": {"key": "distill-1"}}})
    with pytest.raises(BadArtifact) as caught:
        compare_places(run, tmp_path / "b")
    assert str(caught.value) == f"{run}: this run has no benchmark, or it was removed since; `retort run` makes it"


def test_other_machines_are_refused_unless_it_is_asked_for(tmp_path: Path) -> None:
    a, b = kept(tmp_path / "a", receipt()), kept(tmp_path / "b", faster(machine={"cores": 64}))
    with pytest.raises(BadRequest, match="A and B were measured on different machines"):
        compare_places(a, b)
    assert compare_places(a, b, across_machines=True).variants


def test_the_metric_is_the_first_of_a_task_that_both_sides_have() -> None:
    one = {TEACHER: {"macro_f1": 0.5, "accuracy": 0.6, "p95_ms": 1.0}}
    assert metric_of(one, {SMALL: {"macro_f1": 0.5}}) == "macro_f1"
    assert metric_of(one, one) == "accuracy"
    assert metric_of(one, {SMALL: {"p95_ms": 0.5}}) == ""


def test_a_tampered_receipt_is_not_compared(tmp_path: Path) -> None:
    a, b = kept(tmp_path / "a", receipt()), kept(tmp_path / "b", faster())
    content = json.loads((b / "receipt.json").read_text())
    (b / "receipt.json").write_text(json.dumps({**content, "seconds": 1.0}))
    with pytest.raises(BadArtifact, match="was altered after it was written"):
        compare_places(a, b)


def run_with_targets(tmp_path: Path, first: str) -> Path:
    """The folder of a run that was measured at two targets."""
    store = DirectoryStore(tmp_path)
    steps = {}
    for target, name in (("node", SMALL), ("edge", INT8)):
        key = f"benchmark-{target}-1"
        out = store.partial(key)
        kept(out, receipt([measured(name)], target=target))
        store.publish(key, manifest_of(key, sealed_files(out), stage="benchmark", label=f"benchmark-{target}"))
        steps[f"benchmark-{target}"] = {"key": key}
    run = tmp_path / "runs" / "a-run"
    write_json(run / "run.json", {"config": {"benchmark": {"first": first}}, "steps": steps})
    return run


@pytest.mark.parametrize(("first", "variant"), [("node", SMALL), ("edge", INT8)])
def test_of_a_run_at_several_targets_the_first_one_s_session_is_compared(
    tmp_path: Path, first: str, variant: str
) -> None:
    run = run_with_targets(tmp_path, first)
    assert [each.a for each in compare_places(run, kept(tmp_path / "b", faster())).variants] == [variant]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "Input data was truncated"),
        (b'{"a": 1}', "Expected `object`, got `int`"),
        (b'{"a": {"p": "fast"}}', "Expected `float`"),
        (b'{"\xff": {}}', "codec can't decode"),
    ],
)
def test_figures_that_cannot_be_read_are_told_with_the_way_out(tmp_path: Path, content: bytes, why: str) -> None:
    a, b = kept(tmp_path / "a", receipt()), kept(tmp_path / "b", faster())
    (b / "figures.json").write_bytes(content)
    with pytest.raises(BadArtifact) as caught:
        compare_places(a, b)
    message = str(caught.value)
    assert message.startswith(f"{b / 'figures.json'} does not hold the figures of a benchmark (")
    assert why in message
    assert message.endswith("); measure again, or remove it, and quality is left uncompared")


def test_figures_of_another_session_than_the_receipt_s_are_refused(tmp_path: Path) -> None:
    a, b = kept(tmp_path / "a", receipt()), kept(tmp_path / "b", faster())
    (b / "figures.json").write_bytes((a / "figures.json").read_bytes())
    with pytest.raises(BadArtifact) as caught:
        compare_places(a, b)
    assert str(caught.value) == (
        f"{b}/figures.json is of another session than the receipt beside it ({SMALL} has another p50); measure again, "
        "or remove it, and quality is left uncompared"
    )


def test_a_run_whose_record_is_damaged_is_told(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a-run"
    run.mkdir(parents=True)
    (run / "run.json").write_text('{"steps"')
    with pytest.raises(BadArtifact, match=r"run.json cannot be read \(.*\); remove it and run again$"):
        compare_places(run, kept(tmp_path / "b", faster()))
