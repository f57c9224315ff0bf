"""EXTENSION POINT: the libraries that compute a bundle's graph, behind one face; which one, serving.yaml says.

Each opens `model.onnx`, tells what the graph reads and gives, and runs it; what it can be expected to fail at is a
BadArtifact. They are imported when they are opened: a process holds only the one that it uses.

Shapes: N items, L tokens, C outputs.
"""

import queue
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from serving.answers import Floats
from serving.bundle import ONNX_CPU, Bundle
from serving.cpu import cpu_features
from serving.errors import BadArtifact

Feed = Mapping[str, npt.NDArray[np.int64]]  # by input, each (N, L)

CUDA: Final = "CUDAExecutionProvider"
# How CPUs name that they compute in bf16, x86's and Arm's. OpenVINO emulates it on AVX-512 alone, slower than fp32.
BF16_FEATURES: Final = frozenset({"amx_bf16", "avx512_bf16", "bf16"})
_OPENVINO_PRECISIONS: Final = {"fp32": "f32", "bf16": "bf16"}


class Node(NamedTuple):
    """An input or output of a graph; an axis that varies is None, and of an unknown rank there are none."""

    name: str
    type: str  # in ONNX's words: tensor(int64)
    shape: tuple[int | None, ...]


class Runtime(Protocol):
    """One loaded graph; safe to run from several threads at once."""

    @property
    def inputs(self) -> Sequence[Node]: ...
    @property
    def output(self) -> Node: ...
    @property
    def providers(self) -> tuple[str, ...]: ...  # who computes, as receipts name it
    def run(self, feed: Feed) -> Floats: ...  # (N, C) or (N, L, C); BadArtifact where the graph cannot


def open_runtime(bundle: Bundle, *, threads: int) -> Runtime:
    """Load the bundle's graph with the library that it names.

    Raises:
        BadArtifact: the library or a provider is not there, it would compute in another precision, or cannot load it.
    """
    if bundle.spec.runtime == "openvino":
        return OpenVino(bundle, threads=threads)
    if bundle.spec.providers[0] != CUDA:
        return OnnxRuntime(bundle, threads=threads)
    from serving.cuda import Cuda

    return Cuda(bundle, threads=threads)


class OnnxRuntime:
    """onnxruntime with the providers that serving.yaml names, and no other in their place."""

    def __init__(self, bundle: Bundle, *, threads: int) -> None:
        self._name = bundle.spec.name
        self._errors = ort_errors()
        self._session = self._open(bundle, threads=threads)
        self.providers = bundle.spec.providers
        self.inputs = [ort_node(node) for node in self._session.get_inputs()]
        self.output = ort_node(self._session.get_outputs()[0])

    def run(self, feed: Feed) -> Floats:
        try:
            (outputs,) = self._session.run([self.output.name], feed)
        except self._errors as error:
            raise BadArtifact(f"model {self._name} cannot compute this input: {error}") from error
        found: Floats = outputs
        return found

    def _open(self, bundle: Bundle, *, threads: int) -> Any:
        import onnxruntime

        wanted, path = list(bundle.spec.providers), bundle.path / "model.onnx"
        if missing := [name for name in wanted if name not in onnxruntime.get_available_providers()]:
            raise BadArtifact(f"{bundle.path} needs {', '.join(missing)}, which this onnxruntime does not have")
        options = ort_options(threads=threads, on_cpu=ONNX_CPU[0] in wanted)
        try:
            session = onnxruntime.InferenceSession(path, sess_options=options, providers=wanted, enable_fallback=False)
        except self._errors as error:
            raise BadArtifact(f"{path} does not load: {error}") from error
        if fallen := [name for name in wanted if name not in session.get_providers()]:
            raise BadArtifact(
                f"{bundle.path}: {', '.join(fallen)} did not start; its answers would come from elsewhere"
            )
        return session


