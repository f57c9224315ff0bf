"""PyTorch as a target: a saved model folder, opened and asked item by item.

Shapes: N items, L tokens, C outputs (one per label; 1 for regression), D dimensions of hidden states and vectors.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import transformers
from tokenizers import Tokenizer

from benchmarks.invariance import Invariance
from benchmarks.targets import Facts, megabytes
from serving.bundle import Item, TaskKind
from serving.errors import BadArtifact

Floats = npt.NDArray[np.float32]
Read = Callable[[Any], torch.Tensor]

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

    def __init__(self, model: Any, tokenizer: Tokenizer, *, path: Path, task: TaskKind, read: Read) -> None:
        self.task = task
        self._model = model
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
            providers=(f"torch-{model.device.type}",),
        )

    def encode(self, item: Item) -> Any:
        return self._tokenizer.encode_batch_fast([item if len(item) > 1 else item[0]])[0]

    def infer(self, tokens: Any) -> Floats:
        return self._forward([tokens])

    def logits(self, items: Sequence[Item]) -> list[Floats]:
        """Items of one length share a forward: no padding, and fp32 answers do not depend on their batch mates."""
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
        """Nothing: in fp32 there is nothing that a batch shares."""
        return ()

    def _forward(self, encoded: Sequence[Any]) -> Floats:
        inputs = {
            "input_ids": torch.tensor([one.ids for one in encoded]),
            "attention_mask": torch.tensor([one.attention_mask for one in encoded]),
        }
        if self._segments:
            inputs["token_type_ids"] = torch.tensor([one.type_ids for one in encoded])
        with torch.inference_mode():
            found: Floats = self._read(self._model(**inputs)).numpy()
        return found


def open_torch(path: Path, *, task: TaskKind, max_length: int, threads: int) -> TorchRunner:
    """Load a folder saved by finetune, with the head that the task needs.

    Raises:
        BadArtifact: a file is missing or cannot be read, or vectors are pooled in a way this does not know.
    """
    _require_files(path, "config.json", "model.safetensors", "tokenizer.json")
    _read_json(path / "config.json")
    read = _embedding_of(path) if task == "embedding" else attrgetter("logits")
    torch.set_num_threads(threads)
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.enable_truncation(max_length=max_length, strategy="longest_first")
    tokenizer.no_padding()
    model = _LOADERS.get(task, transformers.AutoModelForSequenceClassification).from_pretrained(
        path,
        dtype=torch.float32,
        attn_implementation="sdpa",
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    if task == "embedding" and getattr(model, "pooler", None) is not None:
        model.pooler = None  # a classifier's, of the first token: no vector goes through it, so it is not measured
    return TorchRunner(model.eval(), tokenizer, path=path, task=task, read=read)


def batched(items: Iterable[int], *, size: int) -> Iterator[list[int]]:
    """Lists of at most `size` items."""
    remaining = iter(items)
    while group := list(islice(remaining, size)):
        yield group


def _embedding_of(path: Path) -> Read:
    """From a model's output to the vectors (N, D) that the folder asks for. The items of one forward are of one length,
    so no token is padding."""
    mode, unit = _pooling_mode(path), _normalizes(path)

    def read(output: Any) -> torch.Tensor:
        hidden_NLD: torch.Tensor = output.last_hidden_state
        vectors_ND = hidden_NLD[:, 0] if mode == "pooling_mode_cls_token" else hidden_NLD.mean(dim=1)
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
