"""Both runtimes of the engine: the same answers from the same graph, and a message wherever one cannot give them.

The answers compared are those of a real encoder, all-MiniLM-L6-v2, with a drawn head of eight labels whose logits go up
to 1.2 here. Exporting it, once a session, takes most of this file's seconds.
"""

import importlib.util
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from fakes import LABELS, expected_logits, tiny_bundle
from givens import real_bundle

from serving import runtimes
from serving.bundle import Bundle, Item, TaskKind, read_bundle, seal_core
from serving.cpu import cpu_features
from serving.engine import Engine, Tokens, check_golden
from serving.errors import BadArtifact

pytestmark = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
has_bf16 = pytest.mark.skipif(not cpu_features() & runtimes.BF16_FEATURES, reason="this CPU does not compute in bf16")

ITEMS: list[Item] = [
    ("A warm, funny film about a family that cannot stop talking.",),
    ("dull",),
    ("The plot goes nowhere, slowly, and then it stops; I left before the end and so did half of the theatre.",),
    ("Please tell me why my card was declined abroad, although I had told you of the journey a week before.",),
    ("",),
]
FP32_BOUND, BF16_BOUND = 1e-4, 0.05  # of a logit; 1.6e-6 and 0.015 when measured


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Its golden outputs are onnxruntime's."""
    return real_bundle(tmp_path_factory.getbasetemp())


def told(bundle: Bundle, **changes: Any) -> Bundle:
    """The bundle as if its serving.yaml said otherwise."""
    return replace(bundle, spec=msgspec.structs.replace(bundle.spec, **changes))


def on_openvino(bundle: Bundle, precision: str = "fp32") -> Engine:
    return Engine(told(bundle, runtime="openvino", inference_precision=precision), threads=1)


def refusal(bundle: Bundle, precision: str = "fp32") -> str:
    with pytest.raises(BadArtifact) as refused:
        on_openvino(bundle, precision)
    return str(refused.value)


def farthest(found: list[Any], wanted: list[Any]) -> float:
    return max(float(np.abs(one - other).max()) for one, other in zip(found, wanted, strict=True))


def test_openvino_in_fp32_answers_as_onnxruntime_does(minilm: Bundle) -> None:
    engine, reference = on_openvino(minilm), Engine(minilm, threads=1)
    check_golden(engine)
    assert farthest(engine.logits(ITEMS), reference.logits(ITEMS)) < FP32_BOUND
    together = engine.run(engine.encode(ITEMS), length=50)
    assert together.dtype == np.float32
    assert farthest(list(together), reference.logits(ITEMS)) < FP32_BOUND


@has_bf16
def test_openvino_in_bf16_is_close_to_fp32_and_not_it(minilm: Bundle) -> None:
    engine, wanted = on_openvino(minilm, "bf16"), Engine(minilm, threads=1).logits(ITEMS)
    found = engine.logits(ITEMS)
    assert FP32_BOUND < farthest(found, wanted) < BF16_BOUND
    assert farthest(list(engine.run(engine.encode(ITEMS), length=50)), wanted) < BF16_BOUND
    assert [row.argmax() for row in found] == [row.argmax() for row in wanted]
    assert {one.dtype for one in found} == {np.dtype(np.float32)}


@pytest.mark.parametrize("task", LABELS)
def test_openvino_answers_every_kind_of_task(tmp_path: Path, task: TaskKind) -> None:
    engine = on_openvino(tiny_bundle(tmp_path, task=task))
    items = [("good bad",), ("dull awful fine bright",)]
    expected = [expected_logits(item, spec=engine.bundle.spec) for item in items]
    for row, wanted in zip(engine.logits(items), expected, strict=True):
        np.testing.assert_allclose(row.ravel(), wanted, rtol=1e-6)


def test_openvino_answers_pairs_whose_segments_the_graph_drops(tmp_path: Path) -> None:
    engine = on_openvino(tiny_bundle(tmp_path, texts_per_item=2))
    expected = expected_logits(("good", "bad day"), spec=engine.bundle.spec)
    np.testing.assert_allclose(engine.logits([("good", "bad day")]), [expected], rtol=1e-6)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_callers_together_get_the_answers_they_get_alone(minilm: Bundle, runtime: str) -> None:
    engine, together = Engine(told(minilm, runtime=runtime), threads=1), threading.Barrier(4)
    asked = [[("film " * (1 + length * (caller + 1) % 17),) for length in range(10)] for caller in range(4)]

    def ask(items: list[Item]) -> list[bytes]:
        together.wait()
        return [engine.logits([item])[0].tobytes() for item in items]

    alone = [[engine.logits([item])[0].tobytes() for item in items] for items in asked]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, asked)) == alone


