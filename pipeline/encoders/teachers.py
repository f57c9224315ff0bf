"""Where a teacher comes from: a folder, a hub id, or a Python package that carries weights; safetensors only, no
remote code."""

import hashlib
import importlib.util
import json
import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import model_validator

from pipeline.data.digests import file_digests
from pipeline.data.hub import resolve_commit
from pipeline.encoders.families import Shape, family_of, first_position, shape_of
from pipeline.errors import BadArtifact, BadRequest, Transient
from pipeline.quiet import quiet_transformers
from pipeline.records import Record

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_POOLING_FILE = "1_Pooling/config.json"


class TeacherConfig(Record):
    """`package:NAME`, a local folder in the hub's format, or a hub id with its `revision` (a commit, so that it stays
    the same)."""

    source: str
    revision: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    def identity(self, cache: Path) -> str:
        """What the teacher is, in one digest: a hub id's commit, or the content of its config, weights and
        tokenizer."""
        if not self.is_local():
            return f"hub:{self.source}@{resolve_commit(self.source, self.revision, 'model')}"
        folder = self.folder(cache)
        files = _files_that_matter(folder)
        lines = [f"{file.name} {digest}" for file, digest in zip(files, file_digests(files, cache=cache), strict=True)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def folder(self, cache: Path) -> Path:
        """The teacher as a local folder (downloaded when it is a hub id), checked to be one Retort can read."""
        return checked_folder(self._locate(cache), asked=self.source)

    def _locate(self, cache: Path) -> Path:
        if self.source.startswith("package:"):
            return _package_folder(self.source.removeprefix("package:"))
        return Path(self.source) if self.is_local() else self._download(cache)

    def is_local(self) -> bool:
        """Whether this is a package or a folder; what is neither, and has the form of a hub id, is one."""
        return self.source.startswith("package:") or Path(self.source).exists() or not _HUB_ID.fullmatch(self.source)

    def _download(self, cache: Path) -> Path:
        import httpx2
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

        commit = resolve_commit(self.source, self.revision, "model")
        wanted = ["config.json", "*.safetensors", "*.safetensors.index.json", "vocab.txt"]
        try:
            folder = snapshot_download(
                self.source,
                revision=commit,
                allow_patterns=[*wanted, *_TOKENIZER_FILES, _POOLING_FILE],
                cache_dir=cache / "hub",
            )
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise BadRequest(f"teacher {self.source!r}: the hub has no such model at revision {commit}") from error
        except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
            raise Transient(
                f"teacher {self.source!r} is no local folder and cannot be downloaded ({type(error).__name__}); "
                "check the spelling and the network, or give a folder or package:NAME"
            ) from error
        return Path(folder)


def checked_folder(folder: Path, *, asked: str) -> Path:
    """`folder` if it holds an encoder that can be read safely; otherwise one message that says what is missing."""
    if not (folder / "config.json").is_file():
        raise BadRequest(
            f"teacher {asked!r}: there is no config.json in {folder}; give a folder in the hub's format "
            "(config.json, model.safetensors, tokenizer.json), a hub id, or package:NAME"
        )
    config = read_config(folder)
    family_of(str(config.get("model_type")))
    if not any(folder.glob("*.safetensors")):
        raise BadRequest(
            f"teacher {asked!r}: no *.safetensors in {folder}; pickled weights are not read because they can run code: "
            "convert them with safetensors first"
        )
    if not (folder / "tokenizer.json").is_file():
        raise BadRequest(
            f"teacher {asked!r}: no tokenizer.json in {folder}; save the fast tokenizer there with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as a dictionary; BadArtifact when it is not JSON."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise BadArtifact(f"{folder / 'config.json'} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise BadArtifact(f"{folder / 'config.json'} is not a JSON object")
    return config


def shape_in(folder: Path) -> Shape:
    """The shape of the encoder in a model folder, read from config.json alone."""
    path = folder / "config.json"
    try:
        shape = shape_of(SimpleNamespace(**read_config(folder)))
    except AttributeError as error:
        raise BadArtifact(f"{path} does not describe an encoder: it lacks {error.name!r}") from error
    for name, value in asdict(shape).items():
        if not isinstance(value, int) or value < 1:
            raise BadArtifact(f"{path} does not describe an encoder: its {name} is {value!r}, not a count")
    return shape


def positions_in(folder: Path) -> int:
    """The longest input of the encoder in a model folder; RoBERTa's families count from after the padding id."""
    config = SimpleNamespace(**read_config(folder))
    return int(getattr(config, "max_position_embeddings", 512)) - first_position(config)


def stored_weights(folder: Path) -> frozenset[str]:
    """The names of the weights in a model folder, from the headers of its files alone; BadArtifact where they cannot be
    read."""
    from safetensors import SafetensorError, safe_open

    names: set[str] = set()
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy") as weights:
                names.update(weights.keys())
        except (SafetensorError, OSError) as error:
            raise _unreadable(folder, error) from error
    return frozenset(names)


def load_encoder(folder: Path) -> Any:
    """The base encoder in fp32, in eval mode; see `load_weights`. A pooler may be missing, as in many masked language
    models: no objective reads it."""
    from transformers import AutoModel

    return load_weights(folder, AutoModel, may_miss="pooler.")


def load_weights(folder: Path, kind: Any, *, may_miss: str = "\0") -> Any:
    """A model of this kind (one of transformers' auto classes) in fp32 (transformers 5 would keep the stored dtype), in
    eval mode.

    Raises BadArtifact where the weights cannot be read, or where transformers would draw a part at random because it is
    missing or of another size, but for names that start with `may_miss`.
    """
    import torch
    from safetensors import SafetensorError

    quiet_transformers()
    torch.manual_seed(0)  # what is missing is drawn the same in every process
    try:
        model, found = kind.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **_said_by_weights(folder),
        )
    except (SafetensorError, OSError) as error:
        raise _unreadable(folder, error) from error
    unfit = found["missing_keys"] | {name for name, *_ in found["mismatched_keys"]}
    if unfit := sorted(name for name in unfit if not name.startswith(may_miss)):
        raise BadArtifact(
            f"{folder}: the weights do not fit config.json: {unfit[0]} is missing or differs in size "
            f"({len(unfit)} in all)"
        )
    return model.eval()


def _said_by_weights(folder: Path) -> dict[str, Any]:
    """Settings that the published configs lack: DeBERTa-v3's do not say that their head is of the newer form, and
    transformers would draw one of the older form at random."""
    newer = any(name.startswith("lm_predictions.") for name in stored_weights(folder))
    return {"legacy": False} if newer and read_config(folder).get("model_type") == "deberta-v2" else {}


def _unreadable(folder: Path, error: Exception) -> BadArtifact:
    return BadArtifact(f"{folder}: the weights cannot be read: {str(error).strip().splitlines()[0]}")


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a model folder; BadArtifact when it cannot be read or names no padding token."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # tokenizers raises nothing narrower
        raise BadArtifact(f"{folder}: the tokenizer cannot be read ({type(error).__name__}: {error})") from error
    if tokenizer.pad_token_id is None:
        raise BadArtifact(f"{folder}: the tokenizer names no padding token; set pad_token in tokenizer_config.json")
    return tokenizer


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise BadRequest(
            f"teacher 'package:{name}': no such Python package is installed; "
            f"pip install {name.replace('_', '-')}, or give a folder or a hub id"
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    found = sorted(config.parent for config in root.rglob("config.json") if any(config.parent.glob("*.safetensors")))
    if not found:
        raise BadRequest(f"teacher 'package:{name}': the package carries no folder with config.json and *.safetensors")
    return found[0]


def _files_that_matter(folder: Path) -> list[Path]:
    names = {"config.json", "task.json", *_TOKENIZER_FILES}
    found = sorted(file for file in folder.iterdir() if file.name in names or file.suffix == ".safetensors")
    return [*found, *([folder / _POOLING_FILE] if (folder / _POOLING_FILE).is_file() else [])]
