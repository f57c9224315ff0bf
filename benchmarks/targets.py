"""EXTENSION POINT: what can be measured. A target is a class with `kind` and `open`, its name in the unions at the
foot.

A target says how a variant's folder is run: `missing` what this machine lacks for it, `open` loads it and returns a
`Runner`. Libraries are imported inside these, so that naming a target costs nothing and a child process holds only the
library that it measures.

Shapes: N items, L tokens, C outputs (one per label; 1 for regression; the vector's width for an embedding).
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Protocol

import msgspec
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from serving.bundle import Item, TaskKind, read_bundle
from serving.cpu import cpu_features, usable_threads

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from benchmarks.invariance import Invariance
    from serving.engine import Engine, Tokens

    Floats = npt.NDArray[np.float32]

_CUDA = ("CUDAExecutionProvider", "CPUExecutionProvider")  # what CUDA does not compute, the shapes, the CPU does
SERVED: Final = "ort-cpu"  # the kind of target whose bundles the server runs as they are


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was opened: the digest of what ships (bundle, or weights file), the weights' file size, who computes."""

    digest: str
    size_mb: float
    parameters: int
    providers: tuple[str, ...]


class Encoded(Protocol):
    """One tokenized item: special tokens are part of `ids`."""

    @property
    def ids(self) -> list[int]: ...


class Runner(Protocol):
    """An opened variant: tokenization and inference apart, every item computed alone (batch 1) but in `infer_batch`."""

    @property
    def facts(self) -> Facts: ...
    @property
    def task(self) -> TaskKind: ...
    def encode(self, item: Item) -> Any: ...  # an `Encoded`, which this runner's `infer` understands
    def infer(self, tokens: Any) -> "Floats": ...  # (1, C), or (1, L, C) for token-classification
    def infer_batch(self, tokens: Sequence[Any]) -> "Floats": ...  # (N, C) or (N, L, C), padded to the longest
    def logits(self, items: Sequence[Item]) -> "list[Floats]": ...  # one array per item: (C,), or (L, C)
    def invariance(self, items: Sequence[Item]) -> "tuple[Invariance, ...]": ...  # () where it is no question


class TargetBase(BaseModel):
    """What all targets share. `threads` None: as many as affinity and cgroup quota allow, like the server."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    threads: int | None = Field(default=None, ge=1)

    def resolved_threads(self) -> int:
        return self.threads or usable_threads()

    def missing(self) -> str:
        """What this machine lacks to run anything on this target, and the way out; "" where it can. A bundle may ask
        for more: then opening it says so."""
        return ""


class OrtCpu(TargetBase):
    """A bundle folder on the CPU, by the very engine that serves: with ONNX Runtime, or what else the bundle names."""

    kind: Literal["ort-cpu"] = "ort-cpu"

    def open(self, path: Path) -> Runner:
        from serving.engine import Engine

        return _BundleRunner(Engine(read_bundle(path), threads=self.resolved_threads()))


class OrtCuda(TargetBase):
    """The same `model.onnx` on an NVIDIA GPU, by the very engine that serves: buffers bound on the GPU, and a CUDA
    graph recorded for each bucket of the bundle, to which items are padded. Made for bundles in fp16 (`quantize: {kind:
    fp16}`); fp32 runs too, int8 is refused. Falling back to the CPU is an error."""

    kind: Literal["ort-cuda"] = "ort-cuda"

    def missing(self) -> str:
        from serving.cuda import missing

        return missing()

    def open(self, path: Path) -> Runner:
        from serving.engine import Engine

        bundle = read_bundle(path)
        spec = msgspec.structs.replace(bundle.spec, runtime="onnxruntime", inference_precision="fp32", providers=_CUDA)
        return _BundleRunner(Engine(replace(bundle, spec=spec), threads=self.resolved_threads()))


class OpenVino(TargetBase):
    """The same `model.onnx` computed by OpenVINO, whatever runtime the bundle names (extra `openvino`). `precision` is
    that of products; None: the bundle's own. Operators of onnxruntime alone it refuses."""

    kind: Literal["openvino"] = "openvino"
    precision: Literal["fp32", "bf16"] | None = None

    def missing(self) -> str:
        from serving.runtimes import BF16_FEATURES

        if importlib.util.find_spec("openvino") is None:
            return "openvino, which is not installed: pip install 'retort[openvino]'"
        if self.precision == "bf16" and not cpu_features() & BF16_FEATURES:
            return f"a CPU that computes in bf16 ({', '.join(sorted(BF16_FEATURES))}): measure it on one, or in fp32"
        return ""

    def open(self, path: Path) -> Runner:
        from serving.engine import Engine

        bundle = read_bundle(path)
        precision = self.precision or bundle.spec.inference_precision
        spec = msgspec.structs.replace(bundle.spec, runtime="openvino", inference_precision=precision)
        return _BundleRunner(Engine(replace(bundle, spec=spec), threads=self.resolved_threads()))


class Torch(TargetBase):
    """The baseline: PyTorch with fused attention, on a Hugging Face folder with the head of `task`; for an embedding
    the folder says how vectors are pooled, as sentence-transformers' folders do.

    `max_length` must be the bundle's `spec.max_length`, so that both cut long items alike. bf16 is that of weights and
    activations; outputs are float32. `compiled` goes through `torch.compile`, which needs a C++ compiler, and time at
    the first items.
    """

    kind: Literal["torch"] = "torch"
    max_length: int = Field(default=512, ge=1)
    task: TaskKind = "classification"
    precision: Literal["fp32", "bf16"] = "fp32"
    compiled: bool = False

    def missing(self) -> str:
        return "" if importlib.util.find_spec("torch") else "torch, which is not installed: see requirements/torch.txt"

    def open(self, path: Path) -> Runner:
        from benchmarks.torch_runner import open_torch

        return open_torch(path, self)


class _BundleRunner:
    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        bundle = engine.bundle
        self.task = bundle.spec.task
        self.facts = Facts(
            digest=bundle.digest,
            size_mb=megabytes(bundle.path / "model.onnx"),
            parameters=bundle.spec.parameters,
            providers=engine.providers,
        )

    def encode(self, item: Item) -> "Tokens":
        return self._engine.encode([item])[0]

    def infer(self, tokens: "Tokens") -> "Floats":
        return self._engine.outputs([tokens])[0][None]

    def infer_batch(self, tokens: "Sequence[Tokens]") -> "Floats":
        return self._engine.run(tokens)

    def logits(self, items: Sequence[Item]) -> "list[Floats]":
        return self._engine.logits(items)

    def invariance(self, items: Sequence[Item]) -> "tuple[Invariance, ...]":
        from benchmarks.invariance import measure

        engine = self._engine
        return measure(lambda batch, n: engine.run(batch, length=n), engine.fed(items), spec=engine.bundle.spec)


def megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6


BundleTarget = Annotated[OrtCpu | OrtCuda | OpenVino, Field(discriminator="kind")]  # of bundles; torch runs folders
Target = Annotated[OrtCpu | OrtCuda | OpenVino | Torch, Field(discriminator="kind")]
TARGET: TypeAdapter[OrtCpu | OrtCuda | OpenVino | Torch] = TypeAdapter(Target)
