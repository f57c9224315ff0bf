"""The child's work, done in this process: what it measures and what it refuses."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from fakes import expected_logits, tiny_bundle

from benchmarks import pinning, worker
from benchmarks.measure import sample
from benchmarks.outputs import read_outputs
from benchmarks.readings import Watch
from benchmarks.worker import LatencyJob, LatencyResult, QualityJob
from serving.answers import probabilities
from serving.bundle import Bundle, Item, TaskKind
from serving.engine import Engine, Tokens
from serving.errors import BadArtifact, BadRequest, Transient

ITEMS = (("good bad fine",), ("bright",), ("dull awful bad",))


def latency_job(path: Path, **changes: object) -> LatencyJob:
    job = LatencyJob(
        variant="tiny",
        target={"kind": "ort-cpu", "threads": 1},
        path=str(path),
        task="classification",
        cores=(),
        buckets={5: (("good bad fine",), ("dull awful bad",))},
        probes=ITEMS,
        n=7,
    )
    return msgspec.structs.replace(job, **changes)


def ignore(_done: int, _total: int) -> None:
    pass


def test_a_latency_job_yields_every_series_with_n_samples(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    told: list[tuple[int, int]] = []
    result = worker.measure_latency(latency_job(tmp_path), tell=lambda *counts: told.append(counts))
    samples = result.buckets[5].samples_ns
    assert {name: len(series) for name, series in samples.items()} == {
        "tokenize": 7,
        "infer": 7,
        "score": 7,
        "end_to_end": 7,
    }
    assert all(
        total >= tokenize + infer
        for total, tokenize, infer in zip(samples["end_to_end"], samples["tokenize"], samples["infer"], strict=True)
    )
    assert result.facts.digest == bundle.digest
    assert result.cold_start_ms > 0
    assert result.peak_mb >= result.rss_mb > 10
    assert told == [(done, 7) for done in (0, 0, 0, 3, 7, 7)], (
        "a word before each turn; in the first two nothing is timed"
    )
    assert result.real_ns == {"tokenize": [], "infer": [], "score": [], "end_to_end": []}


def test_texts_as_they_come_are_each_timed_once_at_their_own_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_bundle(tmp_path)
    asked: list[int] = []
    run = Engine.run

    def counted(engine: Engine, batch: Sequence[Tokens], *, length: int = 0) -> np.ndarray:
        asked.extend(len(one.ids) for one in batch)
        return run(engine, batch, length=length)

    monkeypatch.setattr(Engine, "run", counted)
    real = (("good bad fine",), ("bright",), ("fine bad good",))
    told: list[tuple[int, int]] = []
    result = worker.measure_latency(latency_job(tmp_path, real=real), tell=lambda *counts: told.append(counts))
    assert {name: len(series) for name, series in result.real_ns.items()} == {
        "tokenize": 3,
        "infer": 3,
        "score": 3,
        "end_to_end": 3,
    }
    turns = ([5, 5] + [5] * 3, [3, 5, 5], [5, 5] + [5] * 4, [5, 5, 3, 5])  # two that settle, then the timed ones
    in_turns = [length for turn in turns for length in turn]
    assert asked[-len(in_turns) :] == in_turns
    before = asked[: -len(in_turns)]
    assert sorted(before[-2:]) == [3, 5], "each length was seen once before the timed block"
    assert told == [(done, 10) for done in (0, 0, 0, 3, 4, 8, 10, 10)]


def test_every_turn_is_waited_for_and_what_is_timed_lies_between_two_readings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_bundle(tmp_path)
    events: list[str] = []

    class Watched(Watch):
        def calibrate(self) -> None:
            events.append("calibrate")
            super().calibrate()

        def begin(self) -> None:
            events.append("begin")
            super().begin()

        def end(self) -> None:
            events.append("end")
            super().end()

    def sampled(steps: Any, inputs: Any, *, n: int) -> Any:
        events.append(f"{n} samples")
        return sample(steps, inputs, n=n)

    monkeypatch.setattr(worker, "Watch", Watched)
    monkeypatch.setattr(worker, "sample", sampled)
    buckets = {5: ITEMS[:1], 3: ITEMS[1:2]}
    result = worker.measure_latency(
        latency_job(tmp_path, buckets=buckets, real=ITEMS, n=5),
        tell=lambda *_: events.append("tell"),
        turn=lambda: events.append("turn"),
    )
    timed = [["2 samples", f"{n} samples"] for n in (5, 5, 3)]
    turns = [["calibrate"], ["begin"], *timed, ["end"], ["calibrate"]]
    assert events == [event for turn in turns for event in ("tell", "turn", *turn)]
    assert 0 < result.readings.seconds < result.readings.span_seconds


def test_a_latency_job_answers_the_probes(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    result = worker.measure_latency(latency_job(tmp_path), tell=ignore)
    expected = [expected_logits(item, spec=bundle.spec) for item in ITEMS]
    np.testing.assert_allclose(result.probe_logits, expected, rtol=1e-5)


def test_a_probe_s_outputs_are_one_flat_list_however_many_tokens_it_has(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, task="token-classification")
    result = worker.measure_latency(latency_job(tmp_path, task="token-classification"), tell=ignore)
    assert [len(row) for row in result.probe_logits] == [5 * 3, 3 * 3, 5 * 3]
    for row, item in zip(result.probe_logits, ITEMS, strict=True):
        np.testing.assert_allclose(row, expected_logits(item, spec=bundle.spec), rtol=1e-5)
    assert len(result.buckets[5].samples_ns["score"]) == 7


def test_a_single_probe_is_enough(tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    assert len(worker.measure_latency(latency_job(tmp_path, probes=ITEMS[:1]), tell=ignore).probe_logits) == 1


def test_a_bundle_of_another_task_is_refused(tmp_path: Path) -> None:
    tiny_bundle(tmp_path, task="multi-label")
    with pytest.raises(BadArtifact) as caught:
        worker.measure_latency(latency_job(tmp_path), tell=ignore)
    assert str(caught.value) == "tiny does multi-label, this session measures classification: name the same task"


def test_items_that_are_not_as_long_as_they_claim_are_refused(tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    with pytest.raises(BadArtifact) as caught:
        worker.measure_latency(latency_job(tmp_path, buckets={6: ITEMS[:1]}), tell=ignore)
    assert str(caught.value) == (
        "tiny reads items of 6 tokens as [5]: variants compared at one length need the same tokenizer "
        "and a max_length that reaches it"
    )


def quality_job(bundle: Bundle, items: Sequence[Item], out: Path) -> QualityJob:
    return QualityJob(
        variant="tiny",
        target={"kind": "ort-cpu", "threads": 1},
        path=str(bundle.path),
        task=bundle.spec.task,
        cores=(),
        items=tuple(items),
        logits_file=str(out / "logits.npy"),
    )


def test_a_quality_job_writes_the_logits_of_all_items_in_order(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    items = ITEMS * 20
    told: list[tuple[int, int]] = []
    result = worker.measure_quality(quality_job(bundle, items, tmp_path), tell=lambda *counts: told.append(counts))
    expected = [expected_logits(item, spec=bundle.spec) for item in items]
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-5)
    assert (result.n, result.facts.digest, told[-1]) == (60, bundle.digest, (60, 60))
    assert [(each.batch, each.items, each.flips) for each in result.invariance] == [(8, 60, 0), (32, 60, 0)]


@pytest.mark.parametrize("task", get_args(TaskKind))
def test_a_quality_job_of_any_task_writes_one_array_per_item(tmp_path: Path, task: TaskKind) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", task=task)
    worker.measure_quality(quality_job(bundle, ITEMS, tmp_path), tell=ignore)
    found = read_outputs(tmp_path / "logits.npy")
    lengths = [5, 3, 5] if bundle.spec.per_token else [None] * 3
    assert [each.shape for each in found] == [
        (length, bundle.spec.outputs) if length else (bundle.spec.outputs,) for length in lengths
    ]
    for output, item in zip(found, ITEMS, strict=True):
        np.testing.assert_allclose(output.ravel(), expected_logits(item, spec=bundle.spec), rtol=1e-5)


@pytest.mark.parametrize("task", get_args(TaskKind))
def test_the_score_step_is_the_one_that_serves(tmp_path: Path, task: TaskKind, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[np.ndarray] = []

    def keep(logits: np.ndarray, *, task: TaskKind) -> np.ndarray:
        scored.append(probabilities(logits, task=task))
        return scored[-1]

    engine = Engine(tiny_bundle(tmp_path, task=task), threads=1)
    monkeypatch.setattr(worker, "probabilities", keep)
    worker.measure_latency(latency_job(tmp_path, task=task), tell=ignore)
    asked = list(latency_job(tmp_path).buckets[5])
    for mine, served in zip(scored[-7:], engine.answer((asked * 4)[:7]).scores, strict=True):
        np.testing.assert_array_equal(mine[0], served)


def test_the_command_writes_a_result_and_tells_progress_as_json_lines(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_bundle(tmp_path / "bundle")
    (tmp_path / "job.json").write_bytes(msgspec.json.encode(latency_job(tmp_path / "bundle")))
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n" * 6))
    assert worker.main([str(tmp_path / "job.json"), str(tmp_path / "result.json")]) == 0
    result = msgspec.json.decode((tmp_path / "result.json").read_bytes(), type=LatencyResult)
    assert result.variant == "tiny"
    assert [json.loads(line)["done"] for line in capfd.readouterr().out.splitlines()] == [0, 0, 0, 3, 7, 7]


def test_a_process_whose_session_ended_ends_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_bundle(tmp_path / "bundle")
    (tmp_path / "job.json").write_bytes(msgspec.json.encode(latency_job(tmp_path / "bundle")))
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n"))
    assert worker.main([str(tmp_path / "job.json"), str(tmp_path / "result.json")]) == Transient.exit_code
    assert capfd.readouterr().err == "the session has ended: nobody waits for this process's times\n"
    assert not (tmp_path / "result.json").exists()


def test_an_expected_failure_is_told_on_stderr_with_its_exit_code(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.json").write_bytes(msgspec.json.encode(latency_job(tmp_path / "nowhere")))
    assert worker.main([str(tmp_path / "job.json"), str(tmp_path / "result.json")]) == BadArtifact.exit_code
    assert "nowhere is not a bundle" in capfd.readouterr().err
    assert not (tmp_path / "result.json").exists()


def test_a_process_that_may_not_be_pinned_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def forbidden(_pid: int, _cores: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", forbidden, raising=False)
    tiny_bundle(tmp_path / "bundle")
    (tmp_path / "job.json").write_bytes(msgspec.json.encode(latency_job(tmp_path / "bundle", cores=(0, 1))))
    assert worker.main([str(tmp_path / "job.json"), str(tmp_path / "result.json")]) == BadRequest.exit_code
    assert capfd.readouterr().err == (
        "cannot pin to core 0, 1 (sched_setaffinity: Operation not permitted), and times of a process that wanders "
        "between cores are not reported: allow that system call (in a container: its seccomp profile), or measure "
        "where it is allowed\n"
    )
    assert not (tmp_path / "result.json").exists()


def test_where_the_system_knows_no_affinity_nothing_is_pinned_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    pinning.pin((0, 1))
    assert pinning.unpinned() == ("processes cannot be pinned to cores here: they may have wandered",)
    monkeypatch.setattr(os, "sched_setaffinity", print, raising=False)
    assert pinning.unpinned() == ()


def test_importing_the_measuring_half_loads_no_heavy_library() -> None:
    code = (
        "import sys, benchmarks.worker, benchmarks.session, benchmarks.report\n"
        "print([name for name in ('torch', 'transformers', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
