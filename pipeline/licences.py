"""What a licence says of itself where it lies: package metadata, a README's head, dataset_info, LICENSE and SOURCE
files. Nothing is guessed: where nobody says, it is NOT_STATED.

These texts are other people's. They are read up to a limit, as text, and told on one line.
"""

import json
import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from pipeline.build import ROOT

LARGEST: Final = 65536  # characters of a file that are read
LONGEST: Final = 300  # characters that are told
README: Final = "README.md"
CODE: Final = "retort"
_LICENCE_FILE = re.compile(r"(licen[cs]e|copying)\b.*", re.IGNORECASE)
_SOURCE_FILE = re.compile(r"(source|terms)(\.\w+)?", re.IGNORECASE)
_SOURCE_LINE = re.compile(r"^[-*#\s]*licen[cs]es?\b[^:\n]*:\s*(\S.*)$", re.IGNORECASE | re.MULTILINE)
_HEAD = re.compile(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", re.DOTALL)
# What stands near the top of well-known licences, and their SPDX ids; the first that fits whole counts.
_TEXTS: Final = (
    ("Apache-2.0", ("apache license", "version 2.0")),
    ("MIT", ("permission is hereby granted, free of charge", "without warranty of any kind")),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "neither the name")),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms",)),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("CC-BY-SA-4.0", ("attribution-sharealike 4.0 international",)),
    ("CC-BY-NC-4.0", ("attribution-noncommercial 4.0 international",)),
    ("CC-BY-4.0", ("attribution 4.0 international",)),
    ("CC-BY-SA-3.0", ("attribution-sharealike 3.0",)),
    ("GPL-3.0-only", ("gnu general public license", "version 3")),
)
_CLASSIFIERS: Final = {
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "Python Software Foundation License": "PSF-2.0",
}


class Licence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`name` is an SPDX id where one is known, and otherwise the words that were found; `said_by` says where."""

    name: str
    said_by: str = ""


NOT_STATED: Final = Licence("not stated")


def code_licence() -> Licence:
    """Retort's own, which covers the copy of serving/ that a version carries."""
    told = package_licence(CODE)
    return told if told != NOT_STATED else folder_licence(ROOT)


def package_licence(name: str) -> Licence:
    """As an installed distribution's metadata says."""
    try:
        told: Any = metadata.metadata(name)
    except (metadata.PackageNotFoundError, ValueError):
        return NOT_STATED
    given = told.get("License-Expression") or _short(told.get("License"))
    given = given or _classified(told.get_all("Classifier") or ())
    return _licence(given, f"the metadata of {told.get('Name')} {told.get('Version')}")


def folder_licence(folder: Path) -> Licence:
    """As the first of these says that lies in the folder: README's head, dataset_info, LICENSE, SOURCE."""
    return next((found for found in _said_in(folder) if found != NOT_STATED), NOT_STATED)


def readme_licence(text: str) -> Licence:
    """As the head of a README of the hub says."""
    told = head_of(text)
    given = told.get("license_name") if told.get("license") == "other" else told.get("license")
    return _licence(_joined(given), README)


def readme_languages(text: str) -> tuple[str, ...]:
    """The languages that the head of a README names; () where it names none."""
    return tuple(map(one_line, _words(head_of(text).get("language"))))


def head_of(text: str) -> Mapping[str, Any]:
    """The YAML between the first two lines of dashes; empty where there is none, or it cannot be read."""
    match = _HEAD.match(text)
    try:
        told = yaml.safe_load(match[1]) if match else None
    except (yaml.YAMLError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def read_text(path: Path) -> str:
    """A file's beginning; "" where it is absent, or not ours to read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(LARGEST)
    except OSError:
        return ""


def one_line(text: str) -> str:
    """As it may be shown: white space folded, nothing that moves a cursor, and not too long."""
    told = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return told if len(told) <= LONGEST else f"{told[: LONGEST - 3]}..."


def _said_in(folder: Path) -> Iterator[Licence]:
    yield readme_licence(read_text(folder / README))
    for name in ("dataset_info.json", "dataset_infos.json"):
        yield _licence(_in_info(read_text(folder / name)), name)
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
    except OSError:
        return
    yield from (_recognised(read_text(folder / name), name) for name in names if _LICENCE_FILE.fullmatch(name))
    for name in filter(_SOURCE_FILE.fullmatch, names):
        match = _SOURCE_LINE.search(read_text(folder / name))
        yield _licence(match[1] if match else "", name)


def _recognised(text: str, name: str) -> Licence:
    """A LICENSE file by its words; one that is not known by its first line."""
    folded = " ".join(text.lower().split())
    known = next((spdx for spdx, words in _TEXTS if all(word in folded for word in words)), "")
    return _licence(known or next((line for line in text.splitlines() if line.strip()), ""), name)


def _in_info(text: str) -> str:
    """Of one data set, or of several configs by name."""
    try:
        told = json.loads(text)
    except ValueError:
        return ""
    infos = [told, *told.values()] if isinstance(told, dict) else []
    found = (info.get("license") for info in infos if isinstance(info, dict))
    return next((each for each in found if isinstance(each, str) and each.strip()), "")


def _short(text: str | None) -> str:
    """Many packages put the whole text where its name should be."""
    return text if text and len(text) <= 60 and "\n" not in text.strip() else ""


def _classified(classifiers: Any) -> str:
    names = [each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License :: ")]
    return " AND ".join(_CLASSIFIERS.get(name, name) for name in names)


def _joined(given: Any) -> str:
    return " AND ".join(map(_spdx, _words(given)))


def _words(given: Any) -> list[str]:
    """One or several; anything deeper is not for us, and may be made to have no end."""
    return [each for each in (given if isinstance(given, list) else [given]) if isinstance(each, str)]


def _licence(given: str, said_by: str) -> Licence:
    told = one_line(given)
    return Licence(_spdx(told), said_by) if told else NOT_STATED


def _spdx(name: str) -> str:
    """As SPDX writes it, where it knows it."""
    from cyclonedx.spdx import fixup_id

    return fixup_id(name) or name
