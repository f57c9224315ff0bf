"""What may be told to a server, whose readers see it all: settings, texts and files less the secrets in addresses."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from pipeline.origins import without_secrets
from serving import redaction

NOTE: Final = "secrets of addresses were removed from this copy; the sealed file is where the run was made"
_NOTES: Final = {".html": f"<!-- {NOTE} -->", ".xml": f"<!-- {NOTE} -->", ".svg": f"<!-- {NOTE} -->"}
_LINES: Final = (".jsonl", ".ndjson")
_TEXT: Final = (*_NOTES, *_LINES, ".json", ".md", ".txt", ".csv", ".tsv", ".log", ".yaml", ".yml")
_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_PIECE: Final = re.compile(r"[^\s\"'<>`]+")


def shareable(value: Any) -> Any:
    """Settings, however nested, without the secrets of the URLs in them."""
    return _each_text(value, without_secrets)


def shareable_file(path: Path) -> Path | bytes:
    """The file itself where no secret is in it, else what a copy of it may hold. What was sealed stays as it is."""
    if path.suffix not in _TEXT:
        return path
    text = path.read_bytes().decode(errors="surrogateescape")
    shown = _shown(text, path.suffix)
    return path if shown is None else shown.encode(errors="surrogateescape")


def _each_text(value: Any, told: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return told(value)
    if isinstance(value, Mapping):
        return {told(name): _each_text(each, told) for name, each in value.items()}
    return [_each_text(each, told) for each in value] if isinstance(value, list | tuple) else value


def _told(text: str) -> str:
    """An address loses all of its query, as in settings; a text that names some what may be a secret."""
    return without_secrets(text) if _ADDRESS.fullmatch(text) else _in_text(text)


def _in_text(text: str) -> str:
    return _PIECE.sub(lambda piece: redaction.without_secrets(piece[0]), text)


def _shown(text: str, kind: str) -> str | None:
    """The text less its secrets, and a note that says so; None where there are none."""
    if kind == ".json":
        return _shown_json(text)
    shown = "".join(_shown_line(line, kind) for line in text.splitlines(keepends=True))
    if shown == text:
        return None
    note = msgspec.json.encode({"redacted": NOTE}).decode() if kind in _LINES else _NOTES.get(kind, NOTE)
    return shown + ("" if shown.endswith("\n") else "\n") + note + "\n"


def _shown_line(line: str, kind: str) -> str:
    if kind not in _LINES:
        return _in_text(line)
    shown = _shown_json(line, note=False)
    return line if shown is None else shown.rstrip("\n") + "\n"


def _shown_json(text: str, *, note: bool = True) -> str | None:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeEncodeError):  # no JSON after all
        plain = _in_text(text)
        return None if plain == text else plain
    shown = _each_text(value, _told)
    if shown == value:
        return None
    if note and isinstance(shown, dict):
        shown = {"redacted": NOTE, **shown}
    return msgspec.json.format(msgspec.json.encode(shown), indent=2 if note else 0).decode() + "\n"
