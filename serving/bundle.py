"""The contract between training and serving: a folder whose core is sealed by one digest.

    model.onnx tokenizer.json config.json [tokenizer_config.json special_tokens_map.json]   what computes
    serving.yaml    ServingSpec: task, labels, thresholds, limits, buckets, runtime, CPU features; no thread counts
    golden.json     Golden: inputs with the raw outputs that were measured
    manifest.sha256 one line per core file, "<sha256>  <name>", sorted by name; its own sha256 is the bundle's digest
    receipts/ tuning@target.json cards    come later, beside the core, and are not covered

The raw output of one item is (C,), or (L, C) for token-classification: L tokens, special ones included, C `outputs`.

Example: `bundle = read_bundle(Path("student-int8")); bundle.spec.labels, bundle.digest`.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from serving.errors import BadArtifact
from serving.long_texts import LongTexts, Truncate, Windows
from serving.spec_rules import ONNX_CPU as ONNX_CPU
from serving.spec_rules import spec_faults

Item = tuple[str, ...]

SCHEMA = 4
"""Older ones are read too: 1 had neither thresholds nor dimensions, 2 no runtime, 3 cut long texts and knew no
`aggregation`; what they lack is as its default says."""
MANIFEST = "manifest.sha256"
SPEC = "serving.yaml"
GOLDEN = "golden.json"
REQUIRED = ("config.json", GOLDEN, "model.onnx", SPEC, "tokenizer.json")
OPTIONAL = ("special_tokens_map.json", "tokenizer_config.json")
_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")

Positive = Annotated[int, msgspec.Meta(ge=1)]
Natural = Annotated[int, msgspec.Meta(ge=0)]
GraphInput = Literal["input_ids", "attention_mask", "token_type_ids"]
TaskKind = Literal["classification", "multi-label", "regression", "token-classification", "embedding"]
Aggregation = Literal["first", "max", "average"]
_T = TypeVar("_T")


class ServingSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """serving.yaml: what a server must know of a graph before it loads it."""

    schema: Positive = SCHEMA
    name: Annotated[str, msgspec.Meta(min_length=1)]
    task: TaskKind
    labels: tuple[str, ...]
    thresholds: tuple[float, ...] = ()  # multi-label: a label is given where its probability reaches its threshold
    refuse_below: float | None = None  # classification: an answer whose best probability is lower is refused
    dimensions: Positive | None = None  # embedding: width of the vector
    texts_per_item: Annotated[int, msgspec.Meta(ge=1, le=2)]
    max_length: Positive
    long_texts: LongTexts = Truncate()
    aggregation: Aggregation = "first"  # token-classification: how a word's tokens tell its tag
    pad_id: Natural
    graph_inputs: tuple[GraphInput, ...]
    buckets: tuple[Positive, ...]
    runtime: Literal["onnxruntime", "openvino"] = "onnxruntime"
    inference_precision: Literal["fp32", "bf16"] = "fp32"  # of what the graph leaves in floating point
    providers: tuple[str, ...] = ONNX_CPU  # onnxruntime's
    cpu_features: tuple[str, ...] = ()
    parameters: Natural
    max_items: Positive = 64
    max_characters: Positive = 20_000  # of one text

    @property
    def outputs(self) -> int:
        """Width of the raw output: one number per label, one per dimension, or one for regression."""
        return len(self.labels) or self.dimensions or 1

    @property
    def reach(self) -> int:
        """The most tokens of an item that an answer can depend on."""
        return self.max_length * (self.long_texts.max_windows if isinstance(self.long_texts, Windows) else 1)

    @property
    def per_token(self) -> bool:
        """Whether every token has outputs of its own."""
        return self.task == "token-classification"

    def __post_init__(self) -> None:
        for fault in spec_faults(self):
            raise ValueError(fault)


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """golden.json: real inputs, the raw outputs they gave when measured (a token item's (L, C) flattened, row by row),
    and how far an answer may be off (absolute)."""

    items: list[list[str]]
    logits: list[list[float]]
    tolerance: Annotated[float, msgspec.Meta(ge=0)]


@dataclass(frozen=True)
class Bundle:
    """A folder whose every core file has been checked against its digest."""

    path: Path
    spec: ServingSpec
    golden: Golden
    digest: str


def seal_core(path: Path, *, spec: ServingSpec, golden: Golden) -> str:
    """Write serving.yaml, golden.json and, last, the manifest over the core in `path`; return the bundle's digest.

    What was written is read back, so that a bundle this half would refuse is never sealed."""
    (path / SPEC).write_bytes(msgspec.yaml.encode(spec))
    (path / GOLDEN).write_bytes(msgspec.json.format(msgspec.json.encode(golden)))
    missing = [name for name in REQUIRED if not (path / name).is_file()]
    if missing:
        raise BadArtifact(f"{path}: cannot seal a bundle without {', '.join(missing)}; write them first")
    names = sorted(name for name in (*REQUIRED, *OPTIONAL) if (path / name).is_file())
    lines = (f"{_file_digest(path / name)}  {name}\n" for name in names)
    (path / MANIFEST).write_text("".join(lines), encoding="utf-8")
    return read_bundle(path).digest


def read_bundle(path: Path) -> Bundle:
    """Verify every core file and read the contract.

    Raises:
        BadArtifact: not a bundle, a core file missing, altered or unlisted, or a contract this version cannot read.
    """
    manifest = _read_manifest(path)
    for name, recorded in manifest.items():
        if not (path / name).is_file():
            raise BadArtifact(f"{path}: {name} is missing; fetch or export the bundle again")
        if _file_digest(path / name) != recorded:
            raise BadArtifact(f"{path}: {name} was altered after it was sealed; fetch or export the bundle again")
    spec = _read_spec(path / SPEC)
    golden = _decode(path / GOLDEN, msgspec.json.Decoder(Golden).decode)
    for fault in _golden_faults(golden, spec=spec):
        raise BadArtifact(f"{path / GOLDEN}: {fault}")
    return Bundle(path=path, spec=spec, golden=golden, digest=_file_digest(path / MANIFEST))


def _read_manifest(path: Path) -> dict[str, str]:
    if not (path / MANIFEST).is_file():
        raise BadArtifact(f"{path} is not a bundle: it has no {MANIFEST}; name a folder that export or quantize sealed")
    lines = _read(path / MANIFEST).decode("utf-8", errors="replace").splitlines()
    matches = [_LINE.fullmatch(line) for line in lines]
    entries = [(match[2], match[1]) for match in matches if match]
    names = [name for name, _ in entries]
    present = {name for name in OPTIONAL if (path / name).is_file()}
    if len(entries) != len(lines) or names != sorted(set(names)) or set(names) - set(OPTIONAL) != set(REQUIRED):
        raise BadArtifact(f"{path / MANIFEST} does not list exactly the core files {', '.join(REQUIRED)}")
    if unlisted := present - set(names):
        raise BadArtifact(f"{path}: {', '.join(sorted(unlisted))} came after the seal; remove it or export again")
    return dict(entries)


def _read_spec(path: Path) -> ServingSpec:
    found = _decode(path, lambda raw: msgspec.yaml.decode(raw, type=dict[str, object])).get("schema")
    if isinstance(found, int) and found > SCHEMA:
        raise BadArtifact(
            f"{path}: schema {found} is newer than {SCHEMA}, the newest this version reads; update Retort"
        )
    return _decode(path, lambda raw: msgspec.yaml.decode(raw, type=ServingSpec))


def _golden_faults(golden: Golden, *, spec: ServingSpec) -> list[str]:
    faults = []
    if not golden.items or len(golden.items) != len(golden.logits):
        faults.append(f"{len(golden.items)} items and {len(golden.logits)} rows of logits; needs one row per item")
    if any(len(item) != spec.texts_per_item for item in golden.items):
        faults.append(f"an item has not {spec.texts_per_item} text(s), as {SPEC} says")
    if spec.per_token and any(not row or len(row) % spec.outputs for row in golden.logits):
        faults.append(f"a row has not {spec.outputs} logits for each of its tokens, as {SPEC} says")
    if not spec.per_token and any(len(row) != spec.outputs for row in golden.logits):
        faults.append(f"a row has not {spec.outputs} logit(s), as {SPEC} says")
    return faults


def _decode(path: Path, decode: Callable[[bytes], _T]) -> _T:
    try:
        return decode(_read(path))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadArtifact(f"{path}: {error}") from error


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadArtifact(f"{path} cannot be read: {error.strerror}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadArtifact(f"{path} cannot be read: {error.strerror}") from error
