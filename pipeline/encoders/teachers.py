"""Where a teacher comes from: a folder, a hub id, or a Python package that carries weights; safetensors only, no remote code."""

import hashlib
import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import model_validator

from pipeline.data.digests import file_digests
from pipeline.encoders.families import Shape, family_of, shape_of
from pipeline.errors import BadArtifact, BadRequest, Transient
from pipeline.records import Record

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


class TeacherConfig(Record):
    """`package:NAME`, a local folder in the hub's format, or a hub id with its `revision` (a commit, so that it stays the same)."""

    source: str
    revision: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    def identity(self, cache: Path) -> str:
        """What the teacher is, in one digest: a hub id's commit, or the content of its config, weights and tokenizer."""
        if not self.is_local():
            return f"hub:{self.source}@{self._commit()}"
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

    def _commit(self) -> str:
        if self.revision and _COMMIT.fullmatch(self.revision):
            return self.revision
        from huggingface_hub import HfApi

        try:
            return str(HfApi().model_info(self.source, revision=self.revision).sha)
        except (OSError, ValueError) as error:  # httpx and hub errors derive from these
            raise Transient(self._unreachable(error)) from error

    def _download(self, cache: Path) -> Path:
        from huggingface_hub import snapshot_download

        wanted = ["config.json", "*.safetensors", "*.safetensors.index.json", *_TOKENIZER_FILES, "vocab.txt"]
        try:
            return Path(
                snapshot_download(
                    self.source, revision=self._commit(), allow_patterns=wanted, cache_dir=cache / "hub"
                )
            )
        except (OSError, ValueError) as error:
            raise Transient(self._unreachable(error)) from error

    def _unreachable(self, error: Exception) -> str:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return (
            f"teacher {self.source!r} is neither a local folder nor to be had from the hub ({reason}); "
            "check the spelling and the network, or give a folder or package:NAME"
        )


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
    return shape_of(SimpleNamespace(**read_config(folder)))


def load_encoder(folder: Path) -> Any:
    """The base encoder in fp32 (transformers 5 would keep the stored dtype), in eval mode."""
    import torch
    from transformers import AutoModel

    return AutoModel.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
    ).eval()


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a model folder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False, local_files_only=True)


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
    names = {"config.json", *_TOKENIZER_FILES}
    return sorted(file for file in folder.iterdir() if file.name in names or file.suffix == ".safetensors")
