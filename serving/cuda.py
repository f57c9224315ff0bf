"""onnxruntime on an NVIDIA GPU: one CUDA graph a bucket, its inputs and outputs bound to the GPU's memory.

A request of one item is padded to its bucket, copied into buffers whose addresses never change, and the recorded graph
is replayed: one launch in place of one for every operator. Batches, and items longer than every bucket, run without a
recording. Nothing that works falls back to the CPU unsaid: a session that CUDA did not start, or whose products lie on
the CPU, is refused.

Shapes: N items, L tokens, B tokens of the bucket, C outputs.
"""

import ctypes
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from serving.answers import Floats
from serving.bundle import Bundle, ServingSpec
from serving.errors import BadArtifact
from serving.runtimes import CUDA, Feed, ort_errors, ort_node, ort_options

INSTALL: Final = "pip uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]'"
RUNS_TO_RECORD: Final = 3  # onnxruntime warms up, records, and replays what it recorded
_UNRECORDED: Final = "-1"
# Operators that are a model's work. Shapes and masks are computed on the CPU on purpose; were one of these there, the
# GPU would be waiting for it.
_WORK: Final = frozenset(
    (
        *("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "MatMulInteger", "QLinearMatMul", "DynamicQuantizeMatMul"),
        *("MatMulIntegerToFloat", "DynamicQuantizeLinear", "Attention", "QAttention", "MultiHeadAttention"),
        *("LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization", "Softmax", "Gelu", "FastGelu"),
        *("BiasGelu", "Erf", "QuantizeLinear", "DequantizeLinear"),
    )
)


def missing() -> str:
    """What this machine lacks to compute on CUDA, and the way out; "" where it lacks nothing that shows before a graph
    is loaded."""
    import onnxruntime

    if CUDA not in onnxruntime.get_available_providers():
        return f"{CUDA}, which this onnxruntime does not have: {INSTALL}"
    if not device_count():
        return "an NVIDIA GPU, and the driver shows none: run it where there is one, with the driver's libcuda.so.1"
    return ""


def device_count() -> int:
    """The GPUs that CUDA shows to this process; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return 0 if failed else count.value


class Cuda:
    """A bundle's graph on the GPU; calls follow each other, since a recorded graph has one set of buffers."""

    def __init__(self, bundle: Bundle, *, threads: int) -> None:
        self._name, self._errors = bundle.spec.name, ort_errors()
        session = _open(bundle, threads=threads, errors=self._errors)
        self.providers = tuple(map(str, session.get_providers()))
        self.inputs = [ort_node(node) for node in session.get_inputs()]
        self.output = ort_node(session.get_outputs()[0])
        self._bound = BoundSession(session, bundle.spec, device="cuda")

    def run(self, feed: Feed) -> Floats:
        try:
            return self._bound.run(feed)
        except self._errors as error:
            raise BadArtifact(f"model {self._name} cannot compute this input: {error}") from error


class BoundSession:
    """A session whose single items go through buffers on `device`, a set of them for each bucket."""

    def __init__(self, session: Any, spec: ServingSpec, *, device: str) -> None:
        self._session, self._spec, self._device = session, spec, device
        self._output: str = session.get_outputs()[0].name
        self._bound: dict[int, _Bound] = {}
        self._lock = threading.Lock()

    def run(self, feed: Feed) -> Floats:
        """(N, C), or (N, L, C) where tokens have outputs."""
        items, length = feed["input_ids"].shape
        bucket = next((bucket for bucket in self._spec.buckets if bucket >= length), None)
        with self._lock:
            if items > 1 or bucket is None:
                return self._run_unrecorded(feed)
            outputs = self._at(bucket).run(feed, pad_id=self._spec.pad_id)
        return outputs[:, :length] if self._spec.per_token else outputs

    def _run_unrecorded(self, feed: Feed) -> Floats:
        (outputs,) = self._session.run([self._output], feed, _run_options(_UNRECORDED))
        found: Floats = outputs
        return found

    def _at(self, bucket: int) -> "_Bound":
        """The bucket's buffers; the graph is recorded when they are first asked for, which `Engine.warm` does."""
        if bucket not in self._bound:
            shape = (1, bucket, self._spec.outputs) if self._spec.per_token else (1, self._spec.outputs)
            self._bound[bucket] = _bind(self._session, bucket=bucket, output_shape=shape, device=self._device)
        return self._bound[bucket]


@dataclass(frozen=True)
class _Bound:
    """One bucket: `inputs` and `output` lie on the device, and `staged` holds what is copied there, (1, B) each."""

    session: Any
    binding: Any
    options: Any
    inputs: dict[str, Any]
    staged: dict[str, Any]
    output: Any

    def run(self, feed: Feed, *, pad_id: int) -> Floats:
        for name, staged in self.staged.items():
            length = feed[name].shape[1]
            staged[:, :length] = feed[name]
            staged[:, length:] = pad_id if name == "input_ids" else 0
            self.inputs[name].update_inplace(staged)
        return self.replay()

    def replay(self) -> Floats:
        self.session.run_with_iobinding(self.binding, self.options)
        return np.array(self.output.numpy(), np.float32)  # a copy: the next call writes into the same buffer


def _bind(session: Any, *, bucket: int, output_shape: tuple[int, ...], device: str) -> _Bound:
    """Buffers for one item of `bucket` tokens, and the graph recorded over them; the bucket is the recording's name."""
    from onnxruntime import OrtValue

    staged = {node.name: np.zeros((1, bucket), np.int64) for node in session.get_inputs()}
    staged.get("attention_mask", np.zeros(1))[:] = 1  # a mean over no tokens at all would divide by zero
    inputs = {name: OrtValue.ortvalue_from_numpy(first.copy(), device, 0) for name, first in staged.items()}
    output = OrtValue.ortvalue_from_shape_and_type(output_shape, np.float32, device, 0)
    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_ortvalue_output(session.get_outputs()[0].name, output)
    bound = _Bound(session, binding, _run_options(str(bucket)), inputs, staged, output)
    for _ in range(RUNS_TO_RECORD):
        bound.replay()
    return bound


def _open(bundle: Bundle, *, threads: int, errors: tuple[type[Exception], ...]) -> Any:
    import onnxruntime

    if lacking := missing():
        raise BadArtifact(f"{bundle.path} needs {lacking}")
    onnxruntime.preload_dlls()
    options = ort_options(threads=threads, on_cpu=True)  # shapes are computed there
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    path = bundle.path / "model.onnx"
    wanted = [(CUDA, {"enable_cuda_graph": "1"}), *bundle.spec.providers[1:]]
    try:
        session = onnxruntime.InferenceSession(path, sess_options=options, providers=wanted, enable_fallback=False)
    except errors as error:
        raise BadArtifact(f"{path} does not load on CUDA: {error}") from error
    require_on_cuda(bundle, session.get_providers(), assigned(session))
    return session


def assigned(session: Any) -> list[tuple[str, str]]:
    """The provider and the operator of every node, of a session that was asked to record them."""
    parts = session.get_provider_graph_assignment_info()
    return [(part.ep_name, node.op_type) for part in parts for node in part.get_nodes()]


def require_on_cuda(bundle: Bundle, providers: Sequence[str], nodes: Iterable[tuple[str, str]]) -> None:
    """Raises BadArtifact where CUDA did not start, or where the CPU was given a part of the model's work."""
    if list(providers[:1]) != [CUDA]:
        raise BadArtifact(
            f"{bundle.path}: {CUDA} did not start, and {', '.join(providers)} would answer in its place; its libraries "
            f"are not found: {INSTALL}"
        )
    if fallen := sorted({operator for provider, operator in nodes if provider != CUDA and operator in _WORK}):
        raise BadArtifact(
            f"{bundle.path}: CUDA does not compute {', '.join(fallen)}, which would fall back to the CPU; serve a "
            "variant in fp16 or fp32 there"
        )


def _run_options(graph: str) -> Any:
    """Which recorded graph a run replays, or records where there is none of that name yet."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph)
    return options
