"""Texts and labelled splits out of docstrings, so that nothing leaks from train to dev or test.

A module (a source file) belongs to one split by the hash of its path. A text found in modules of several splits stays
in train (then dev) only, and one found in several libraries has no one label and is left out of the labelled task.
Texts are the same when their plain words are (`words_key`). Distillation reads train modules only, less every text that
a held-out module has too.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.data.digests import unit_hash
from pipeline.data.docstrings import Module, read_library
from pipeline.data.progress import Progress
from pipeline.data.prose import is_english_sentence

DEV_SHARE = 0.08
TEST_SHARE = 0.22
NEUTRAL = "library"
# How people call these libraries, beside the names of the distribution and its packages.
ALIASES = {
    "databricks-sdk": ("databricks",),
    "huggingface-hub": ("hugging face", "huggingface", "hf"),
    "kubernetes": ("k8s",),
    "matplotlib": ("mpl", "plt", "pyplot"),
    "networkx": ("nx",),
    "numpy": ("np",),
    "pandas": ("pd",),
    "scikit-learn": ("scikit",),
    "sqlalchemy": ("sa",),
    "transformers": ("hugging face", "huggingface"),
}
LONG_ENOUGH_TO_BE_PART_OF_A_WORD = 5
PLAIN_WORD = re.compile(r"(?<![\w.])[A-Za-z][a-z]*(?!\w|\.\w)")
ENOUGH_PLAIN_WORDS = 4
Split = Literal["train", "dev", "test"]
RANK: dict[Split, int] = {"train": 0, "dev": 1, "test": 2}


@dataclass(frozen=True)
class Labelled:
    """One text, the library it comes from, and the package inside that library."""

    text: str
    label: str
    package: str = ""


def split_of(module_path: str) -> Split:
    """Which split a module's texts belong to."""
    place = unit_hash(module_path, salt="docstrings-split")
    if place < TEST_SHARE:
        return "test"
    return "dev" if place < TEST_SHARE + DEV_SHARE else "train"


def package_of(module_path: str) -> str:
    """`pandas.core` of `pandas/core/frame.py`, `joblib` of `joblib/memory.py`."""
    return ".".join(module_path.split("/")[:-1][:2]) or module_path.removesuffix(".py")


def words_key(text: str) -> str:
    """Two texts with the same plain words are the same text: identifiers and numbers make instances of a template."""
    plain = PLAIN_WORD.findall(text)
    return " ".join(plain if len(plain) >= ENOUGH_PLAIN_WORDS else re.findall(r"\w+", text)).lower()


def unlabelled_texts(
    libraries: Sequence[str], *, paragraphs: Literal["first", "all"], cache: Path, progress: Progress
) -> list[str]:
    """Each text of the train modules once, mixed by a hash so that any prefix is a fair sample."""
    held_out: set[str] = set()
    texts: dict[str, str] = {}
    for library in libraries:
        for module in read_library(library, cache=cache, progress=progress):
            if split_of(module.path) != "train":
                held_out.update(words_key(text) for text in _texts(module, "all"))
                continue
            for text in _texts(module, paragraphs):
                texts.setdefault(words_key(text), text)
    kept = (key for key in texts if key not in held_out)
    return [texts[key] for key in sorted(kept, key=lambda key: (unit_hash(key, salt="mix"), key))]


def _texts(module: Module, paragraphs: Literal["first", "all"]) -> tuple[str, ...]:
    return module.first + module.rest if paragraphs == "all" else module.first


def labelled_sets(
    libraries: Sequence[str], *, sizes: Mapping[Split, int], cache: Path, progress: Progress
) -> dict[Split, list[Labelled]]:
    """First paragraphs by split, the libraries' names masked, each split as balanced as its size allows."""
    modules = {library: read_library(library, cache=cache, progress=progress) for library in libraries}
    mask = NameMask({library: [m.path for m in found] for library, found in modules.items()})
    pool = _pool(modules, mask=mask)
    return {split: _balanced(pool[split], size=size) for split, size in sizes.items()}


def _pool(modules: Mapping[str, Sequence[Module]], *, mask: "NameMask") -> dict[Split, dict[str, Labelled]]:
    """Usable texts by split and key: each in one split, under one label."""
    home: dict[str, tuple[Split, Labelled]] = {}
    ambiguous: set[str] = set()
    for library, found in modules.items():
        for at, text in ((module.path, text) for module in found for text in module.first):
            split = split_of(at)
            example = Labelled(text=mask(text), label=library, package=package_of(at))
            key = words_key(example.text)
            known = home.get(key)
            if known is None or RANK[split] < RANK[known[0]]:
                home[key] = (split, example)
            if known is not None and known[1].label != library:
                ambiguous.add(key)
    usable = {k: v for k, v in home.items() if k not in ambiguous and is_english_sentence(v[1].text)}
    return {split: {key: e for key, (at, e) in usable.items() if at == split} for split in RANK}


def _balanced(pool: Mapping[str, Labelled], *, size: int) -> list[Labelled]:
    """At most `size` examples: all of the small classes, the large ones cut to one common height."""
    order = sorted(pool, key=lambda key: (unit_hash(key, salt="mix"), key))
    by_label: dict[str, list[str]] = {}
    for key in order:
        by_label.setdefault(pool[key].label, []).append(key)
    heights = fill_evenly({label: len(keys) for label, keys in by_label.items()}, size=size)
    chosen = {key for label, keys in by_label.items() for key in keys[: heights[label]]}
    return [pool[key] for key in order if key in chosen]


def fill_evenly(available: Mapping[str, int], *, size: int) -> dict[str, int]:
    """How many of each class sum to `size` (or to all there are) with the smallest possible imbalance."""
    heights: dict[str, int] = {}
    left = size
    for place, label in enumerate(sorted(available, key=lambda label: (available[label], label))):
        heights[label] = min(available[label], left // (len(available) - place))
        left -= heights[label]
    return heights


class NameMask:
    """Replaces every name of every library, in any case, with the dotted path or the word around it."""

    def __init__(self, paths: Mapping[str, Sequence[str]]) -> None:
        names = {name.lower() for library, found in paths.items() for name in _names(library, found)}
        by_length = sorted(names, key=lambda name: (-len(name), name))
        parts = "|".join(re.escape(n) for n in by_length if len(n) >= LONG_ENOUGH_TO_BE_PART_OF_A_WORD)
        words = "|".join(re.escape(n) for n in by_length if len(n) < LONG_ENOUGH_TO_BE_PART_OF_A_WORD)
        self._names = by_length
        within = rf"[\w.\-/]*(?:{parts or '(?!)'})(?:[\w\-/]|\.(?=\w))*"
        self._around = re.compile(rf"{within}|\b(?:{words or '(?!)'})\b(?:\.\w+)*", re.IGNORECASE)

    def __call__(self, text: str) -> str:
        lowered = text.lower()  # looking for bare names first is far cheaper than the pattern, and most texts have none
        return self._around.sub(NEUTRAL, text) if any(name in lowered for name in self._names) else text


def _names(library: str, paths: Sequence[str]) -> set[str]:
    packages = {path.split("/")[0].removesuffix(".py").removeprefix("_") for path in paths}
    spelled = {library, library.replace("-", "_"), library.replace("-", " "), library.replace("-", "")}
    return {name for name in spelled | packages | set(ALIASES.get(library.lower(), ())) if len(name) > 1}
