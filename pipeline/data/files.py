"""Local files and fsspec URLs: which they are, what format they have, how they are read."""

import glob
import importlib.util
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pipeline.data.digests import file_digests, json_digest
from pipeline.data.reading import BARS_FROM_BYTES, dataset_table, datasets_cache, quiet_datasets, reading
from pipeline.data.table import Table, missing_column
from pipeline.errors import BadRequest, Transient

Format = Literal["by-suffix", "json", "csv", "tsv", "parquet", "text"]
SUFFIXES = {
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "text",
    ".text": "text",
}
COMPRESSIONS = (".gz", ".xz", ".bz2", ".zst")
# "NA" and "null" are words; and an unbalanced quote in a tsv must not swallow the rows after it.
BUILDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "json": ("json", {}),
    "csv": ("csv", {"keep_default_na": False}),
    "tsv": ("csv", {"keep_default_na": False, "sep": "\t", "quoting": 3}),
    "parquet": ("parquet", {}),
    "text": ("text", {}),
}


def expand(patterns: tuple[str, ...], *, what: str) -> tuple[str, ...]:
    """Paths, globs and URLs as absolute files in a fixed order; one that matches nothing is refused."""
    return tuple(file for pattern in patterns for file in _matches(pattern, what=what))


def _matches(pattern: str, *, what: str) -> list[str]:
    if "://" in pattern and not pattern.startswith("file://"):
        return _remote_matches(pattern, what=what)
    path = Path(pattern.removeprefix("file://")).expanduser().absolute()
    found = [path] if path.exists() else sorted(Path(p) for p in glob.glob(str(path), recursive=True))  # noqa: PTH207
    files = [str(p) for p in found if p.is_file()]
    if not files:
        raise BadRequest(f"{what} names {pattern}, and no file is there (looked at {path})")
    return files


def _remote_matches(url: str, *, what: str) -> list[str]:
    fs, path = _file_system(url, what=what)
    try:
        found = sorted(fs.glob(path)) if glob.has_magic(path) else [path] * bool(fs.exists(path))
    except OSError as error:
        raise Transient(f"{what} names {url}, which cannot be reached ({error}): try again later") from error
    if not found:
        raise BadRequest(f"{what} names {url}, and no file is there")
    return [str(fs.unstrip_protocol(name)) for name in found]


def _file_system(url: str, *, what: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise BadRequest(f"{what} names {url}, which fsspec cannot open: {error}") from error
    return fs, str(path)


def format_of(files: tuple[str, ...], *, declared: Format, what: str) -> str:
    """The one format of these files: as declared, or by their suffix without the compression's."""
    for file in files:
        if file.endswith(".zst") and importlib.util.find_spec("zstandard") is None:
            raise BadRequest(f"{what} is {file}, and the package zstandard is not installed: recompress it to gz or xz")
    if declared != "by-suffix":
        return declared
    found = {_suffix(file) for file in files}
    if unknown := sorted(found - SUFFIXES.keys()):
        known = ", ".join(SUFFIXES)
        raise BadRequest(f"{what} has files ending in '{unknown[0]}': give `format`, or one of {known}")
    formats = sorted({SUFFIXES[suffix] for suffix in found})
    if len(formats) > 1:
        raise BadRequest(f"{what} mixes the formats {', '.join(formats)}: name files of one format")
    return formats[0]


def _suffix(file: str) -> str:
    name = PurePosixPath(file)
    return (name.with_suffix("") if name.suffix in COMPRESSIONS else name).suffix


def files_identity(files: tuple[str, ...], *, format_name: str, cache: Path) -> str:
    """Local files by content, remote ones by what their store says of them (ETag, size, time)."""
    local = [Path(file) for file in files if "://" not in file]
    contents = iter(file_digests(local, cache=cache))
    return json_digest([format_name, [_remote_key(file) if "://" in file else next(contents) for file in files]])


def _remote_key(url: str) -> str:
    fs, path = _file_system(url, what="data")
    try:
        return str(fs.ukey(path))
    except OSError as error:
        raise Transient(f"{url} cannot be reached ({error}): try again later") from error


def load_files(files: tuple[str, ...], *, format_name: str, where: str, cache: Path) -> Table:
    """The files as one table, through `datasets` and its cache."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    builder, options = BUILDERS[format_name]
    size = sum(Path(file).stat().st_size for file in files if "://" not in file)
    with quiet_datasets(bars=size >= BARS_FROM_BYTES), reading(where, also=(DatasetsError,)):
        split = {"train": list(files)}
        dataset = load_dataset(builder, data_files=split, split="train", cache_dir=datasets_cache(cache), **options)
    return dataset_table(dataset, where=where)


def stream_files(files: tuple[str, ...], *, format_name: str, column: str, where: str) -> Iterator[object]:
    """A column's values, read only as far as they are asked for."""
    if format_name == "text":
        return _stream_lines(files, where=where)
    return _stream_rows(files, format_name=format_name, column=column, where=where)


def _stream_lines(files: tuple[str, ...], *, where: str) -> Iterator[str]:
    import fsspec

    for file in files:
        with reading(where), fsspec.open(file, "rt", compression="infer", encoding="utf-8") as lines:
            for line in lines:
                yield line.rstrip("\r\n")


def _stream_rows(files: tuple[str, ...], *, format_name: str, column: str, where: str) -> Iterator[object]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    builder, options = BUILDERS[format_name]
    with reading(where, also=(DatasetsError,)):
        with quiet_datasets(bars=False):
            rows = load_dataset(builder, data_files={"train": list(files)}, split="train", streaming=True, **options)
        for row in rows:
            if column not in row:
                raise missing_column(column, where=where, columns=tuple(row))
            yield row[column]
