"""What the page shows of the model in service beside its answers: what it reads, its card, and the figures of its
receipts. A registered version holds its bundle in a folder of its own, beside its card; a bundle alone has neither."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec

from serving.bundle import ServingSpec
from serving.models import Live
from serving.schema import ROUTES
from serving.signatures import FILES
from serving.verifying import BUNDLE

CARD: Final = "README.md"
RECEIPTS: Final = "receipts"
LARGEST_BYTES: Final = 32 * 2**20  # a receipt has every sample that was measured
LARGEST_CARD_BYTES: Final = 2**18
_ALONE: Final = "A bundle from a folder is served: a card and receipts come with a version that is registered."
_GONE: Final = "Its folder is gone from the disk: what is in memory answers on, its card and receipts cannot be read."
_UNREAD: Final[dict[str, object]] = {
    "size_bytes": None,
    "card": None,
    "receipts": [],
    "verdict": None,
    "evidence": _GONE,
}


class _Machine(msgspec.Struct, frozen=True):
    cpu_model: str
    cores: int


class _How(msgspec.Struct, frozen=True):
    threads: int


class _Session(msgspec.Struct, frozen=True):
    """What is read of latency@TARGET.json; benchmarks.receipt has the whole."""

    started: str
    machine: _Machine
    how: _How
    findings: list[msgspec.Raw] = []


class _Verdict(msgspec.Struct, frozen=True):
    """What is read of verdict@here.json; pipeline.gates has the whole."""

    verdict: str
    reason: str


def model_of(live: Live) -> dict[str, object]:
    """JSON-able; reads files. `evidence` says why there is no card where there is none; `size_bytes` is None where the
    folder is gone."""
    bundle = live.engine.bundle
    return {
        "model": live.identity(),
        "spec": {**spec_of(bundle.spec), "route": ROUTES[bundle.spec.task]},
        "setting": live.setting.told(),
        **_told_beside(live),
    }


def spec_of(spec: ServingSpec) -> dict[str, Any]:
    """What the contract says, and how long texts fare in words."""
    told: dict[str, Any] = msgspec.to_builtins(spec)
    return {**told, "long_texts": spec.long_texts.told(reads=spec.max_length)}


def _told_beside(live: Live) -> dict[str, object]:
    """A cache that is emptied to make room takes nothing from a model in memory but this."""
    bundle = live.engine.bundle
    try:
        return _beside(bundle.path, bundle.digest, bundle.spec.name)
    except OSError:
        return _UNREAD


@lru_cache(maxsize=4)
def _beside(path: Path, digest: str, variant: str) -> dict[str, object]:  # noqa: ARG001 - other bytes, other receipts
    """Read once a version: none of it changes under a server. OSError, which is not remembered, where it is gone."""
    size_bytes = (path / "model.onnx").stat().st_size
    whole = path.name == BUNDLE and (path.parent / FILES).is_file()
    card = _read(path.parent / CARD, most=LARGEST_CARD_BYTES) if whole else None
    receipts = [_receipt(file, variant) for file in sorted((path / RECEIPTS).glob("quality@*.json"))]
    return {
        "size_bytes": size_bytes,
        "card": None if card is None else card.decode("utf-8", errors="replace"),
        "receipts": [each for each in receipts if each is not None],
        "verdict": msgspec.to_builtins(
            _decoded(path / RECEIPTS / "verdict@here.json", msgspec.json.Decoder(_Verdict).decode)
        ),
        "evidence": None if whole else _ALONE,
    }


def _receipt(file: Path, variant: str) -> dict[str, object] | None:
    """The figures of this variant on one target, and where they are from."""
    target = file.stem.partition("@")[2]
    every = _decoded(file, msgspec.json.Decoder(dict[str, dict[str, float]]).decode)
    if every is None or variant not in every:
        return None
    session = _decoded(file.with_name(f"latency@{target}.json"), msgspec.json.Decoder(_Session).decode)
    return {
        "target": target,
        "figures": list(_figures(every[variant])),
        "started": session.started if session else None,
        "machine": f"{session.machine.cpu_model}, {session.machine.cores} cores" if session else None,
        "threads": session.how.threads if session else None,
        "noisy": bool(session and session.findings),
    }


def _figures(named: dict[str, float]) -> Iterator[dict[str, object]]:
    """Each with its interval; without the ratios to other variants."""
    for name, value in named.items():
        if "/" in name or name.endswith(("_low", "_high")):
            continue
        yield {"name": name, "value": value, "low": named.get(f"{name}_low"), "high": named.get(f"{name}_high")}


def _decoded(path: Path, decode: Callable[[bytes], Any]) -> Any:
    """None where it is not there, or is none of ours: the page shows what there is."""
    raw = _read(path, most=LARGEST_BYTES)
    try:
        return None if raw is None else decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _read(path: Path, *, most: int) -> bytes | None:
    try:
        return path.read_bytes() if path.stat().st_size <= most else None
    except OSError:
        return None
