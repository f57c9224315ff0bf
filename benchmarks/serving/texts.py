"""Real texts for the requests, and of any length."""

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from benchmarks.lengths import exact_length_items, read_tokenizer, real_items
from serving.bundle import Bundle
from serving.errors import BadRequest

FIELDS = ("text", "sentence")
MOST = 500  # different ones


def read_texts(path: Path, *, seed: int = 0) -> tuple[str, ...]:
    """Up to MOST texts drawn from a .jsonl (.gz) with a field `text` or `sentence`, or the lines of a text file.

    Raises:
        BadRequest: there is none.
    """
    try:
        found = [(text,) for text in _texts(path) if text.strip()]
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise BadRequest(f"--texts {path} cannot be read: {error}") from error
    if not found:
        raise BadRequest(f"--texts {path} holds no text: give lines, or JSON with a field {' or '.join(FIELDS)}")
    return tuple(text for (text,) in real_items(found, most=MOST, seed=seed))


def texts_of(bundle: Bundle, path: Path | None) -> tuple[str, ...]:
    """Of the file; where none is given, those that the bundle carries along."""
    return tuple(item[0] for item in bundle.golden.items) if path is None else read_texts(path)


def of_length(texts: Sequence[str], bundle: Bundle, *, tokens: int) -> tuple[str, ...]:
    """Texts of exactly so many tokens, made of these."""
    enough = [(text,) for text in texts] * 8
    return tuple(text for (text,) in exact_length_items(enough, read_tokenizer(bundle.path), length=tokens, most=MOST))


def _texts(path: Path) -> Iterator[str]:
    written = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for line in written.decode("utf-8").splitlines():
        yield _field(line) if ".jsonl" in path.suffixes else line


def _field(line: str) -> str:
    told = msgspec.json.decode(line, type=dict[str, object])
    return str(next((told[field] for field in FIELDS if field in told), ""))
