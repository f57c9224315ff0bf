"""The GPU's runtime. What needs no GPU is run here by onnxruntime itself, with the buffers on the CPU; what needs one
is skipped with the reason."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
from fakes import LABELS, tiny_bundle

from serving import cuda
from serving.bundle import Bundle, TaskKind, read_bundle
from serving.cuda import CUDA, INSTALL, RUNS_TO_RECORD, BoundSession, assigned, missing, require_on_cuda
from serving.engine import Engine, Tokens, check_golden
from serving.errors import BadArtifact
from serving.runtimes import ort_options

BOTH = (CUDA, "CPUExecutionProvider")
TEXTS = [("good",), ("bad good fine dull",), ("dull " * 9,), ("awful bright",)]
needs_gpu = pytest.mark.skipif(bool(missing()), reason=f"it needs {missing()}")


def session_of(bundle: Bundle) -> Any:
    options = ort_options(threads=1, on_cpu=True)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return onnxruntime.InferenceSession(bundle.path / "model.onnx", options, providers=["CPUExecutionProvider"])


def bound(bundle: Bundle) -> tuple[BoundSession, Engine]:
    """The bundle with its buffers in the CPU's memory, and the engine whose answers it must give."""
    return BoundSession(session_of(bundle), bundle.spec, device="cpu"), Engine(bundle, threads=1)


@pytest.mark.parametrize("task", LABELS)
def test_an_item_in_its_bucket_is_answered_as_without_padding(tmp_path: Path, task: TaskKind) -> None:
    session, engine = bound(tiny_bundle(tmp_path, task=task))
    for text in (*TEXTS, *TEXTS):
        (tokens,) = engine.encode([text])
        found = session.run(engine._feed([tokens], length=0))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, engine.run([tokens]), atol=1e-6)


def test_pairs_bring_their_segments_along(tmp_path: Path) -> None:
    session, engine = bound(tiny_bundle(tmp_path, texts_per_item=2))
    (tokens,) = engine.encode([("good", "bad day")])
    np.testing.assert_allclose(session.run(engine._feed([tokens], length=0)), engine.run([tokens]), atol=1e-6)


def test_what_an_earlier_item_left_in_the_buffers_is_padded_over(tmp_path: Path) -> None:
    session, engine = bound(tiny_bundle(tmp_path))
    long, short = (engine._feed(engine.encode([(text,)]), length=0) for text in ("bad bad bad bad", "good"))
    fresh = session.run(short)
    session.run(long)
    np.testing.assert_array_equal(session.run(short), fresh)


def test_an_answer_is_not_overwritten_by_the_next_one(tmp_path: Path) -> None:
    session, engine = bound(tiny_bundle(tmp_path))
    first = session.run(engine._feed(engine.encode([("good",)]), length=0))
    kept = first.copy()
    session.run(engine._feed(engine.encode([("bad",)]), length=0))
    np.testing.assert_array_equal(first, kept)


