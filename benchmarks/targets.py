"""EXTENSION POINT: what can be measured. A target is a class with `kind` and `open`, its name in `Target` at the foot.

A target says how a variant's folder is run; `open` loads it and returns a `Runner`. Libraries are imported inside
`open`, so that naming a target costs nothing and a child process holds only the library that it measures.

Shapes: N items, C outputs (one per label; 1 for regression).
"""

import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import msgspec
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from serving.bundle import Item, read_bundle
from serving.cpu import usable_threads
from serving.errors import BadArtifact

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from serving.engine import Engine, Tokens

    Floats = npt.NDArray[np.float32]


_BATCH = 32


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
    """An opened variant: tokenization and inference apart, every item computed alone (batch 1)."""

    @property
    def facts(self) -> Facts: ...
    def encode(self, item: Item) -> Any: ...  # an `Encoded`, which this runner's `infer` understands
    def infer(self, tokens: Any) -> "Floats": ...  # (1, C)
    def logits(self, items: Sequence[Item]) -> "Floats": ...  # (N, C)


class TargetBase(BaseModel):
    """What all targets share. `threads` None: as many as affinity and cgroup quota allow, like the server."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    threads: int | None = Field(default=None, ge=1)

    def resolved_threads(self) -> int:
        return self.threads or usable_threads()


class OrtCpu(TargetBase):
    """ONNX Runtime on the CPU, by the very engine that serves, on a bundle folder."""

    kind: Literal["ort-cpu"] = "ort-cpu"

    def open(self, path: Path) -> Runner:
        from serving.engine import Engine

        return _OrtRunner(Engine(read_bundle(path), threads=self.resolved_threads()))


class Torch(TargetBase):
    """The baseline: PyTorch in float32 with fused attention, on a Hugging Face folder with a classification head.

    `max_length` must be the bundle's `spec.max_length`, so that both cut long items alike.
    """

    kind: Literal["torch"] = "torch"
    max_length: int = Field(default=512, ge=1)

    def open(self, path: Path) -> Runner:
        import torch
        from tokenizers import Tokenizer
        from transformers import AutoModelForSequenceClassification

        _require_files(path, "config.json", "model.safetensors", "tokenizer.json")
        torch.set_num_threads(self.resolved_threads())
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        tokenizer.enable_truncation(max_length=self.max_length, strategy="longest_first")
        tokenizer.no_padding()
        model = AutoModelForSequenceClassification.from_pretrained(
            path,
            dtype=torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
        return _TorchRunner(model.eval(), tokenizer, path=path)


class _OrtRunner:
    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        bundle = engine.bundle
        self.facts = Facts(
            digest=bundle.digest,
            size_mb=_megabytes(bundle.path / "model.onnx"),
            parameters=bundle.spec.parameters,
            providers=bundle.spec.providers,
        )

    def encode(self, item: Item) -> "Tokens":
        return self._engine.encode([item])[0]

    def infer(self, tokens: "Tokens") -> "Floats":
        return self._engine.run([tokens])

    def logits(self, items: Sequence[Item]) -> "Floats":
        return self._engine.logits(items)


class _TorchRunner:
    def __init__(self, model: Any, tokenizer: Any, *, path: Path) -> None:
        self._model = model
        self._tokenizer = tokenizer
        # As the exporter asks: segments matter only where the model reads them and knows more than one.
        self._segments = (
            "token_type_ids" in inspect.signature(model.forward).parameters
            and getattr(model.config, "type_vocab_size", 0) > 1
        )
        self.facts = Facts(
            digest=_sha256(path / "model.safetensors"),
            size_mb=_megabytes(path / "model.safetensors"),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            providers=(f"torch-{model.device.type}",),
        )

    def encode(self, item: Item) -> Any:
        return self._tokenizer.encode_batch_fast([item if len(item) > 1 else item[0]])[0]

    def infer(self, tokens: Any) -> "Floats":
        return self._forward([tokens])

    def _forward(self, encoded: Sequence[Any]) -> "Floats":
        import torch

        inputs = {
            "input_ids": torch.tensor([one.ids for one in encoded]),
            "attention_mask": torch.tensor([one.attention_mask for one in encoded]),
        }
        if self._segments:
            inputs["token_type_ids"] = torch.tensor([one.type_ids for one in encoded])
        with torch.inference_mode():
            found: Floats = self._model(**inputs).logits.numpy()
        return found

    def logits(self, items: Sequence[Item]) -> "Floats":
        """Items of one length share a forward: no padding, and fp32 answers do not depend on their batch mates."""
        import numpy as np

        encoded = [self.encode(item) for item in items]
        by_length = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
        parts = [
            self._forward([encoded[i] for i in group])
            for _, same in groupby(by_length, key=lambda i: len(encoded[i].ids))
            for group in batched(same, size=_BATCH)
        ]
        return np.concatenate(parts)[np.argsort(by_length)]


def batched(items: Iterable[int], *, size: int) -> Iterator[list[int]]:
    """Lists of at most `size` items."""
    remaining = iter(items)
    while group := list(islice(remaining, size)):
        yield group


def _require_files(path: Path, *names: str) -> None:
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise BadArtifact(f"{path} has no {', '.join(missing)}: target 'torch' measures a folder saved by finetune")
    try:
        json.loads((path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadArtifact(f"{path / 'config.json'} is not JSON: {error}") from error


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


Target = Annotated[OrtCpu | Torch, Field(discriminator="kind")]
TARGET: TypeAdapter[OrtCpu | Torch] = TypeAdapter(Target)