class OpenVino:
    """OpenVINO on the CPU. A request holds the tensors of one call, so each caller borrows one of its own; on the one
    stream, all of whose threads work at one call, calls made together follow each other."""

    def __init__(self, bundle: Bundle, *, threads: int) -> None:
        self._name = bundle.spec.name
        self._compiled = _compiled(bundle, threads=threads)
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.providers = (f"openvino-cpu-{bundle.spec.inference_precision}",)
        self.inputs = [_openvino_node(port, name=port.node.friendly_name) for port in self._compiled.inputs]
        self.output = _openvino_node(self._compiled.outputs[0], name=self._compiled.outputs[0].any_name)

    def run(self, feed: Feed) -> Floats:
        request = self._borrow()
        try:
            found: Floats = request.infer({i: feed[node.name] for i, node in enumerate(self.inputs)})[0]
        except RuntimeError as error:
            raise BadArtifact(f"model {self._name} cannot compute this input: {_reason(error)}") from error
        self._idle.put(request)  # one that failed is not lent again
        return found

    def _borrow(self) -> Any:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return self._compiled.create_infer_request()


def import_openvino() -> Any:
    """The library without `openvino_telemetry`: with it, the import alone writes into the home folder and forks a
    process that reports to a third party, which no server may do, and no process that has threads can fork safely.

    Call it before anything that imports openvino by itself, such as NNCF.

    Raises:
        ImportError: it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def ort_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime can be expected to fail with; it has no class of its own above them."""
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    return (
        *(errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf),
        *(errors.NotImplemented, errors.RuntimeException, errors.NoSuchFile),
    )


def ort_options(*, threads: int, on_cpu: bool) -> Any:
    """How sessions here compute, `onnxruntime.SessionOptions`: threads that sleep when idle, and no other provider than
    those asked for."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "0" if on_cpu else "1")
    return options


def ort_node(node: Any) -> Node:
    """As onnxruntime tells of an input or output."""
    return Node(node.name, node.type, tuple(axis if isinstance(axis, int) else None for axis in node.shape))


def _compiled(bundle: Bundle, *, threads: int) -> Any:
    _require_bf16(bundle)
    try:
        openvino = import_openvino()
    except ImportError as error:
        raise BadArtifact(
            f"{bundle.path} needs openvino, which is not installed here; run pip install 'retort[openvino]', or serve "
            "a variant that onnxruntime computes"
        ) from error
    path, wanted = bundle.path / "model.onnx", _OPENVINO_PRECISIONS[bundle.spec.inference_precision]
    core = openvino.Core()
    try:
        compiled = core.compile_model(core.read_model(path), "CPU", _settings(threads=threads, precision=wanted))
    except RuntimeError as error:
        raise BadArtifact(f"{path} does not load: {_reason(error)}") from error
    found = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if found != wanted:
        raise BadArtifact(
            f"{bundle.path} asks OpenVINO for {wanted} and would be computed in {found} on this machine, which is not "
            "the model that was measured; serve it on another CPU or export a variant in fp32"
        )
    return compiled


def _settings(*, threads: int, precision: str) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # Pinned, every process that a quota and no cpuset confines would sit on the same first cores.
        "ENABLE_CPU_PINNING": False,
    }


def _require_bf16(bundle: Bundle) -> None:
    if bundle.spec.inference_precision == "bf16" and not cpu_features() & BF16_FEATURES:
        raise BadArtifact(
            f"{bundle.path} computes in bf16, and this CPU has none of {', '.join(sorted(BF16_FEATURES))}; "
            "serve it on a CPU that has one or export a variant in fp32"
        )


def _openvino_node(port: Any, *, name: str) -> Node:
    shape = port.partial_shape
    axes = () if shape.rank.is_dynamic else tuple(None if axis.is_dynamic else axis.get_length() for axis in shape)
    return Node(name, f"tensor({np.dtype(port.element_type.to_dtype())})", axes)


def _reason(error: RuntimeError) -> str:
    """What the library says, without the places in its own sources."""
    lines = (line.strip() for line in str(error).splitlines())
    return " ".join(line for line in lines if line and not line.startswith("Exception from "))