def test_an_answer_is_not_overwritten_by_the_next_one(tmp_path: Path) -> None:
    engine = on_openvino(tiny_bundle(tmp_path))
    first = engine.run(engine.encode([("good",)]))
    kept = first.copy()
    engine.run(engine.encode([("bad",)]))
    np.testing.assert_array_equal(first, kept)


def test_receipts_name_who_computes(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    assert Engine(bundle, threads=1).providers == ("CPUExecutionProvider",)
    assert on_openvino(bundle).providers == ("openvino-cpu-fp32",)


def test_the_threads_asked_for_are_those_that_compute(tmp_path: Path) -> None:
    bundle = told(tiny_bundle(tmp_path), runtime="openvino")
    compiled = runtimes.OpenVino(bundle, threads=2)._compiled
    asked = ("INFERENCE_NUM_THREADS", "NUM_STREAMS", "ENABLE_CPU_PINNING", "INFERENCE_PRECISION_HINT")
    assert [compiled.get_property(name) for name in asked][:3] == [2, 1, False]
    assert compiled.get_property(asked[3]).get_type_name() == "f32"


def test_bf16_without_the_cpu_for_it_is_refused_and_not_emulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "cpu_features", lambda: frozenset({"avx512f", "avx512_vnni"}))
    assert refusal(tiny_bundle(tmp_path), "bf16") == (
        f"{tmp_path} computes in bf16, and this CPU has none of amx_bf16, avx512_bf16, bf16; "
        "serve it on a CPU that has one or export a variant in fp32"
    )


def test_a_precision_that_openvino_exchanges_for_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tiny_bundle(tmp_path)
    settings = runtimes._settings
    monkeypatch.setattr(runtimes, "cpu_features", lambda: runtimes.BF16_FEATURES)
    monkeypatch.setattr(runtimes, "_settings", lambda threads, precision: settings(threads=threads, precision="f32"))
    assert refusal(bundle, "bf16") == (
        f"{tmp_path} asks OpenVINO for bf16 and would be computed in f32 on this machine, which is not the model that "
        "was measured; serve it on another CPU or export a variant in fp32"
    )


def test_openvino_that_is_not_installed_is_told_with_the_way_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert refusal(tiny_bundle(tmp_path)) == (
        f"{tmp_path} needs openvino, which is not installed here; run pip install 'retort[openvino]', or serve a "
        "variant that onnxruntime computes"
    )


def test_a_graph_that_openvino_does_not_load_is_a_bad_artifact(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    graph = onnx.load(tmp_path / "model.onnx")
    graph.graph.node[-1].CopyFrom(onnx.helper.make_node("Sparkle", ["plain"], ["logits"], domain="com.example"))
    graph.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    onnx.save(graph, tmp_path / "model.onnx")
    seal_core(tmp_path, spec=bundle.spec, golden=bundle.golden)
    message = refusal(read_bundle(tmp_path))
    assert message.startswith(f"{tmp_path / 'model.onnx'} does not load: ")
    assert "com.example.Sparkle" in message
    assert "Exception from" not in message
    assert "\n" not in message


def test_a_graph_of_another_rank_is_refused_whoever_computes(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, task="token-classification")
    other = tiny_bundle(tmp_path / "other", task="embedding")
    shutil.copyfile(other.path / "model.onnx", tmp_path / "model.onnx")
    assert refusal(bundle) == (
        f"{tmp_path}: the graph's output has rank 2; token-classification needs (items, tokens, logits); "
        "export it again"
    )


def test_an_input_beyond_the_graph_s_positions_is_refused(minilm: Bundle) -> None:
    engine = on_openvino(minilm)
    with pytest.raises(BadArtifact, match=r"^model minilm-onnx-fp32 gave \(0, 8\) for this input, not \(1, 8\); "):
        engine.run([Tokens([101] * 600, [0] * 600)])
    assert np.isfinite(engine.logits([("and the next one is answered",)])).all()


def test_nan_from_openvino_is_an_error_and_not_an_answer(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="model tiny gave NaN or infinity for this input; its weights are unfit"):
        on_openvino(tiny_bundle(tmp_path)).answer([("poison",)])


AUDIT = """
import sys
seen = []
watched = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.fork", "os.posix_spawn", "os.mkdir")
sys.addaudithook(lambda event, _: seen.append(event) if event in watched else None)
from pathlib import Path
import msgspec
from serving.bundle import read_bundle
from serving.engine import Engine
Engine(read_bundle(Path(sys.argv[1])), threads=1).logits([("good",)])
print(seen, [name for name in ("onnxruntime", "torch", "requests", "openvino_telemetry.main") if name in sys.modules])
"""


def test_serving_by_openvino_reports_to_nobody_and_loads_no_other_runtime(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    seal_core(tmp_path, spec=told(bundle, runtime="openvino").spec, golden=bundle.golden)
    done = subprocess.run([sys.executable, "-c", AUDIT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[] []"), done.stderr
