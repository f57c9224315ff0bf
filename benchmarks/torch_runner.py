"""PyTorch as a target: a saved model folder, opened and asked item by item.

Shapes: N items, L tokens, C outputs (one per label; 1 for regression), D dimensions of hidden states and vectors.
"""

import hashlib
import inspect
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
import transformers
from tokenizers import Tokenizer

from benchmarks.invariance import Invariance
from benchmarks.targets import Facts, megabytes
from serving.bundle import Item, TaskKind
from serving.errors import BadArtifact, BadRequest

if TYPE_CHECKING:
    from benchmarks.targets import Torch

Floats = npt.NDArray[np.float32]
Read = Callable[[Any, torch.Tensor], torch.Tensor]  # the model's output and the mask (N, L)

# What sentence-transformers leaves in a folder.
POOLING, NORMALIZE, MODULES = "1_Pooling/config.json", "2_Normalize", "modules.json"
MODES: Final = ("pooling_mode_cls_token", "pooling_mode_mean_tokens")
_LOADERS: Final = {
    "embedding": transformers.AutoModel,
    "token-classification": transformers.AutoModelForTokenClassification,
}
_BATCH = 32


class TorchRunner:
    """`read` takes what is wanted from the model's output: a tensor (N, C), or (N, L, C) for token-classification."""

    def __init__(self, model: Any, tokenizer: Tokenizer, *, path: Path, target: "Torch", read: Read) -> None:
        self.task: TaskKind = target.task
        # Lengths stay symbols: compiled for each of them, PyTorch gives up after eight and runs the rest as written.
        self._model = torch.compile(model, dynamic=True) if target.compiled else model
        self._pad_id = getattr(model.config, "pad_token_id", None) or 0
        self._tokenizer = tokenizer
        self._read = read
        # As the exporter asks: segments matter only where the model reads them and knows more than one.
        self._segments = (
            "token_type_ids" in inspect.signature(model.forward).parameters
            and getattr(model.config, "type_vocab_size", 0) > 1
        )
        self.facts = Facts(
            digest=_sha256(path / "model.safetensors"),
            size_mb=megabytes(path / "model.safetensors"),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            providers=(_computing(target, device=model.device.type),),
        )

    def encode(self, item: Item) -> Any:
        return self._tokenizer.encode_batch_fast([item if len(item) > 1 else item[0]])[0]

    def infer(self, tokens: Any) -> Floats:
        return self._forward([tokens])

    def infer_batch(self, tokens: Sequence[Any]) -> Floats:
        return self._forward(tokens)

    def logits(self, items: Sequence[Item]) -> list[Floats]:
        """Items of one length share a forward: no padding, and answers do not depend on their batch mates."""
        encoded = [self.encode(item) for item in items]
        by_length = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
        found = {
            i: output
            for _, same in groupby(by_length, key=lambda i: len(encoded[i].ids))
            for group in batched(same, size=_BATCH)
            for i, output in zip(group, self._forward([encoded[i] for i in group]), strict=True)
        }
        return [found[i] for i in range(len(encoded))]

    def invariance(self, items: Sequence[Item]) -> tuple[Invariance, ...]:  # noqa: ARG002
        """Nothing: in floating point there is nothing that a batch shares."""
        return ()

    def _forward(self, encoded: Sequence[Any]) -> Floats:
        inputs = self._inputs(encoded)
        with torch.inference_mode():
            found: Floats = self._read(self._model(**inputs), inputs["attention_mask"]).numpy()
        return found

    def _inputs(self, encoded: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Each (N, L), padded to the longest."""
        columns = {
            "input_ids": ([one.ids for one in encoded], self._pad_id),
            "attention_mask": ([one.attention_mask for one in encoded], 0),
            "token_type_ids": ([one.type_ids for one in encoded], 0),
        }
        if not self._segments:
            del columns["token_type_ids"]
        return {name: _padded(rows, fill=fill) for name, (rows, fill) in columns.items()}


def open_torch(path: Path, target: "Torch") -> TorchRunner:
    """Load a folder saved by finetune, with the head that the task needs.

    Raises:
        BadArtifact: a file is missing or cannot be read, or vectors are pooled in a way this does not know.
        BadRequest: to be compiled where there is no C++ compiler.
    """
    _require_files(path, "config.json", "model.safetensors", "tokenizer.json")
    _require_compiler(target)
    _read_json(path / "config.json")
    read = _embedding_of(path) if target.task == "embedding" else _logits
    torch.set_num_threads(target.resolved_threads())
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.enable_truncation(max_length=target.max_length, strategy="longest_first")
    tokenizer.no_padding()
    return TorchRunner(_load_model(path, target), tokenizer, path=path, target=target, read=read)


def _load_model(path: Path, target: "Torch") -> Any:
    model = _LOADERS.get(target.task, transformers.AutoModelForSequenceClassification).from_pretrained(
        path,
        dtype=torch.bfloat16 if target.precision == "bf16" else torch.float32,
        attn_implementation="sdpa",
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    if target.task == "embedding" and getattr(model, "pooler", None) is not None:
        model.pooler = None  # a classifier's, of the first token: no vector goes through it, so it is not measured
    return model.eval()


def batched(items: Iterable[int], *, size: int) -> Iterator[list[int]]:
    """Lists of at most `size` items."""
    remaining = iter(items)
    while group := list(islice(remaining, size)):
        yield group


def _padded(rows: Sequence[Sequence[int]], *, fill: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])


def _computing(target: "Torch", *, device: str) -> str:
    """As receipts name it: what is not told is fp32 and eager."""
    precision = "" if target.precision == "fp32" else f"-{target.precision}"
    return f"torch-{device}{precision}{'-compiled' if target.compiled else ''}"


def _require_compiler(target: "Torch") -> None:
    if target.compiled and not (shutil.which("g++") or shutil.which("clang++")):
        raise BadRequest(
            "target 'torch' with compiled: true needs a C++ compiler, and there is neither g++ nor clang++ here: "
            "install one or leave `compiled` out"
        )


def _logits(output: Any, _mask_NL: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = output.logits.float()
    return logits


def _embedding_of(path: Path) -> Read:
    """From a model's output to the vectors (N, D) that the folder asks for, in float32."""
    mode, unit = _pooling_mode(path), _normalizes(path)

    def read(output: Any, mask_NL: torch.Tensor) -> torch.Tensor:
        hidden_NLD = output.last_hidden_state.float()
        mask_NL1 = mask_NL[:, :, None]
        mean_ND = (hidden_NLD * mask_NL1).sum(dim=1) / mask_NL1.sum(dim=1)
        vectors_ND = hidden_NLD[:, 0] if mode == "pooling_mode_cls_token" else mean_ND
        return torch.nn.functional.normalize(vectors_ND, dim=1) if unit else vectors_ND

    return read


def _pooling_mode(path: Path) -> str:
    """The one mode that is switched on."""
    _require_files(path, POOLING)
    modes = [name for name, on in _read_json(path / POOLING).items() if name.startswith("pooling_mode_") and on is True]
    if len(modes) != 1 or modes[0] not in MODES:
        asked = " and ".join(modes) or "no pooling"
        raise BadArtifact(f"{path / POOLING} asks for {asked}: target 'torch' knows {' or '.join(MODES)}")
    return str(modes[0])


def _normalizes(path: Path) -> bool:
    """Whether vectors are divided by their length. The folder is empty, so what carries files only (a store, the hub)
    loses it; then the list of modules still names it."""
    if (path / NORMALIZE).is_dir() or not (path / MODULES).is_file():
        return (path / NORMALIZE).is_dir()
    return any(module.get("path") == NORMALIZE for module in _read_json(path / MODULES))


def _require_files(path: Path, *names: str) -> None:
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise BadArtifact(f"{path} has no {', '.join(missing)}: target 'torch' measures a folder saved by finetune")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadArtifact(f"{path} is not JSON: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