class Counting:
    """A session that counts how it is run."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.bound, self.plain = 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, *arguments: Any) -> None:
        self.bound += 1
        self._session.run_with_iobinding(*arguments)

    def run(self, *arguments: Any) -> Any:
        self.plain += 1
        return self._session.run(*arguments)


def test_a_bucket_is_recorded_once_and_then_replayed(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)  # buckets of 8 and 16
    counted, engine = Counting(session_of(bundle)), Engine(bundle, threads=1)
    session = BoundSession(counted, bundle.spec, device="cpu")
    for words in (1, 3, 6, 7, 14):
        session.run(engine._feed(engine.encode([("good " * words,)]), length=0))
    assert (counted.bound, counted.plain) == (2 * RUNS_TO_RECORD + 5, 0)


def test_batches_and_what_is_longer_than_every_bucket_run_without_a_recording(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    counted, engine = Counting(session_of(bundle)), Engine(bundle, threads=1)
    session = BoundSession(counted, bundle.spec, device="cpu")
    batch = engine.encode(TEXTS)
    np.testing.assert_allclose(session.run(engine._feed(batch, length=0)), engine.run(batch), atol=1e-6)
    long = [Tokens(ids=[5] * 20, type_ids=[0] * 20)]
    np.testing.assert_allclose(session.run(engine._feed(long, length=0)), engine.run(long), atol=1e-6)
    assert (counted.bound, counted.plain) == (0, 2)


def test_callers_together_get_the_answers_they_get_alone(tmp_path: Path) -> None:
    session, engine = bound(tiny_bundle(tmp_path))
    feeds = [engine._feed(engine.encode([text]), length=0) for text in TEXTS]
    alone, together = [session.run(feed).tobytes() for feed in feeds], threading.Barrier(4)

    def ask(feed: Any) -> set[bytes]:
        together.wait()
        return {session.run(feed).tobytes() for _ in range(50)}

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, feeds)) == [{one} for one in alone]


def gpu_bundle(path: Path) -> Bundle:
    bundle = tiny_bundle(path)
    return replace(bundle, spec=msgspec.structs.replace(bundle.spec, providers=BOTH))


def test_an_onnxruntime_without_cuda_is_answered_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BadArtifact) as refused:
        Engine(gpu_bundle(tmp_path), threads=1)
    assert str(refused.value) == (
        f"{tmp_path} needs CUDAExecutionProvider, which this onnxruntime does not have: pip uninstall onnxruntime, "
        "then pip install 'onnxruntime-gpu[cuda,cudnn]'"
    )


def test_a_machine_without_a_gpu_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(BOTH))
    monkeypatch.setattr(cuda, "device_count", lambda: 0)
    with pytest.raises(BadArtifact) as refused:
        Engine(gpu_bundle(tmp_path), threads=1)
    assert str(refused.value) == (
        f"{tmp_path} needs an NVIDIA GPU, and the driver shows none: run it where there is one, with the driver's "
        "libcuda.so.1"
    )


class NoDriver:
    def CDLL(self, name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")


def test_without_a_driver_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda.ctypes, "CDLL", NoDriver().CDLL)
    assert cuda.device_count() == 0


@pytest.mark.parametrize(("failure", "devices"), [(0, 2), (100, 0)])
def test_the_driver_says_how_many_gpus_there_are(monkeypatch: pytest.MonkeyPatch, failure: int, devices: int) -> None:
    class Driver:
        def cuInit(self, flags: int) -> int:
            return failure

        def cuDeviceGetCount(self, count: Any) -> int:
            count._obj.value = 2
            return 0

    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda _name: Driver())
    assert cuda.device_count() == devices


def test_a_session_that_cuda_did_not_start_is_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    session = session_of(bundle)
    with pytest.raises(BadArtifact) as refused:
        require_on_cuda(bundle, session.get_providers(), assigned(session))
    assert str(refused.value) == (
        f"{tmp_path}: CUDAExecutionProvider did not start, and CPUExecutionProvider would answer in its place; its "
        f"libraries are not found: {INSTALL}"
    )


def test_work_that_falls_back_to_the_cpu_is_refused_by_name(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, work=4)
    on_cpu = assigned(session_of(bundle))
    assert ("CPUExecutionProvider", "MatMul") in on_cpu
    with pytest.raises(BadArtifact) as refused:
        require_on_cuda(bundle, BOTH, on_cpu)
    assert str(refused.value) == (
        f"{tmp_path}: CUDA does not compute MatMul, which would fall back to the CPU; serve a variant in fp16 or fp32 "
        "there"
    )


def test_shapes_may_be_computed_on_the_cpu(tmp_path: Path) -> None:
    nodes = [("CPUExecutionProvider", "Shape"), (CUDA, "MatMul"), ("CPUExecutionProvider", "Gather")]
    require_on_cuda(tiny_bundle(tmp_path), BOTH, nodes)


@needs_gpu
def test_the_gpu_gives_the_golden_answers_and_names_itself(tmp_path: Path) -> None:
    engine = Engine(gpu_bundle(tmp_path), threads=1)
    engine.warm()
    check_golden(engine)
    assert engine.providers[0] == CUDA
    reference = Engine(read_bundle(tmp_path), threads=1)
    for text in TEXTS * 3:
        np.testing.assert_allclose(engine.logits([text]), reference.logits([text]), atol=1e-4)
