"""Forwards at shapes of batch and length: in this process what is measured, in children the race of two bundles."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fakes import tiny_bundle

from benchmarks import shapes
from benchmarks.children import run_child
from benchmarks.machine import affinity
from benchmarks.session import Variant
from benchmarks.shapes import Raced, Shape, ShapesJob, ShapesResult, measure_shapes, race
from benchmarks.targets import OrtCpu
from serving.bundle import seal_core
from serving.engine import Engine
from serving.errors import BadArtifact, BadRequest, Failure

ITEMS = tuple((text,) for text in ("good bad fine dull", "bright", "awful fine good bad bad good", "fine dull bad")) * 6
SHAPES = (Shape(1, 5), Shape(1, 12), Shape(4, 12))


def job(path: Path, **changes: object) -> ShapesJob:
    plain = ShapesJob("tiny", {"kind": "ort-cpu", "threads": 1}, str(path), (), SHAPES, 7, ITEMS)
    return msgspec.structs.replace(plain, **changes)


def ignore(_done: int, _total: int) -> None:
    pass


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[Raced, ...], list[str]]:
    """Two bundles, the second computed by OpenVINO; two processes each."""
    root, told = tmp_path_factory.mktemp("race"), []
    tiny_bundle(root / "a")
    other = tiny_bundle(root / "b", bias=1.0)
    seal_core(other.path, spec=msgspec.structs.replace(other.spec, runtime="openvino"), golden=other.golden)
    variants = [Variant(name, OrtCpu(), root / name) for name in "ab"]
    found = race(variants, shapes=[(1, 5), (4, 12)], items=ITEMS, n=10, processes=2, threads=1, progress=told.append)
    return found, told


def test_a_process_that_is_stuck_is_ended(tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    with pytest.raises(Failure) as refused:
        run_child(
            job(tmp_path),
            result_type=ShapesResult,
            threads=1,
            tell=lambda _: None,
            module="benchmarks.shapes",
            limit_s=0.01,
        )
    assert str(refused.value) == "measuring tiny: the process was not done within 0.01 s and was ended"


def test_a_forward_is_timed_at_every_shape_with_batches_of_exactly_that_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[int, ...]] = set()
    run = Engine.run

    def watched(engine: Engine, batch: list[object], *, length: int = 0) -> np.ndarray:
        seen.add((len(batch), *{len(one.ids) for one in batch}))  # type: ignore[attr-defined]
        return run(engine, batch, length=length)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "run", watched)
    bundle, told = tiny_bundle(tmp_path), []
    result = measure_shapes(job(tmp_path), tell=lambda *counts: told.append(counts))
    assert seen == set(SHAPES)
    assert [(each.shape, len(each.samples_ns)) for each in result.shapes] == [(shape, 7) for shape in SHAPES]
    assert min(min(each.samples_ns) for each in result.shapes) > 0
    assert (result.variant, result.facts.digest) == ("tiny", bundle.digest)
    assert told == [(7, 21), (14, 21), (21, 21)]


def test_texts_that_are_too_few_for_a_batch_are_in_it_twice(tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    result = measure_shapes(job(tmp_path, shapes=(Shape(4, 5),), items=ITEMS[:1]), tell=ignore)
    assert len(result.shapes[0].samples_ns) == 7


def test_a_shape_beyond_max_length_is_refused(tmp_path: Path) -> None:
    tiny_bundle(tmp_path, max_length=8)
    with pytest.raises(BadArtifact) as caught:
        measure_shapes(job(tmp_path), tell=ignore)
    assert str(caught.value) == "tiny reads items of 12 tokens as [8]: its max_length must reach it"


def test_a_race_interleaves_its_processes_and_keeps_every_sample(raced: tuple[tuple[Raced, ...], list[str]]) -> None:
    found, told = raced
    assert [each.split()[2] for each in told] == ["a,", "b,", "b,", "a,"]
    assert [each.name for each in found] == ["a", "b"]
    assert [each.facts.providers for each in found] == [("CPUExecutionProvider",), ("openvino-cpu-fp32",)]
    assert [[len(run) for run in each.samples_ns] for each in found[0].shapes] == [[10, 10], [10, 10]]
    both = found[1].at(4, 12)
    assert both.median_ms == pytest.approx(np.median(np.concatenate(both.samples_ns)) / 1e6)
    assert (both.latency.p50_ms, both.latency.processes) == (pytest.approx(both.median_ms), 2)


def test_a_race_survives_its_file(raced: tuple[tuple[Raced, ...], list[str]]) -> None:
    found, _ = raced
    assert msgspec.json.decode(msgspec.json.encode(found), type=tuple[Raced, ...]) == found


def result(variant: str, *, digest: str = "d", inputs: str = "i") -> ShapesResult:
    facts = shapes.Facts(digest=digest, size_mb=1.0, parameters=1, providers=())
    return ShapesResult(variant, facts, (shapes.TimedShape(SHAPES[0], inputs, shapes.WarmUp(10, True), [1]),))


def test_variants_that_read_other_tokens_are_not_compared() -> None:
    with pytest.raises(BadArtifact) as caught:
        shapes._require_same({"a": [result("a")], "b": [result("b", inputs="other")]})
    assert str(caught.value) == (
        "b reads other tokens than a: variants are raced on the same inputs, so they need the same tokenizer"
    )


def test_a_variant_that_changes_meanwhile_is_refused() -> None:
    with pytest.raises(BadArtifact) as caught:
        shapes._require_same({"a": [result("a"), result("a", digest="e")]})
    assert str(caught.value) == "a changed during the race; leave the files alone and run it again"


def test_a_race_of_nothing_and_one_on_too_few_cores_are_refused(tmp_path: Path) -> None:
    one = Variant("a", OrtCpu(), tmp_path)
    with pytest.raises(BadRequest) as caught:
        race([one, replace(one)], shapes=SHAPES, items=ITEMS, n=1, processes=1)
    assert str(caught.value) == (
        "a race needs shapes, items and differently named variants: got 3 shapes, 24 items, ['a', 'a']"
    )
    cores = len(affinity())
    with pytest.raises(BadRequest) as caught:
        race([one], shapes=SHAPES, items=ITEMS, n=1, processes=1, threads=cores + 1)
    assert str(caught.value) == (f"{cores + 1} threads on {cores} cores would time each other: choose at most {cores}")


def test_the_command_writes_a_result_and_tells_progress(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tiny_bundle(tmp_path / "bundle")
    (tmp_path / "job.json").write_bytes(msgspec.json.encode(job(tmp_path / "bundle", shapes=SHAPES[:1])))
    assert shapes.main([str(tmp_path / "job.json"), str(tmp_path / "result.json")]) == 0
    found = msgspec.json.decode((tmp_path / "result.json").read_bytes(), type=ShapesResult)
    assert [each.shape for each in found.shapes] == [SHAPES[0]]
    assert json.loads(capfd.readouterr().out) == {"done": 7, "total": 7}


def test_an_expected_failure_is_told_with_its_exit_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.json").write_bytes(msgspec.json.encode(job(tmp_path / "nowhere")))
    assert shapes.main([str(tmp_path / "job.json"), str(tmp_path / "result.json")]) == BadArtifact.exit_code
    assert "nowhere is not a bundle" in capfd.readouterr().err
