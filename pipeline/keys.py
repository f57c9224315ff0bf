"""What a step's artifact is called: a hash of all that decides what it holds, and of nothing else."""

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from pipeline.graph import STAGES, Step
from pipeline.records import Record

LOCKED = ("torch", "transformers", "tokenizers", "onnx", "onnxruntime")
ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("pipeline", "serving", "benchmarks")
NATIVE = (".cpp", ".h")
_TYPES_ONLY = re.compile(r"^if TYPE_CHECKING:\n(?:[ \t]+.*\n|\n)+", re.MULTILINE)
_IMPORT = re.compile(r"^[ \t]*from ((?:pipeline|serving|benchmarks)[\w.]*) import (\([^)]*\)|.*)$", re.MULTILINE)


def step_key(step: Step, digests: Mapping[str, str]) -> str:
    """The name of what a step would make: its stage and a hash of stage, config, inputs, code, versions and place."""
    stage = STAGES[step.stage]
    asked = {
        "stage": step.stage,
        "config": canonical(step.config),
        "inputs": sorted(digests.items()),
        "code": code_identity(step.modules),
        "versions": versions(step.stage),
        "place": stage.place(step.config) if stage.place else None,
    }
    text = msgspec.json.encode(asked, order="deterministic")
    return f"{step.stage}-{hashlib.sha256(text).hexdigest()[:32]}"


def canonical(config: Record) -> Any:
    """A config as plain values in one form, whatever order or shorthand it was written in."""
    return config.model_dump(mode="json")


@cache
def versions(stage: str) -> dict[str, str]:
    """The installed versions that decide what a stage computes: those that all share, and its own. An extra that is
    installed later must not retrain."""
    return {name: _version(name) for name in (*LOCKED, *STAGES[stage].libraries)}


@cache
def code_identity(modules: tuple[str, ...]) -> str:
    """Hash of these modules and all of ours that they import, directly or not, and of what is compiled beside them. A
    README change must not retrain."""
    seen: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        path = _source_of(module) if module.partition(".")[0] in ROOMS else None
        if module in seen or path is None:
            continue
        seen[module] = hashlib.sha256(path.read_bytes()).hexdigest()
        seen |= {str(file.relative_to(ROOT)): hashlib.sha256(file.read_bytes()).hexdigest() for file in _native(path)}
        waiting.extend(_imports(path))
    return hashlib.sha256(repr(sorted(seen.items())).encode()).hexdigest()


def _native(path: Path) -> list[Path]:
    """C++ in a module's folder, which one of its modules compiles."""
    return [file for file in path.parent.iterdir() if file.suffix in NATIVE]


@cache
def _imports(path: Path) -> tuple[str, ...]:
    """Modules of ours that a file imports, at its top or inside a function, but not for its types alone.

    By pattern: `plan` has no time to parse.
    """
    found: list[str] = []
    for module, names in _IMPORT.findall(_TYPES_ONLY.sub("", path.read_text(encoding="utf-8"))):
        found += [module, *(f"{module}.{name}" for name in re.findall(r"\w+", names))]
    return tuple(found)


def _source_of(module: str) -> Path | None:
    base = ROOT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
